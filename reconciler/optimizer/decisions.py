"""Decisions on silicon: what choosing by prediction costs against choosing by truth.

A task is one model, GPU, engine, precision and load lengths with at least two
layouts measured. For each pair of TTFT and TPOT targets that some measured choice
meets, the predictor picks the most tokens per second and GPU among those it
believes to meet both; the measurement then says whether it does, and how much less
it gives than the best that does. Pure.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Final

import numpy as np

from reconciler.optimizer.cases import Cases
from reconciler.optimizer.layouts import Numbers

__all__ = ["Choosing", "Outcomes", "choose_all", "ranking_regret"]

TPOT_MS: Final = (10.0, 15.0, 20.0, 30.0, 50.0, 100.0)
TTFT_MS: Final = (200.0, 500.0, 1000.0, 3000.0)
TASK: Final = ("family", "gpu", "engine", "precision")


@dataclass(frozen=True, slots=True, kw_only=True)
class Choosing:
    """What a predictor says of every run: the mean it ranks by, and the values it
    compares with the targets."""

    ttft: Numbers
    tpot: Numbers
    ttft_bound: Numbers
    tpot_bound: Numbers


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcomes:
    """Percent, over all tasks and targets."""

    tasks: int
    targets: int
    missed: float
    none_found: float
    lost_when_met: float
    score: float
    """Mean throughput lost; a miss or no answer counts 100."""


def tasks_of(cases: Cases) -> list[np.ndarray[tuple[int], np.dtype[np.intp]]]:
    """Rows of each task with at least two layouts."""
    names = cases.label(*TASK)
    groups: dict[tuple[str, float, float], list[int]] = defaultdict(list)
    for i, name in enumerate(names):
        groups[name, cases["input"][i], cases["output"][i]].append(i)
    return [
        np.array(rows)
        for _, rows in sorted(groups.items())
        if len({cases.labels["ranks"][i] for i in rows}) > 1
    ]


def choose_all(
    cases: Cases, ttft: Numbers, tpot: Numbers, predicted: Choosing
) -> Outcomes:
    """Choose for every task and pair of targets."""
    truth = rate(cases, ttft, tpot)
    ranked = rate(cases, predicted.ttft, predicted.tpot)
    results: list[tuple[str, float]] = []
    tasks = tasks_of(cases)
    for rows, first, each in product(tasks, TTFT_MS, TPOT_MS):
        meets = (ttft[rows] <= first) & (tpot[rows] <= each)
        if not meets.any():
            continue
        best = truth[rows][meets].max()
        believed = (predicted.ttft_bound[rows] <= first) & (
            predicted.tpot_bound[rows] <= each
        )
        if not believed.any():
            results.append(("none", 1.0))
            continue
        pick = int(np.argmax(np.where(believed, ranked[rows], -np.inf)))
        lost = 1 - truth[rows][pick] / best if meets[pick] else 1.0
        results.append(("met" if meets[pick] else "missed", float(lost)))
    return _outcomes(len(tasks), results)


def ranking_regret(
    cases: Cases, ttft: Numbers, tpot: Numbers, predicted: Choosing
) -> float:
    """Percent of throughput lost when only truly feasible choices are on offer."""
    truth = rate(cases, ttft, tpot)
    ranked = rate(cases, predicted.ttft, predicted.tpot)
    lost = []
    for rows, first, each in product(tasks_of(cases), TTFT_MS, TPOT_MS):
        meets = rows[(ttft[rows] <= first) & (tpot[rows] <= each)]
        if len(meets):
            pick = meets[int(np.argmax(ranked[meets]))]
            lost.append(1 - truth[pick] / truth[meets].max())
    return 100 * float(np.mean(lost))


def rate(cases: Cases, ttft: Numbers, tpot: Numbers) -> Numbers:
    """Output tokens per second and GPU."""
    outputs = cases["output"]
    whole = ttft + tpot * (outputs - 1)
    return cases["concurrency"] * outputs / whole * 1e3 / cases["devices"]


def _outcomes(tasks: int, results: Sequence[tuple[str, float]]) -> Outcomes:
    kinds = [kind for kind, _ in results]
    met = [lost for kind, lost in results if kind == "met"]
    count = max(len(results), 1)
    return Outcomes(
        tasks=tasks,
        targets=len(results),
        missed=100 * kinds.count("missed") / count,
        none_found=100 * kinds.count("none") / count,
        lost_when_met=100 * float(np.mean(met)) if met else 0.0,
        score=100 * float(np.mean([lost for _, lost in results])),
    )
