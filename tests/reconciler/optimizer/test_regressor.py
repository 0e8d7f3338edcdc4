from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from reconciler.optimizer import genetic
from reconciler.optimizer.choose import feasible, objective
from reconciler.optimizer.options import Options
from reconciler.optimizer.regressor import LISTED, Regressor
from reconciler.optimizer.space import space_of
from reconciler.optimizer.task import Goal, Goals, Infeasible, Pool, Task


@pytest.fixture(scope="module")
def regressor() -> Regressor:
    return Regressor()


@pytest.fixture(scope="module")
def wide_task(large_task: Task, gpu_pool: Callable[..., Pool]) -> Task:
    """Three kinds of GPU and hundreds of them: too much to list."""
    pools = tuple(
        gpu_pool(gpu, nodes=8, usd_per_h=price)
        for gpu, price in (("H100", 4.0), ("H200", 5.0), ("B200", 8.0))
    )
    goals = Goals(ttft_ms=Goal(value=3000, percentile=95), tpot_ms=Goal(value=80))
    return replace(large_task, pools=pools, concurrency=700, goals=goals)


def best(options: Options) -> float:
    return float(objective(options, "cost")[feasible(options)].min())


def test_the_same_task_and_seed_give_the_same_decision(
    regressor: Regressor, chat_task: Task
) -> None:
    assert regressor.decide(chat_task) == Regressor().decide(chat_task)


def test_the_bound_and_not_the_mean_meets_a_hard_target(
    regressor: Regressor, chat_task: Task
) -> None:
    task = replace(chat_task, goals=Goals(tpot_ms=Goal(value=20)))
    options = regressor.consider(task)
    assert options is not None
    good = feasible(options)
    assert (options.prediction.tpot_bound[good] <= 20).all()
    assert (options.prediction.tpot_bound > options.prediction.tpot_ms).all()


def test_a_decision_rests_on_measurements_it_can_count(
    regressor: Regressor, chat_task: Task
) -> None:
    assert regressor.decide(chat_task).measured_points > 0


def test_a_space_too_large_to_list_is_bred(wide_task: Task) -> None:
    assert space_of(wide_task).size > LISTED


@pytest.mark.slow
def test_breeding_finds_what_listing_finds(
    regressor: Regressor, wide_task: Task
) -> None:
    space = space_of(wide_task)
    bred = genetic.search(space, regressor.predictor, seed=0)
    listed = space.options(space.sensible(space.everything()), regressor.predictor)
    assert best(bred) <= best(listed) * 1.01


@pytest.mark.slow
def test_breeding_is_seeded(regressor: Regressor, wide_task: Task) -> None:
    space = space_of(wide_task)
    first, second = (
        genetic.search(space, regressor.predictor, seed=3) for _ in range(2)
    )
    assert np.array_equal(first.tokens_per_s, second.tokens_per_s)


def test_no_constraint_is_broken(regressor: Regressor, chat_task: Task) -> None:
    decision = regressor.decide(chat_task)
    assert decision.memory_gib["needed"] <= decision.memory_gib["available"]
    assert decision.chosen.gpus <= chat_task.pools[0].devices


def test_nothing_that_fits_is_an_error_with_alternatives(
    regressor: Regressor, large_task: Task, gpu_pool: Callable[..., Pool]
) -> None:
    task = replace(large_task, pools=(gpu_pool("T4", per_node=1),))
    with pytest.raises(Infeasible) as caught:
        regressor.decide(task)
    assert "nearest: " in caught.value.alternatives
