"""Kin: which measured cases share an error with another, and how much of it.

The variances that ``kinship`` computes with. No figure here was fitted: every way of
being akin counts alike, but for a campaign. Values only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

__all__ = ["CAMPAIGN", "CURVE", "FIRST", "TOKEN", "Kin", "Shares"]

CURVE: Final = ("family", "gpu", "engine", "precision", "ranks")
CAMPAIGN: Final = ("engine", "version", "family")


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
    campaign: float
    """Of one engine version on one model; among ``shares`` as well."""


_WAYS: Final = (
    # Whatever the load is.
    ("engine", ""),
    ("family", ""),
    ("gpu", ""),
    ("engine family", ""),
    ("engine gpu", ""),
    ("engine precision", ""),
    ("engine kind", ""),
    ("engine shape", ""),
    ("gpu precision", ""),
    ("family gpu engine", ""),
    ("family kind engine", ""),
    ("family precision engine", ""),
    ("curve version", ""),
    # In proportion to a load.
    ("engine family", "input"),
    ("engine family", "output"),
    ("engine family", "concurrency"),
    ("engine family", "devices"),
    ("curve", "concurrency"),
    # Where a step does about the same, or the loads are about the same.
    ("engine", "near"),
    ("engine family", "near"),
    ("engine shape", "near"),
    ("engine", "close"),
    ("engine gpu", "close"),
    ("engine kind", "close"),
    ("family gpu engine", "close"),
    ("curve", "close"),
    ("engine", "alike"),
    ("engine family", "alike"),
    ("curve", "alike"),
)
# A campaign is one team's build, settings and load generator: as much may be its own
# as eight other ways explain.
_CAMPAIGN: Final = 8


def _kin(noise: float, each: float) -> Kin:
    def labels(words: str) -> tuple[str, ...]:
        return tuple(
            n for word in words.split() for n in (CURVE if word == "curve" else (word,))
        )

    shares = [Shares(labels(words), by, each) for words, by in _WAYS]
    shares.append(Shares(CAMPAIGN, "", _CAMPAIGN * each))
    return Kin(shares=tuple(shares), noise=noise, campaign=_CAMPAIGN * each)


# Noise is what repeated runs of one configuration differ by, 4.5 % in TPOT and 10 % in
# TTFT; each way of being akin explains a little more than that.
TOKEN: Final = _kin(noise=0.002, each=0.003)
FIRST: Final = _kin(noise=0.01, each=0.015)
