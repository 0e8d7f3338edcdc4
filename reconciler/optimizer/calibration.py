"""Calibration: a team's own measurements against what was predicted of them.

Errors are kept per (model family, GPU, engine, version), as logarithms. Few
measurements move a prediction little: each track is drawn towards the model by
``PRIOR`` measurements' weight. A version that was never measured here takes no
offset from another, and a wider interval where others were: an engine's bump is
what makes predictions stale. Pure; ``forecast`` and the search apply it.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Final

import numpy as np

from reconciler.optimizer.cases import Cases
from reconciler.optimizer.layouts import Numbers
from reconciler.optimizer.performance import Estimate

__all__ = ["Calibration", "Track", "calibrate"]

KEY: Final = ("family", "gpu", "engine", "version")
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """Target -> key -> track."""

    tracks: Mapping[str, Mapping[str, Track]]

    def apply(self, cases: Cases, found: Mapping[str, Estimate]) -> dict[str, Estimate]:
        """Correct what was measured here; widen what a version bump made stale."""
        result = {}
        keys, unversioned = cases.label(*KEY), cases.label(*KEY[:-1])
        for target, estimate in found.items():
            tracks = self.tracks.get(target, {})
            known = {key.rpartition("|")[0] for key in tracks}
            shift = np.array(
                [tracks[key].correction if key in tracks else 0.0 for key in keys]
            )
            stale = np.array(
                [
                    key not in tracks and short in known
                    for key, short in zip(keys, unversioned, strict=True)
                ]
            )
            wider = np.exp(np.where(stale, STALE[target], 0.0))
            factor: Numbers = np.exp(shift)
            result[target] = Estimate(
                value=estimate.value * factor,
                low=estimate.low * factor / wider,
                bound=estimate.bound * factor * wider,
                high=estimate.high * factor * wider,
            )
        return result

    def dump(self) -> str:
        data = {
            target: {key: asdict(track) for key, track in sorted(tracks.items())}
            for target, tracks in sorted(self.tracks.items())
        }
        return json.dumps(data, indent=1, sort_keys=True) + "\n"

    @classmethod
    def load(cls, text: str) -> Calibration:
        return cls(
            tracks={
                target: {key: Track(**track) for key, track in tracks.items()}
                for target, tracks in json.loads(text).items()
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
