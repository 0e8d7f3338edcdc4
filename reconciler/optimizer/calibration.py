"""Calibration: a team's own measurements against what was predicted of them.

Errors are kept per (model family, GPU, engine, version), as logarithms. Few
measurements move a prediction little: each track is drawn towards the model by
``PRIOR`` measurements' weight, and many that differ among themselves widen the
interval to what they show. A version that was never measured here takes no
offset from another, and a wider interval where others were: an engine's bump is
what makes predictions stale. Pure; ``forecast`` and the search apply it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np

from reconciler.optimizer.cases import Cases, family_of
from reconciler.optimizer.layouts import Numbers
from reconciler.optimizer.performance import Estimate
from reconciler.optimizer.prediction import BOUND_SHARE
from reconciler.optimizer.task import Task

__all__ = ["Calibration", "Track", "calibrate"]

KEY: Final = ("family", "gpu", "engine", "version")
# Measurements from which their spread is believed, and the part of a normal
# distribution's spread that 90 % lie within.
SPREAD_FROM: Final = 5
WITHIN: Final = 1.645
# A campaign (one engine version on one model) differs from the model by as much as
# the configurations in it differ from each other, so that after three measurements
# the team's own are believed more than the model.
PRIOR: Final = 3.0
# The spread between campaigns that the model was trained on: 0.165 in TPOT, 0.23 in
# TTFT. A version nobody measured may be off by as much again.
STALE: Final = {"ttft": 0.23, "tpot": 0.165}


@dataclass(frozen=True, slots=True, kw_only=True)
class Track:
    """The errors of one target under one key."""

    count: int
    offset: float
    """Mean of log(measured / predicted)."""
    spread: float
    """Standard deviation of it, 0 for a single measurement."""
    covered: int
    """Measurements inside the interval that was predicted."""

    @property
    def correction(self) -> float:
        return self.offset * self.count / (self.count + PRIOR)

    @property
    def shown(self) -> float:
        """Half of the interval that the measurements themselves show."""
        return WITHIN * self.spread if self.count >= SPREAD_FROM else 0.0


NOTHING: Final = Track(count=0, offset=0.0, spread=0.0, covered=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """Target -> key -> track."""

    tracks: Mapping[str, Mapping[str, Track]]

    def apply(self, cases: Cases, found: Mapping[str, Estimate]) -> dict[str, Estimate]:
        """Correct what was measured here; widen what a version bump made stale."""
        keys, unversioned = cases.label(*KEY), cases.label(*KEY[:-1])
        result = {}
        for target, estimate in found.items():
            tracks = self.tracks.get(target, {})
            known = {key.rpartition("|")[0] for key in tracks}
            stale = np.isin(unversioned, list(known)) & ~np.isin(keys, list(tracks))
            wider = np.exp(np.where(stale, STALE[target], 0.0))
            mine = [tracks.get(key, NOTHING) for key in keys]
            value = estimate.value * np.exp([track.correction for track in mine])
            shown = np.exp([track.shown for track in mine])
            moved = value / estimate.value
            result[target] = Estimate(
                value=value,
                low=np.minimum(estimate.low * moved / wider, value / shown),
                bound=np.maximum(
                    estimate.bound * moved * wider, value * shown**BOUND_SHARE
                ),
                high=np.maximum(estimate.high * moved * wider, value * shown),
            )
        return result

    def about(self, task: Task) -> dict[str, dict[str, dict[str, Any]]]:
        """The tracks that a decision on ``task`` may read, as plain data."""
        gpus = {pool.gpu for pool in task.pools}
        mine = {f"{family_of(task.architecture)}|{gpu}|{task.engine}" for gpu in gpus}
        return {
            target: found
            for target, tracks in self.tracks.items()
            if (
                found := {
                    key: asdict(track)
                    for key, track in tracks.items()
                    if key.rpartition("|")[0] in mine
                }
            )
        }

    def joined(self, newer: Calibration) -> Calibration:
        """What was measured last of a key stands for it."""
        targets = {*self.tracks, *newer.tracks}
        return Calibration(
            tracks={
                target: {**self.tracks.get(target, {}), **newer.tracks.get(target, {})}
                for target in sorted(targets)
            }
        )

    def data(self) -> dict[str, dict[str, dict[str, Any]]]:
        """As plain data, in order."""
        return {
            target: {key: asdict(track) for key, track in sorted(tracks.items())}
            for target, tracks in sorted(self.tracks.items())
        }

    @classmethod
    def of(cls, data: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> Calibration:
        return cls(
            tracks={
                target: {key: Track(**track) for key, track in tracks.items()}
                for target, tracks in data.items()
            }
        )


def calibrate(
    cases: Cases, found: Mapping[str, Estimate], measured: Mapping[str, Numbers]
) -> Calibration:
    """Compare measurements with predictions; NaN is a target nobody measured."""
    keys = cases.label(*KEY)
    return Calibration(
        tracks={
            target: _tracks(keys.tolist(), found[target], values)
            for target, values in measured.items()
        }
    )


def _tracks(
    keys: Sequence[str], estimate: Estimate, measured: Numbers
) -> dict[str, Track]:
    rows: dict[str, list[int]] = defaultdict(list)
    for index, key in enumerate(keys):
        if np.isfinite(measured[index]) and measured[index] > 0:
            rows[key].append(index)
    tracks = {}
    for key, indices in rows.items():
        values = measured[indices]
        errors = np.log(values / estimate.value[indices])
        inside = (values >= estimate.low[indices]) & (values <= estimate.high[indices])
        tracks[key] = Track(
            count=len(indices),
            offset=round(float(errors.mean()), 6),
            spread=round(float(errors.std()), 6),
            covered=int(inside.sum()),
        )
    return tracks
