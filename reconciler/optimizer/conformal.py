"""Conformal bands: how far off the model was on cases it had not seen.

For each regime, from what was left out there: how much the corrections count, and
the interval that held 90 % of the errors. ``bands_of`` learns both for the artefact;
``judged`` learns them for each fold without it, to score them. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import product
from typing import Final

import numpy as np

from reconciler.optimizer.cases import Mask
from reconciler.optimizer.layouts import Numbers
from reconciler.optimizer.leaving import SPLITS, LeftOut, Runs
from reconciler.optimizer.performance import (
    TARGETS,
    Band,
    Bands,
    Estimate,
    Parts,
    Regime,
)

__all__ = ["bands_of", "judged"]

LOW, BOUND, HIGH = 0.05, 0.75, 0.95
# A target is held against the bound. On tasks with curves left out, 0.75 misses 10 %
# of the targets and gives 27 % of the throughput away, a miss counting all of it; 0.95
# misses 2 % and gives 48 % away.
# Fewer left-out errors than this say nothing about a tail.
FEWEST: Final = 40
# How much kinship and trees may count, from the plainest on: trees are further from
# physics than kinship. Coarse, for there are few groups to choose by.
BLENDS: Final = sorted(
    product((0.0, 0.25, 0.5, 0.75, 1.0), (0.0, 0.25, 0.5)),
    key=lambda blend: blend[0] + 2 * blend[1],
)
LUCK: Final = 0.5
# The wider errors are, the further below their median lies what has the least mean
# relative error; half of the way there leaves the median error about least.
HALFWAY: Final = 0.5
# An error of more than this factor (in logarithms) draws no more than one of it.
MOST_DRAW: Final = 1.5
# Beyond what was measured nothing is left out to learn from: the band of an unseen
# model, half as wide again.
OUTSIDE_FACTOR: Final = 1.5

Blend = tuple[float, float, float]


def bands_of(found: Mapping[str, LeftOut], runs: Runs) -> dict[str, Bands]:
    """The bands of both targets for every regime, from all that was left out."""
    bands: dict[str, Bands] = {}
    for target in (t.name for t in TARGETS):
        own: dict[tuple[int, bool], Band] = {}
        for split in SPLITS:
            own |= {
                (split.regime, waits): band
                for waits, band in _bands(found[split.name], runs, target).items()
            }
        for waits in (False, True):
            widest = own[Regime.MODEL, waits]
            far = [OUTSIDE_FACTOR * q for q in (widest.low, widest.bound, widest.high)]
            own[Regime.OUTSIDE, waits] = Band(0.0, 0.0, 0.0, *far)
        bands[target] = own
    return bands


def judged(
    found: LeftOut, others: Mapping[int, LeftOut], runs: Runs, target: str
) -> Iterator[tuple[Mask, Estimate]]:
    """Per fold: its places in ``found``, and what is said of them by a model, a blend
    and a band that saw none of it; ``others`` is ``leave_out_twice``."""
    waiting = runs.cases["waiting"][found.rows] > 0
    for number, learned in others.items():
        bands = _bands(learned, runs, target)
        for waits, band in bands.items():
            places = (found.fold == number) & (waiting == waits)
            value = _blended(found.parts[target], band)[places]
            yield (
                places,
                Estimate(
                    value=value,
                    low=value * np.exp(band.low),
                    bound=value * np.exp(band.bound),
                    high=value * np.exp(band.high),
                ),
            )


def _bands(found: LeftOut, runs: Runs, target: str) -> dict[bool, Band]:
    """One for requests that find a place at once, one for those that wait for it."""
    parts, weights = found.parts[target], runs.weights[found.rows]
    measured = getattr(runs, target)[found.rows]
    blend = _blend(parts, measured, weights, found.fold)
    errors = np.log(measured / parts.blend(*blend))
    waiting = runs.cases["waiting"][found.rows] > 0
    bands = {}
    for waits in (False, True):
        like = waiting == waits
        enough = len(np.unique(found.rows[like])) >= FEWEST
        rows = like if enough else np.ones(len(like), dtype=bool)
        bands[waits] = Band(*blend, *_quantiles(errors[rows], weights[rows]))
    return bands


def _blended(parts: Parts, band: Band) -> Numbers:
    return parts.blend(band.kinship, band.booster, band.shift)


def _blend(parts: Parts, measured: Numbers, weights: Numbers, fold: Numbers) -> Blend:
    """How much the corrections count, and the shift.

    Of all blends that are within ``LUCK`` standard errors of the best, the plainest:
    what is best among so few groups is in part luck.
    """
    _, index = np.unique(fold, return_inverse=True)
    mass = np.bincount(index, weights)

    def errors(kinship: float, booster: float) -> Numbers:
        wrong: Numbers = np.log(measured / parts.blend(kinship, booster, 0.0))
        return wrong

    def by_fold(wrong: Numbers) -> Numbers:
        means: Numbers = np.bincount(index, weights * np.abs(wrong)) / mass
        return means

    costs = np.array([by_fold(errors(*blend)) for blend in BLENDS])
    worse = costs - costs[np.argmin(costs @ mass)]
    mean = np.average(worse, axis=1, weights=mass)
    spread = np.average((worse - mean[:, None]) ** 2, axis=1, weights=mass)
    error = np.sqrt(spread / max(len(mass) - 1, 1))
    kinship, booster = BLENDS[int(np.argmax(mean <= LUCK * error))]
    return kinship, booster, _shift(errors(kinship, booster), weights)


def _shift(errors: Numbers, weights: Numbers) -> float:
    """The mean of |predicted / measured - 1| is least where a median of the errors
    is that is weighted by 1 / measured."""
    pull = weights * np.exp(np.clip(-errors, -MOST_DRAW, MOST_DRAW))
    order = np.argsort(errors)
    middle = np.searchsorted(np.cumsum(pull[order]), pull.sum() / 2)
    return HALFWAY * float(errors[order][middle])


def _quantiles(errors: Numbers, weights: Numbers) -> tuple[float, float, float]:
    """Low, bound and high, each one point further out for being of a sample."""
    order = np.argsort(errors)
    errors, mass = errors[order], np.cumsum(weights[order])
    total, last = mass[-1] + 1.0, len(errors) - 1
    low = max(int(np.searchsorted(mass, LOW * total, side="right")) - 1, 0)
    bound, high = (
        min(int(np.searchsorted(mass, q * total)), last) for q in (BOUND, HIGH)
    )
    return float(errors[low]), float(errors[bound]), float(errors[high])
