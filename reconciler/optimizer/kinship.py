"""Kinship: what measurements of similar cases say about a case.

A Gaussian process over labels: two cases share an error where they share an engine,
a model, a GPU, a layout ..., each with a variance of its own, and in part only
where their loads are alike. What shares nothing with a measurement gets a correction
of zero, which leaves the arithmetic. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from reconciler.optimizer.cases import LABELS, Cases, Mask, Texts
from reconciler.optimizer.coefficients import Matrix
from reconciler.optimizer.layouts import Numbers

__all__ = ["FIRST", "TOKEN", "Kin", "Kinship", "Shares", "fit_kinship"]

CURVE: Final = ("family", "gpu", "engine", "precision", "ranks")
LOADS: Final = ("concurrency", "input", "output", "devices")
# Logarithms of the loads are counted from the middle of what is measured, in
# units of about its spread.
CENTRE: Final = np.log(np.array([32.0, 2000.0, 1000.0, 4.0]))
SPREAD: Final = np.array([1.3, 1.0, 1.0, 0.7])
# Concurrency, input and output are alike within about this many such units.
ALIKE: Final = 0.8
ROUNDS: Final = 3


@dataclass(frozen=True, slots=True)
class Shares:
    """Cases with the same ``labels`` share an error of ``variance``; ``by`` says
    whether wholly (empty), in proportion to a load, or where all loads are alike."""

    labels: tuple[str, ...]
    by: str
    variance: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Kin:
    """The variances of one target."""

    shares: tuple[Shares, ...]
    noise: float


def _expanded(labels: str) -> tuple[str, ...]:
    named = {"curve": CURVE, "campaign": ("engine", "version", "family")}
    return tuple(n for word in labels.split() for n in named.get(word, (word,)))


def _kin(noise: float, rows: Sequence[tuple[str, str, float]]) -> Kin:
    return Kin(
        shares=tuple(
            Shares(_expanded(labels), by, variance) for labels, by, variance in rows
        ),
        noise=noise,
    )


# Variances of log(measured / arithmetic) that make the training rows most likely
# (marginal likelihood, rounded; benchmarks/optimizer/likelihood.py). A campaign, one
# engine version on one model, differs most: about 17 % in TPOT, 23 % in TTFT.
TOKEN: Final = _kin(
    0.0015,
    [
        ("campaign", "", 0.027),
        ("family kind engine", "", 0.005),
        ("engine family", "output", 0.005),
        ("curve", "alike", 0.004),
        ("curve version", "", 0.0036),
        ("family precision engine", "", 0.0035),
        ("engine precision", "", 0.003),
        ("engine family", "", 0.003),
        ("engine", "", 0.003),
        ("gpu", "", 0.003),
        ("gpu precision", "", 0.003),
        ("engine family", "devices", 0.003),
        ("family", "", 0.0027),
        ("engine gpu", "", 0.0024),
        ("engine kind", "", 0.0023),
        ("family gpu engine", "", 0.0023),
        ("curve", "concurrency", 0.0021),
        ("engine family", "input", 0.001),
        ("engine", "alike", 0.001),
        ("engine family", "alike", 0.0008),
    ],
)
FIRST: Final = _kin(
    0.011,
    [
        ("campaign", "", 0.053),
        ("curve", "alike", 0.036),
        ("engine kind", "", 0.035),
        ("engine", "alike", 0.031),
        ("engine family", "input", 0.023),
        ("engine family", "concurrency", 0.019),
        ("family kind engine", "", 0.014),
        ("engine family", "alike", 0.013),
        ("engine", "", 0.013),
        ("engine precision", "", 0.013),
        ("engine family", "devices", 0.011),
        ("family", "", 0.011),
        ("engine family", "", 0.011),
        ("gpu precision", "", 0.01),
        ("shape engine", "", 0.01),
        ("engine gpu", "", 0.01),
        ("family gpu engine", "", 0.008),
        ("engine family", "output", 0.007),
        ("curve version", "", 0.005),
        ("gpu", "", 0.005),
        ("curve", "concurrency", 0.004),
    ],
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Kinship:
    """The measured cases, and how much each weighs in a correction."""

    kin: Kin
    measured: Cases
    weights: Numbers

    def correct(self, cases: Cases) -> Numbers:
        """The logarithm that the arithmetic of each case is off by, as expected.

        Cases that differ in batch and chunk alone are computed once.
        """
        label = np.unique(cases.label(*LABELS), return_inverse=True)[1]
        key = np.column_stack([label, _loads(cases)])
        _, first, where = np.unique(key, axis=0, return_index=True, return_inverse=True)
        once = cases.take(first)
        correction: Numbers = _covariance(self.kin, once, self.measured) @ self.weights
        return correction[where.ravel()]

    def packed(self) -> dict[str, Any]:
        """As data: labels by number, loads, weights. No measured value is in it."""
        labels = {}
        for name in LABELS:
            words, codes = np.unique(self.measured.labels[name], return_inverse=True)
            labels[name] = {"words": words.tolist(), "codes": codes.tolist()}
        return {
            "labels": labels,
            "loads": {n: [int(v) for v in self.measured[n]] for n in LOADS},
            "weights": [float(f"{weight:.6g}") for weight in self.weights],
        }

    @classmethod
    def unpacked(cls, kin: Kin, data: Mapping[str, Any]) -> Kinship:
        measured = Cases(
            columns={n: np.array(v, dtype=float) for n, v in data["loads"].items()},
            labels={
                name: np.array(part["words"], dtype=str)[part["codes"]]
                for name, part in data["labels"].items()
            },
        )
        return cls(kin=kin, measured=measured, weights=np.array(data["weights"]))


def fit_kinship(kin: Kin, cases: Cases, errors: Numbers, weights: Numbers) -> Kinship:
    """Learn from ``errors``, the logarithms of measured over arithmetic.

    A point that even its kin cannot explain is trusted less, round by round.
    """
    covariance = _covariance(kin, cases, cases)
    noise = _noise(kin, weights, np.ones(len(cases)))
    found: Numbers = np.zeros(len(cases))
    for _ in range(ROUNDS):
        solved = np.linalg.solve(covariance + np.diag(noise), errors)
        found = solved.astype(np.float64)
        left = np.abs(noise * found)
        noise = _noise(kin, weights, np.maximum(1.0, left / (2 * kin.noise**0.5)))
    return Kinship(kin=kin, measured=cases, weights=found)


def _noise(kin: Kin, weights: Numbers, doubt: Numbers) -> Numbers:
    noise: Numbers = kin.noise / weights * doubt
    return noise


def _loads(cases: Cases) -> Matrix:
    raw = np.column_stack([cases[name] for name in LOADS])
    scaled: Matrix = (np.log(np.maximum(raw, 1e-9)) - CENTRE) / SPREAD
    return scaled


def _same(mine: Texts, theirs: Texts) -> Mask:
    """Compared as numbers: a tenth of the time of comparing text with text."""
    codes = np.unique(np.concatenate([mine, theirs]), return_inverse=True)[1]
    same: Mask = codes[: len(mine), None] == codes[None, len(mine) :]
    return same


def _covariance(kin: Kin, cases: Cases, measured: Cases) -> Matrix:
    mine, theirs = _loads(cases), _loads(measured)
    alike = np.ones((len(cases), len(measured)))
    for axis in range(LOADS.index("devices")):
        apart = (mine[:, axis, None] - theirs[None, :, axis]) / ALIKE
        alike *= np.exp(-(apart**2) / 2)
    total = np.zeros_like(alike)
    same: dict[tuple[str, ...], Mask] = {}
    for share in kin.shares:
        names = share.labels
        if names not in same:
            same[names] = _same(cases.label(*names), measured.label(*names))
        match share.by:
            case "":
                total += share.variance * same[names]
            case "alike":
                total += share.variance * same[names] * alike
            case load:
                axis = LOADS.index(load)
                both = mine[:, axis, None] * theirs[None, :, axis]
                total += share.variance * same[names] * both
    return total
