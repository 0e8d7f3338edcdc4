from __future__ import annotations

from dataclasses import replace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from reconciler.optimizer.heuristic import Heuristic
from reconciler.optimizer.layouts import Layouts
from reconciler.optimizer.options import evaluate
from reconciler.optimizer.prediction import AnalyticPredictor, analyse
from reconciler.optimizer.serving import Serving
from reconciler.optimizer.task import Task


def served(task: Task, *, concurrency: int, layouts: Layouts | None = None) -> Serving:
    layouts = layouts or Layouts.one(max_batch=1024)
    return analyse(
        task,
        task.pools[0],
        task.precisions[0],
        layouts,
        concurrency=np.full(len(layouts), float(concurrency)),
    )


@given(tokens=st.integers(16, 8000), more=st.integers(1, 8000))
@settings(deadline=None, max_examples=40)
def test_more_prompt_tokens_never_get_cheaper(
    chat_task: Task, tokens: int, more: int
) -> None:
    short = served(replace(chat_task, input_tokens=tokens), concurrency=8)
    longer = served(replace(chat_task, input_tokens=tokens + more), concurrency=8)
    assert longer.prefill_ms[0] >= short.prefill_ms[0] * 0.999


@given(users=st.integers(1, 400), more=st.integers(1, 400))
@settings(deadline=None, max_examples=40)
def test_more_users_never_wait_less(chat_task: Task, users: int, more: int) -> None:
    few, many = (served(chat_task, concurrency=n) for n in (users, users + more))
    assert many.ttft_ms[0] >= few.ttft_ms[0] * 0.97
    assert many.tpot_ms[0] >= few.tpot_ms[0] * 0.97


def test_requests_beyond_the_batch_wait(chat_task: Task) -> None:
    layouts = Layouts.of([(1, 1, 1, 1, 8, 8192), (1, 1, 1, 1, 64, 8192)])
    found = served(chat_task, concurrency=64, layouts=layouts)
    assert found.waiting_ms[0] > 10 * found.prefill_ms[0]
    assert found.waiting_ms[1] == 0


def test_doubling_replicas_doubles_throughput(chat_task: Task) -> None:
    rates = []
    for factor in (1, 2):
        task = replace(chat_task, concurrency=32 * factor)
        options = evaluate(
            task,
            AnalyticPredictor(),
            pool=0,
            precision=0,
            layouts=Layouts.one(max_batch=32),
            replicas=np.array([float(factor)]),
        )
        rates.append(options.tokens_per_s[0])
    assert rates[1] == 2 * rates[0]


def test_a_pipeline_costs_latency_and_a_tensor_saves_it(large_task: Task) -> None:
    """The sign and the order that ANL measured on A100: tensor, both, pipeline."""
    layouts = Layouts.of(
        [(8, 1, 1, 1, 4, 8192), (4, 2, 1, 1, 4, 8192), (2, 4, 1, 1, 4, 8192)]
    )
    found = served(large_task, concurrency=4, layouts=layouts).tpot_ms
    assert list(found) == sorted(found)


def test_units_are_milliseconds(large_task: Task) -> None:
    """70B in bf16 over four H100: 35 GB a rank at 3.35 TB/s take over 10 ms."""
    found = served(
        large_task, concurrency=1, layouts=Layouts.one(tensor=4, max_batch=1)
    )
    assert 10 < found.tpot_ms[0] < 25


def test_a_decision_keeps_its_promise_in_the_same_units(chat_task: Task) -> None:
    chosen = Heuristic().decide(chat_task).chosen
    assert chosen.prediction["ttft_hi"] > chosen.prediction["ttft_ms"] > 1
