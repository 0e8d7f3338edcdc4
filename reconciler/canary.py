"""Promote, go on, or roll back: a sequential test over what a canary measures. Pure.

``Trials`` calls ``judge`` whenever the daemon looks. A
look at the data costs nothing: the bounds hold at every look at once (asymptotic
confidence sequences with Robbins' normal mixture; Waudby-Smith, Arbour, Sinha,
Kennedy, Ramdas, "Time-uniform central limit theory and asymptotic confidence
sequences", 2021), so that looking every minute does not promote or revert by luck.

Latencies are compared as means of logarithms, so a bound is a ratio; errors as shares.
Promotion needs every measure to be shown harmless; a rollback needs one to be shown
harmful; silence until the end is a rollback, because nothing was shown.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

__all__ = [
    "Limits",
    "Measure",
    "Ruling",
    "Sample",
    "Tally",
    "Verdict",
    "judge",
    "measures",
]


_SERVER_ERROR = 500


class Verdict(StrEnum):
    CONTINUE = "continue"
    PROMOTE = "promote"
    ROLL_BACK = "roll-back"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """Count, sum and sum of squares of one measure: all that a window must keep."""

    count: int = 0
    total: float = 0.0
    squares: float = 0.0

    @classmethod
    def of(cls, values: Iterable[float]) -> Sample:
        seen = list(values)
        return cls(
            count=len(seen),
            total=math.fsum(seen),
            squares=math.fsum(v * v for v in seen),
        )

    def __add__(self, other: Sample) -> Sample:
        return Sample(
            count=self.count + other.count,
            total=self.total + other.total,
            squares=self.squares + other.squares,
        )

    @property
    def mean(self) -> float:
        return self.total / self.count

    @property
    def variance(self) -> float:
        """Of one value; never zero, so that few equal values prove nothing."""
        spread = self.squares / self.count - self.mean**2
        return max(spread, 1 / self.count)


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """One thing that is measured on both sides.

    ``tolerance`` is how much worse is still the same: of logarithms of seconds, 0.05
    is five percent; of errors (1.0 or 0.0 each), 0.005 is half a percent of requests.
    """

    name: str
    tolerance: float
    baseline: Sample
    canary: Sample


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    alpha: float = 0.05
    """How often, at most, a harmless canary is rolled back over its whole life."""
    least: int = 200
    """Requests on each side before the normal approximation may speak."""
    most: int = 20_000
    """Requests of the canary after which silence is a rollback."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ruling:
    verdict: Verdict
    why: str


@dataclass(slots=True)
class Tally:
    """Everything that was recorded of one side."""

    ttft: Sample = Sample()
    tpot: Sample = Sample()
    errors: Sample = Sample()

    def add(self, record: Mapping[str, Any]) -> None:
        """Count one record of the gateway."""
        failed = record["status"] >= _SERVER_ERROR
        self.errors += Sample.of([float(failed)])
        first, output = record.get("first_seconds"), record["output"] or 0
        if failed or not record["stream"] or not first:
            return
        self.ttft += Sample.of([math.log(first)])
        rest = record["seconds"] - first
        if output > 1 and rest > 0:
            self.tpot += Sample.of([math.log(rest / (output - 1))])


def measures(
    baseline: Tally, canary: Tally, *, latency: float, errors: float
) -> list[Measure]:
    """Pair the sides; ``latency`` is a ratio above one, ``errors`` a share.

    Where nobody streams there is no latency to compare; where one side does, silence of
    the other is no proof.
    """
    said = [("errors", errors, baseline.errors, canary.errors)]
    if baseline.ttft.count or canary.ttft.count:
        said.append(("ttft", latency, baseline.ttft, canary.ttft))
    if baseline.tpot.count or canary.tpot.count:
        said.append(("tpot", latency, baseline.tpot, canary.tpot))
    return [
        # No difference at all can never be shown: a percent is the least.
        Measure(name=name, tolerance=max(most, 0.01), baseline=one, canary=other)
        for name, most, one, other in said
    ]


def judge(compared: Sequence[Measure], limits: Limits) -> Ruling:
    """Rule on everything that was measured so far."""
    if not compared:
        return Ruling(verdict=Verdict.CONTINUE, why="nothing was measured")
    few = min(min(m.baseline.count, m.canary.count) for m in compared)
    if few < limits.least:
        return Ruling(verdict=Verdict.CONTINUE, why=f"{few} of {limits.least} requests")
    harmless = True
    said: list[str] = []
    for measure in compared:
        low, high = _bounds(measure, limits.alpha / len(compared))
        shown = f"{measure.name} {low:+.3f} to {high:+.3f}"
        if low > measure.tolerance:
            return Ruling(
                verdict=Verdict.ROLL_BACK,
                why=f"{shown} is worse than {measure.tolerance:+.3f}",
            )
        harmless = harmless and high < measure.tolerance
        said.append(shown)
    why = ", ".join(said)
    if harmless:
        return Ruling(verdict=Verdict.PROMOTE, why=why)
    if max(measure.canary.count for measure in compared) >= limits.most:
        return Ruling(
            verdict=Verdict.ROLL_BACK, why=f"undecided after {limits.most}: {why}"
        )
    return Ruling(verdict=Verdict.CONTINUE, why=why)


def _bounds(measure: Measure, alpha: float) -> tuple[float, float]:
    """Bounds of the difference canary - baseline that hold at every look at once."""
    one, other = measure.baseline, measure.canary
    variance = one.variance / one.count + other.variance / other.count
    # The mixture is widest where a difference of one tolerance would be.
    mixed = measure.tolerance**2
    radius = math.sqrt(
        2
        * variance
        * (1 + variance / mixed)
        * math.log(2 * math.sqrt(1 + mixed / variance) / alpha)
    )
    difference = other.mean - one.mean
    return difference - radius, difference + radius
