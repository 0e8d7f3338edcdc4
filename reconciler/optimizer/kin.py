"""Kin: which measured cases share an error with another, and how much of it.

The variances that ``kinship`` computes with, one table a target. Values only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

__all__ = ["CURVE", "FIRST", "TOKEN", "Kin", "Shares"]

CURVE: Final = ("family", "gpu", "engine", "precision", "ranks")


@dataclass(frozen=True, slots=True)
class Shares:
    """Cases with the same ``labels`` share an error of ``variance``; ``by`` says
    whether wholly (empty), in proportion to a load, where all loads are alike, or
    where what a step does is close or near."""

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


# Variances of log(measured / arithmetic) near those that make the training rows most
# likely (marginal likelihood, rounded; benchmarks/optimizer/likelihood.py). A campaign,
# one engine version on one model, differs most: about 17 % in TPOT, 24 % in TTFT.
TOKEN: Final = _kin(
    0.0012,
    [
        ("campaign", "", 0.03),
        ("engine family", "near", 0.018),
        ("engine", "near", 0.01),
        ("family gpu engine", "close", 0.0065),
        ("family precision engine", "", 0.006),
        ("curve version", "", 0.0038),
        ("family kind engine", "", 0.0035),
        ("gpu", "", 0.0026),
        ("engine", "alike", 0.0025),
        ("engine precision", "", 0.0025),
        ("family", "", 0.0025),
        ("engine", "", 0.002),
        ("engine family", "", 0.002),
        ("engine kind", "", 0.002),
        ("engine shape", "near", 0.002),
        ("curve", "close", 0.0011),
        ("engine", "close", 0.001),
        ("engine gpu", "", 0.001),
        ("gpu precision", "", 0.001),
        ("curve", "concurrency", 0.0008),
        ("family gpu engine", "", 0.0008),
        ("engine kind", "close", 0.0007),
        ("engine family", "alike", 0.0004),
        ("curve", "alike", 0.0004),
        ("engine family", "output", 0.0003),
        ("engine family", "devices", 0.0003),
    ],
)
FIRST: Final = _kin(
    0.0085,
    [
        ("engine family", "near", 0.12),
        ("campaign", "", 0.06),
        ("engine kind", "", 0.045),
        ("engine", "near", 0.04),
        ("family kind engine", "", 0.03),
        ("curve", "alike", 0.0287),
        ("engine", "alike", 0.0245),
        ("engine precision", "", 0.02),
        ("engine family", "", 0.02),
        ("engine family", "input", 0.018),
        ("shape engine", "", 0.015),
        ("engine", "", 0.013),
        ("family", "", 0.012),
        ("gpu precision", "", 0.01),
        ("engine gpu", "", 0.01),
        ("engine kind", "close", 0.01),
        ("engine family", "output", 0.007),
        ("engine shape", "near", 0.006),
        ("gpu", "", 0.005),
        ("engine family", "alike", 0.005),
        ("engine family", "concurrency", 0.005),
        ("family gpu engine", "", 0.005),
        ("curve", "close", 0.0046),
        ("engine family", "devices", 0.0045),
        ("curve version", "", 0.004),
        ("engine gpu", "close", 0.0026),
        ("curve", "concurrency", 0.001),
    ],
)
