"""Kinship: what measurements of similar cases say about a case.

A Gaussian process over labels: two cases share an error where they share an engine,
a model, a GPU, a layout ..., each with a variance of its own, and in part only
where their loads are alike. What shares nothing with a measurement gets a correction
of zero, which leaves the arithmetic. A campaign that is far off all its kin tells of
itself alone. Pure.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np

from reconciler.optimizer.cases import LABELS, Cases
from reconciler.optimizer.coefficients import Matrix
from reconciler.optimizer.kin import CAMPAIGN, Kin
from reconciler.optimizer.layouts import Numbers

__all__ = ["Kinship", "covariance", "fit_kinship"]

LOADS: Final = ("concurrency", "input", "output", "devices")
# Logarithms of the loads are counted from the middle of what is measured, in
# units of about its spread.
CENTRE: Final = np.log(np.array([32.0, 2000.0, 1000.0, 4.0]))
SPREAD: Final = np.array([1.3, 1.0, 1.0, 0.7])
# Concurrency, input and output are alike within about this many such units.
ALIKE: Final = 0.8
# What a step does, in logarithms and in units of about its spread, but for the share
# of prompts. Close and near are within one and two and a half of all together.
STEPS: Final = {
    "prefill": 1.0,
    "decode": 0.7,
    "running": 1.2,
    "devices": 0.7,
}
SHARE_SPREAD: Final = 0.25
WIDTHS: Final = {"close": 1.0, "near": 2.5}
ROUNDS: Final = 4
# A campaign that is off by more than this many standard deviations is given more
# variance of its own instead of moving its kin, up to a factor of about four.
STRAY: Final = 1.5
MOST_STRAY: Final = 2.0
# Cases that are corrected at once: bounds memory.
PART: Final = 2000

Codes = np.ndarray[tuple[int, int], np.dtype[np.int64]]


@dataclass(frozen=True, kw_only=True)
class Kinship:
    """The measured cases, and how much each weighs in a correction."""

    kin: Kin
    measured: Cases
    weights: Numbers
    own: Mapping[str, float]
    """What only runs of a stray campaign are off by besides."""

    def correct(self, cases: Cases) -> Numbers:
        """The logarithm that the arithmetic of each case is off by, as expected.

        Cases that differ in a batch that is never full are computed once.
        """
        key = np.column_stack([self._codes_of(cases), _loads(cases), _steps(cases)])
        _, first, where = np.unique(key, axis=0, return_index=True, return_inverse=True)
        once = cases.take(first)
        parts = [
            self._correct(once.take(np.arange(start, min(start + PART, len(once)))))
            for start in range(0, len(once), PART)
        ]
        return np.concatenate(parts)[where.ravel()]

    def _correct(self, cases: Cases) -> Numbers:
        """The sum over measured cases of covariance times weight, without the matrix:
        a share that goes by no load is one number for all cases of the same labels."""
        codes, where = np.unique(self._codes_of(cases), axis=0, return_inverse=True)
        where = where.ravel()
        pulls = self._pulls(codes)
        mine, theirs = _loads(cases), _loads(self.measured)
        total: Numbers = pulls.pop("").sum(axis=1)[where]
        for axis, load in enumerate(LOADS):
            if load in pulls:
                total += mine[:, axis] * (pulls.pop(load) @ theirs[:, axis])[where]
        for way, pull in pulls.items():
            seen = np.flatnonzero(pull.any(axis=0))
            bell = _ways(cases, self.measured.take(seen), way)
            total += np.einsum("ij,ij->i", bell, pull[:, seen][where])
        total += [self.own.get(name, 0.0) for name in cases.label(*CAMPAIGN).tolist()]
        return total

    def _pulls(self, codes: Codes) -> dict[str, Matrix]:
        """``by`` -> weight of each measured case for each row of labels."""
        shape = (len(codes), len(self.weights))
        pulls: dict[str, Matrix] = defaultdict(lambda: np.zeros(shape))
        same = {
            name: codes[:, place, None] == self._codes[None, :, place]
            for place, name in enumerate(LABELS)
        }
        for share in self.kin.shares:
            both = np.logical_and.reduce([same[name] for name in share.labels])
            pulls[share.by] += share.variance * both * self.weights
        return pulls

    @cached_property
    def _words(self) -> dict[str, dict[str, int]]:
        """Label -> word -> its number."""
        return {
            name: {word: n for n, word in enumerate(np.unique(words).tolist())}
            for name, words in self.measured.labels.items()
        }

    @cached_property
    def _codes(self) -> Codes:
        return self._codes_of(self.measured)

    def _codes_of(self, cases: Cases) -> Codes:
        """Labels as numbers; a word that was never measured is like no other."""
        columns = []
        for name in LABELS:
            words, index = np.unique(cases.labels[name], return_inverse=True)
            known = self._words[name]
            columns.append(np.array([known.get(w, -1) for w in words.tolist()])[index])
        return np.column_stack(columns)

    def packed(self) -> dict[str, Any]:
        """As data: labels by number, loads, weights. No measured value is in it."""
        labels = {}
        for name in LABELS:
            words, codes = np.unique(self.measured.labels[name], return_inverse=True)
            labels[name] = {"words": words.tolist(), "codes": codes.tolist()}
        return {
            "labels": labels,
            "loads": {n: [int(v) for v in self.measured[n]] for n in LOADS},
            "steps": {
                n: [float(f"{v:.5g}") for v in self.measured[n]]
                for n in (*STEPS, "share")
            },
            "weights": [float(f"{weight:.6g}") for weight in self.weights],
            "own": {name: float(f"{off:.6g}") for name, off in self.own.items()},
        }

    @classmethod
    def unpacked(cls, kin: Kin, data: Mapping[str, Any]) -> Kinship:
        measured = Cases(
            columns={
                n: np.array(v, dtype=float)
                for n, v in (data["loads"] | data["steps"]).items()
            },
            labels={
                name: np.array(part["words"], dtype=str)[part["codes"]]
                for name, part in data["labels"].items()
            },
        )
        weights = np.array(data["weights"])
        return cls(kin=kin, measured=measured, weights=weights, own=data["own"])


def fit_kinship(
    kin: Kin, cases: Cases, errors: Numbers, weights: Numbers, *, shared: Matrix
) -> Kinship:
    """Learn from ``errors``, the logarithms of measured over arithmetic; ``shared`` is
    the ``covariance`` of the cases.

    A point that even its kin cannot explain is trusted less, and a campaign that they
    cannot explain is kept apart, round by round.
    """
    names, campaign = np.unique(cases.label(*CAMPAIGN), return_inverse=True)
    same = campaign[:, None] == campaign[None, :]
    doubt, stray = np.ones(len(cases)), np.zeros(len(names))
    own, found = stray, errors
    for _ in range(ROUNDS):
        noise = kin.noise / weights * doubt
        found = _solved(shared + same * stray[campaign] + np.diag(noise), errors)
        doubt = np.maximum(1.0, np.abs(noise * found) / (2 * kin.noise**0.5))
        pull = np.bincount(campaign, found, minlength=len(names))
        own = stray * pull
        off = (kin.campaign + stray) * pull / (STRAY * kin.campaign**0.5)
        stray = np.clip(kin.campaign * (off**2 - 1), 0.0, MOST_STRAY)
    return Kinship(
        kin=kin,
        measured=cases,
        weights=found,
        own={str(names[i]): float(own[i]) for i in np.flatnonzero(own)},
    )


def _solved(matrix: Matrix, errors: Numbers) -> Numbers:
    # SciPy takes as long to import as all else that a verb needs: only training pays.
    from scipy.linalg import (  # type: ignore[import-untyped]  # noqa: PLC0415
        cho_factor,
        cho_solve,
    )

    factor = cho_factor(matrix, lower=True, overwrite_a=True, check_finite=False)
    solved: Numbers = cho_solve(factor, errors, check_finite=False)
    return solved


def _loads(cases: Cases) -> Matrix:
    raw = np.column_stack([cases[name] for name in LOADS])
    scaled: Matrix = (np.log(np.maximum(raw, 1e-9)) - CENTRE) / SPREAD
    return scaled


def covariance(kin: Kin, cases: Cases) -> Matrix:
    """Of all cases with each other."""
    ways: dict[str, Matrix | float] = {"": 1.0}
    for by in {share.by for share in kin.shares} - {""}:
        ways[by] = _ways(cases, cases, by)
    by_labels: dict[tuple[str, ...], Matrix | float] = defaultdict(float)
    for share in kin.shares:
        by_labels[share.labels] += share.variance * ways[share.by]
    total = np.zeros((len(cases), len(cases)))
    for labels, part in by_labels.items():
        codes = np.unique(cases.label(*labels), return_inverse=True)[1]
        total += part * (codes[:, None] == codes[None, :])
    return total


def _ways(cases: Cases, measured: Cases, by: str) -> Matrix:
    """How far each case goes along with each measured one."""
    if by in WIDTHS:
        return _bell(_steps(cases), _steps(measured), WIDTHS[by])
    mine, theirs = _loads(cases), _loads(measured)
    if by == "alike":
        lengths = LOADS.index("devices")
        return _bell(mine[:, :lengths], theirs[:, :lengths], ALIKE)
    axis = LOADS.index(by)
    both: Matrix = mine[:, axis, None] * theirs[None, :, axis]
    return both


def _bell(mine: Matrix, theirs: Matrix, width: float) -> Matrix:
    """One where two points are the same, next to nothing three widths apart."""
    square = (mine**2).sum(axis=1)[:, None] + (theirs**2).sum(axis=1)[None, :]
    apart = np.maximum(square - 2 * mine @ theirs.T, 0.0)
    bell: Matrix = np.exp(-apart / (2 * width**2))
    return bell


def _steps(cases: Cases) -> Matrix:
    columns = [np.log(cases[name]) / spread for name, spread in STEPS.items()]
    steps: Matrix = np.column_stack([*columns, cases["share"] / SHARE_SPREAD])
    return steps
