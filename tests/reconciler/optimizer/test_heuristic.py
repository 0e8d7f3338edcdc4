from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

import pytest

from reconciler.optimizer.heuristic import Heuristic
from reconciler.optimizer.task import Fixed, Goal, Goals, Infeasible, Limits, Pool, Task
from schemas.architecture import Architecture, Precision


def test_the_same_task_is_decided_the_same_way(chat_task: Task) -> None:
    assert Heuristic().decide(chat_task) == Heuristic().decide(chat_task)


def test_what_is_set_is_never_changed(chat_task: Task) -> None:
    fixed = Fixed(
        tensor=2, pipeline=2, data=1, expert=1, max_batch=7, context=3000, replicas=2
    )
    decision = Heuristic().decide(replace(chat_task, fixed=fixed))
    chosen = decision.chosen
    found = (chosen.tensor, chosen.pipeline, chosen.data, chosen.expert)
    assert found == (2, 2, 1, 1)
    assert (chosen.max_batch, decision.context, chosen.replicas) == (7, 3000, 2)


def test_a_model_that_needs_two_gpus_gets_them(large_task: Task) -> None:
    chosen = Heuristic().decide(replace(large_task, goals=Goals())).chosen
    assert chosen.gpus >= 2


def test_heads_that_do_not_divide_are_named(chat_task: Task) -> None:
    with pytest.raises(Infeasible) as caught:
        Heuristic().decide(replace(chat_task, fixed=Fixed(tensor=3)))
    assert "tensor 3" in caught.value.binding


def test_too_little_memory_binds_and_says_what_would_do(
    large_task: Task, gpu_pool: Callable[..., Pool]
) -> None:
    task = replace(large_task, pools=(gpu_pool("H100", per_node=1),), goals=Goals())
    with pytest.raises(Infeasible) as caught:
        Heuristic().decide(task)
    assert caught.value.binding in {"memory", "devices"}
    assert len(caught.value.nearest) == 3


def test_an_unreachable_latency_binds_with_three_alternatives(chat_task: Task) -> None:
    goals = Goals(tpot_ms=Goal(value=0.01, percentile=95))
    with pytest.raises(Infeasible) as caught:
        Heuristic().decide(replace(chat_task, goals=goals))
    assert caught.value.binding == "tpot p95 <= 0.01 ms"
    assert len(caught.value.nearest) == 3
    assert all("missed by" in why for _, why in caught.value.nearest)


def test_a_soft_target_never_makes_a_task_infeasible(chat_task: Task) -> None:
    goals = Goals(tpot_ms=Goal(value=0.01, percentile=95, hard=False))
    assert Heuristic().decide(replace(chat_task, goals=goals)).chosen.replicas >= 1


def test_a_tighter_target_never_costs_less(chat_task: Task) -> None:
    gpus = []
    for target in (400.0, 100.0, 60.0, 30.0):
        goals = Goals(tpot_ms=Goal(value=target))
        gpus.append(Heuristic().decide(replace(chat_task, goals=goals)).chosen.gpus)
    assert gpus == sorted(gpus)


def test_the_budget_of_gpus_is_kept(chat_task: Task) -> None:
    task = replace(chat_task, objective="throughput", limits=Limits(max_gpus=3))
    assert Heuristic().decide(task).chosen.gpus <= 3


def test_the_cheaper_of_two_pools_is_taken(
    chat_task: Task, gpu_pool: Callable[..., Pool]
) -> None:
    dear, cheap = (
        gpu_pool("H100", usd_per_h=p, name=n)
        for p, n in ((9.0, "dear"), (3.0, "cheap"))
    )
    chosen = Heuristic().decide(replace(chat_task, pools=(dear, cheap))).chosen
    assert chosen.node_pool == "cheap"


def test_under_an_autoscaler_the_range_is_kept(chat_task: Task) -> None:
    task = replace(chat_task, autoscaled=(2, 3), objective="throughput")
    assert Heuristic().decide(task).chosen.replicas in {2, 3}


def test_a_binding_constraint_is_the_one_that_stops_something_better(
    chat_task: Task,
) -> None:
    goals = Goals(tpot_ms=Goal(value=10.0), ttft_ms=Goal(value=1e6))
    decision = Heuristic().decide(replace(chat_task, goals=goals))
    assert decision.binding == "tpot <= 10 ms"


def test_three_runners_up_differ_in_their_layout(chat_task: Task) -> None:
    decision = Heuristic().decide(chat_task)
    shapes = {
        (c.tensor, c.pipeline, c.data, c.expert, c.replicas)
        for c in (decision.chosen, *decision.alternatives)
    }
    assert len(shapes) == 4


@pytest.mark.slow
def test_a_decision_takes_milliseconds(
    chat_task: Task, latent_671b: Architecture, gpu_pool: Callable[..., Pool]
) -> None:
    pools = tuple(gpu_pool(g, nodes=4) for g in ("H100", "H200", "B200", "A100"))
    task = replace(
        chat_task,
        architecture=latent_671b,
        precisions=(Precision.FP8,),
        pools=pools,
        concurrency=512,
        goals=Goals(),
    )
    taken = []
    for _ in range(20):
        start = time.process_time()
        Heuristic().decide(task)
        taken.append(time.process_time() - start)
    # The promise is 50 ms at p99 on an idle core. Processor time, so that what
    # else runs here does not count; shared caches still slow it, hence twice that.
    assert sorted(taken)[len(taken) // 2] < 0.1
