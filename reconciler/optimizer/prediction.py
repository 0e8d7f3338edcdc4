"""Prediction: latency and throughput of layouts with their 90 % intervals.

``Predictor`` is the seam between search and model. ``AnalyticPredictor`` answers
from arithmetic alone: it is what HEURISTIC uses, and what the learned one falls
back to where it has seen nothing like the question.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from statistics import NormalDist
from typing import Final, Protocol

import numpy as np

from reconciler.optimizer import operators
from reconciler.optimizer.layouts import Layouts, Numbers
from reconciler.optimizer.memory import MemoryTable, memory_of
from reconciler.optimizer.roofline import StepModel
from reconciler.optimizer.serving import Serving, Traffic, serve
from reconciler.optimizer.task import Pool, Task
from schemas.architecture import Precision

__all__ = ["AnalyticPredictor", "Prediction", "Predictor", "analyse", "memory", "tail"]

# Half-width of the arithmetic's 90 % interval, as a factor on either side: what
# its error was on 2,689 measured configurations (docs/optimizer.md).
ANALYTIC_BAND: Final = {"ttft": 3.0, "tpot": 1.8}
# Of a lognormal's logarithm, the 75th percentile in terms of the 95th.
BOUND_SHARE: Final = 0.41


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """Means over requests, of one replica; between ``lo`` and ``hi`` lie 90 %."""

    ttft_ms: Numbers
    ttft_lo: Numbers
    ttft_bound: Numbers
    """Exceeded once in four: what a target is compared with."""
    ttft_hi: Numbers
    tpot_ms: Numbers
    tpot_lo: Numbers
    tpot_bound: Numbers
    tpot_hi: Numbers
    points: Numbers
    """Measurements of this model on this GPU behind each row."""

    def take(self, keep: np.ndarray[tuple[int], np.dtype[np.generic]]) -> Prediction:
        return Prediction(**{f.name: getattr(self, f.name)[keep] for f in fields(self)})


class Predictor(Protocol):
    @property
    def identity(self) -> str:
        """Name, version and digest of what the numbers come from."""
        ...

    def predict(
        self,
        task: Task,
        pool: Pool,
        precision: Precision,
        layouts: Layouts,
        *,
        concurrency: Numbers,
    ) -> Prediction:
        """Predict each layout under ``concurrency`` requests on one replica."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class AnalyticPredictor:
    @property
    def identity(self) -> str:
        return f"analytic/1+{operators.digest()}"

    def predict(
        self,
        task: Task,
        pool: Pool,
        precision: Precision,
        layouts: Layouts,
        *,
        concurrency: Numbers,
    ) -> Prediction:
        served = analyse(
            task,
            pool,
            precision,
            layouts,
            concurrency=concurrency,
        )
        return Prediction(
            ttft_ms=served.ttft_ms,
            ttft_lo=served.ttft_ms / ANALYTIC_BAND["ttft"],
            ttft_bound=served.ttft_ms * ANALYTIC_BAND["ttft"] ** BOUND_SHARE,
            ttft_hi=served.ttft_ms * ANALYTIC_BAND["ttft"],
            tpot_ms=served.tpot_ms,
            tpot_lo=served.tpot_ms / ANALYTIC_BAND["tpot"],
            tpot_bound=served.tpot_ms * ANALYTIC_BAND["tpot"] ** BOUND_SHARE,
            tpot_hi=served.tpot_ms * ANALYTIC_BAND["tpot"],
            points=np.zeros(len(layouts)),
        )


def memory(
    task: Task, pool: Pool, precision: Precision, layouts: Layouts
) -> MemoryTable:
    """The memory table of a task's own requests."""
    return memory_of(
        task.architecture,
        layouts,
        precision=precision,
        kv_precision=task.kv_precision,
        tokens=task.input_tokens + task.output_tokens,
        capacity_gib=pool.device.memory_gib,
        engine=task.engine,
        lora_ranks=task.lora_ranks,
    )


def analyse(
    task: Task,
    pool: Pool,
    precision: Precision,
    layouts: Layouts,
    *,
    concurrency: Numbers,
) -> Serving:
    """The arithmetic answer: steps from the roofline, requests from the loop."""
    model = StepModel(
        architecture=task.architecture,
        precision=precision,
        kv_precision=task.kv_precision,
        device=pool.device,
        efficiency=operators.efficiency_of(pool.device, task.engine),
    )
    ones = np.ones(len(layouts))
    traffic = Traffic(
        input_tokens=ones * task.input_tokens,
        output_tokens=ones * task.output_tokens,
        concurrency=concurrency,
    )
    # Running requests hold half of their output on average, not all of it.
    held = task.input_tokens + task.output_tokens / 2
    whole = task.input_tokens + task.output_tokens
    table = memory(task, pool, precision, layouts)
    places = table.sequences * layouts.data * whole / held
    return serve(model, layouts, traffic, places=places)


def tail(percentile: int | None, *, first: bool) -> float:
    """A percentile over requests as a multiple of their mean.

    None is the mean. ``first`` is for TTFT: its 95th percentile is 1.7 times its
    mean in IBM's LLM-Pilot measurements (526 runs), with one user as with 128. A
    request's TPOT spreads less: p99 is 1.54 times p50 in InferenceX's 169 runs.
    Lognormals of those ratios give the other percentiles.
    """
    if percentile is None:
        return 1.0
    sigma = 0.363 if first else 0.186
    z = NormalDist().inv_cdf(percentile / 100)
    return float(np.exp(sigma * z - sigma**2 / 2))
