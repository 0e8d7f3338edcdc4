"""Choose one option, say why, and say what stands in the way of a better one.

Both optimizers end here, so that they differ only in what they consider and in
whose prediction they believe. Pure and deterministic: ties are broken by fewer
devices, then by the simpler layout.
"""

from __future__ import annotations

import math

import numpy as np

from reconciler.optimizer.layouts import Numbers
from reconciler.optimizer.options import Options
from reconciler.optimizer.task import Candidate, Infeasible, Objective

__all__ = ["binding", "feasible", "nearest", "objective", "order", "runners_up"]

Indices = np.ndarray[tuple[int], np.dtype[np.intp]]
Mask = np.ndarray[tuple[int], np.dtype[np.bool_]]

# Options within this of each other are equal: the prediction is not that good, and
# rounding keeps two machines from choosing differently on the last bit.
DIGITS = 4


def feasible(options: Options, *, without: str | None = None) -> Mask:
    """Rows that meet every hard constraint, or all but the one named."""
    mask = np.ones(len(options), dtype=bool)
    for name, margin in options.margins().items():
        if name != without:
            mask &= margin <= 0
    return mask


def objective(options: Options, kind: Objective) -> Numbers:
    """What is minimised: cost of a token, its rate inverted, or its latency.

    Devices stand for money where no pool of the task has a price.
    """
    match kind:
        case "cost":
            priced = all(p.price_usd_per_h is not None for p in options.task.pools)
            spent = options.usd_per_h if priced else options.devices
            return spent / options.tokens_per_s
        case "throughput":
            return 1.0 / options.tokens_per_s
        case "latency":
            outputs = options.task.output_tokens
            return options.prediction.ttft_ms + options.prediction.tpot_ms * outputs


def order(options: Options) -> Indices:
    """Rows from best to worst, feasible or not."""
    layouts = options.layouts
    # lexsort takes the most significant key last.
    return np.lexsort(
        (
            layouts.chunk,
            layouts.max_batch,
            layouts.expert,
            layouts.data,
            layouts.pipeline,
            layouts.tensor,
            options.precision,
            options.pool,
            options.devices,
            _rounded(objective(options, options.task.objective)),
            _rounded(options.soft_excess()),
        )
    )


def runners_up(
    options: Options, ranked: Indices, count: int = 3
) -> tuple[Candidate, ...]:
    """The best rows after the first that differ in more than batch and chunk."""
    seen, found = set(), []
    for index in ranked:
        layouts = options.layouts
        key = (
            options.pool[index],
            options.precision[index],
            layouts.tensor[index],
            layouts.pipeline[index],
            layouts.data[index],
            layouts.expert[index],
            options.replicas[index],
        )
        if key in seen:
            continue
        seen.add(key)
        found.append(options.candidate(int(index)))
        if len(found) > count:
            break
    return tuple(found[1:])


def binding(options: Options, chosen: int) -> str:
    """The constraint whose absence would allow the best improvement, if any."""
    score = _rounded(objective(options, options.task.objective))
    best, name = score[chosen], ""
    for constraint in options.margins():
        mask = feasible(options, without=constraint)
        if mask.any() and (low := score[mask].min()) < best:
            best, name = low, constraint
    return name


def nearest(options: Options, count: int = 3) -> Infeasible:
    """The error for a task without a feasible row: what binds, and what is closest.

    Closest is the smallest sum of margins over all constraints that are missed.
    """
    margins = options.margins()
    missed = {name: np.maximum(margin, 0.0) for name, margin in margins.items()}
    total: Numbers = np.sum(list(missed.values()), axis=0)
    ranked = np.lexsort((order(options).argsort(), _rounded(total)))
    found, seen = [], set()
    for index in ranked:
        candidate = options.candidate(int(index))
        key = (candidate.node_pool, candidate.precision, candidate.gpus,
               candidate.tensor, candidate.pipeline, candidate.replicas)  # fmt: skip
        if key in seen:
            continue
        seen.add(key)
        why = {n: math.exp(m[index]) for n, m in missed.items() if m[index] > 0}
        found.append((candidate, _words(why)))
        if len(found) == count:
            break
    best = ranked[0]
    binds = max(missed, key=lambda name: float(missed[name][best]))
    return Infeasible(binds, tuple(found))


def _words(missed: dict[str, float]) -> str:
    return ", ".join(f"{name} missed by {ratio:.2f}x" for name, ratio in missed.items())


def _rounded(values: Numbers) -> Numbers:
    """To ``DIGITS`` significant digits, so that noise does not decide."""
    safe = np.where(values == 0, 1.0, np.abs(values))
    scale = 10.0 ** (DIGITS - 1 - np.floor(np.log10(safe)))
    return np.round(values * scale) / scale
