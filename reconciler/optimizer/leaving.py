"""Leaving out: every measured case as predicted by a model that never saw its group.

``conformal`` learns from it how much the corrections count and how wide intervals
are; ``evaluation`` scores it. To score those as well they have to come from rows
that were never scored: ``leave_out_twice`` predicts each group once more without
any other one, so that all that a left-out group meets was learned without it. Pure.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import combinations
from typing import Final

import numpy as np

from reconciler.optimizer.cases import Cases, Texts
from reconciler.optimizer.coefficients import Matrix
from reconciler.optimizer.kin import CURVE
from reconciler.optimizer.layouts import Numbers
from reconciler.optimizer.performance import (
    Parts,
    PerformanceModel,
    Regime,
    covariances,
    fit_model,
)

__all__ = ["SPLITS", "LeftOut", "Runs", "Split", "leave_out", "leave_out_twice"]

Rows = np.ndarray[tuple[int], np.dtype[np.intp]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Runs:
    """Measured cases."""

    cases: Cases
    ttft: Numbers
    tpot: Numbers
    weights: Numbers

    def __len__(self) -> int:
        return len(self.weights)


@dataclass(frozen=True, slots=True)
class Split:
    name: str
    regime: Regime
    labels: tuple[str, ...]
    """What is left out together."""
    folds: int | None
    """None: one group at a time."""
    draws: int = 1
    """Ways of dealing the groups out to folds that are all scored."""


LOAD: Final = ("concurrency", "input", "output")
SPLITS: Final = (
    Split("configuration", Regime.CONFIGURATION, CURVE, 5),
    Split("curve", Regime.CURVE, CURVE, 8),
    # Two dozen cells: which are out together moves the median error by a point.
    Split("cell", Regime.CELL, ("family", "gpu"), 8, draws=3),
    Split("model", Regime.MODEL, ("family",), None),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOut:
    """Predictions of ``rows`` of the runs, each without its ``fold``."""

    rows: Rows
    fold: Numbers
    parts: Mapping[str, Parts]


Piece = tuple[int, Rows, Mapping[str, Parts]]


def leave_out(split: Split, runs: Runs, *, seed: int) -> LeftOut:
    """Predict each fold from all the others."""
    shared = covariances(runs.cases)
    pieces: list[Piece] = []
    for draw in _draws(split, runs.cases, seed):
        for number, rows in draw.items():
            model = _without(runs, rows, shared, seed)
            pieces.append((number, rows, model.parts(runs.cases.take(rows))))
    return _joined(pieces)


def leave_out_twice(split: Split, runs: Runs, *, seed: int) -> dict[int, LeftOut]:
    """Fold -> every other one, as predicted without both."""
    shared = covariances(runs.cases)
    pieces: dict[int, list[Piece]] = defaultdict(list)
    for draw in _draws(split, runs.cases, seed):
        for one, other in combinations(draw, 2):
            out = np.concatenate([draw[one], draw[other]])
            model = _without(runs, out, shared, seed)
            for scored, told in ((one, other), (other, one)):
                rows = draw[told]
                found = model.parts(runs.cases.take(rows))
                pieces[scored].append((told, rows, found))
    return {fold: _joined(found) for fold, found in pieces.items()}


def _without(
    runs: Runs, out: Rows, shared: Mapping[str, Matrix], seed: int
) -> PerformanceModel:
    keep = np.setdiff1d(np.arange(len(runs)), out)
    square = np.ix_(keep, keep)
    return fit_model(
        runs.cases.take(keep),
        runs.ttft[keep],
        runs.tpot[keep],
        runs.weights[keep],
        bands={},
        shared={target: matrix[square] for target, matrix in shared.items()},
        seed=seed,
    )


def _joined(pieces: Sequence[Piece]) -> LeftOut:
    def column(target: str, name: str) -> Numbers:
        return np.concatenate([getattr(found[target], name) for *_, found in pieces])

    return LeftOut(
        rows=np.concatenate([rows for _, rows, _ in pieces]),
        fold=np.repeat(
            [float(number) for number, *_ in pieces],
            [len(rows) for _, rows, _ in pieces],
        ),
        parts={
            target: Parts(**{f.name: column(target, f.name) for f in fields(Parts)})
            for target in pieces[0][2]
        },
    )


def _draws(split: Split, cases: Cases, seed: int) -> Iterator[dict[int, Rows]]:
    """Fold -> its rows, for each way of dealing the groups out; a fold's number is
    its own in all of them."""
    groups: Texts = cases.label(*split.labels)
    if split.regime == Regime.CONFIGURATION:
        loads = zip(*(cases[name].astype(int) for name in LOAD), strict=True)
        groups = np.array(
            [f"{g}|{load}" for g, load in zip(groups, loads, strict=True)]
        )
    names, index = np.unique(groups, return_inverse=True)
    count = split.folds or len(names)
    for draw in range(split.draws):
        shuffled = np.random.default_rng(seed + draw).permutation(len(names))
        fold = (shuffled % count)[index]
        yield {
            draw * count + number: np.flatnonzero(fold == number)
            for number in np.unique(fold).tolist()
        }
