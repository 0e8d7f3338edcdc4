"""The performance model: arithmetic, fitted, corrected, and how sure it is.

``fit_model`` learns one from measured cases; ``PerformanceModel.predict`` gives
TTFT and TPOT with 90 % intervals. A correction counts for as much as it proved
worth for cases as far from what was measured as this one, and the interval is as
wide as errors were there: that distance is the ``Regime``. Pure.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import astuple, dataclass, field
from enum import IntEnum
from typing import Any, Final

import numpy as np

from reconciler.optimizer.booster import Booster, design, fit_booster
from reconciler.optimizer.cases import Cases, Mask
from reconciler.optimizer.coefficients import (
    Coefficients,
    Matrix,
    first_terms,
    fit,
    token_terms,
)
from reconciler.optimizer.kin import CURVE, FIRST, TOKEN, Kin
from reconciler.optimizer.kinship import Kinship, covariance, fit_kinship
from reconciler.optimizer.layouts import Numbers

__all__ = [
    "TARGETS",
    "Band",
    "Bands",
    "Estimate",
    "Parts",
    "PerformanceModel",
    "Regime",
    "Target",
    "covariances",
    "fit_model",
]


class Regime(IntEnum):
    """How far a case is from what was measured."""

    CONFIGURATION = 0
    """Its curve (model, GPU, engine, precision, layout) was, under other loads."""
    CURVE = 1
    """Its model on its GPU was, in another layout or precision or engine."""
    CELL = 2
    """Its model was, on another GPU."""
    MODEL = 3
    """Other models were, on its GPU and under its engine."""
    OUTSIDE = 4
    """Nothing like it: a GPU or an engine without measurements, or loads and sizes
    beyond all of them. Arithmetic alone, with the widest band."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What is learned of TTFT or of TPOT alike, and where they differ."""

    name: str
    kin: Kin
    shared_ridge: float
    own_ridge: float
    slack: float
    booster_slack: float


TTFT: Final = Target(
    name="ttft", kin=FIRST, shared_ridge=1, own_ridge=4, slack=0.3, booster_slack=0.4
)
TPOT: Final = Target(
    name="tpot", kin=TOKEN, shared_ridge=3, own_ridge=6, slack=0.15, booster_slack=0.2
)
TARGETS: Final = (TTFT, TPOT)


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """A target's arithmetic, fitted, and both corrections in logarithms."""

    arithmetic: Numbers
    kinship: Numbers
    booster: Numbers

    def blend(
        self,
        kinship: Numbers | float,
        booster: Numbers | float,
        shift: Numbers | float,
    ) -> Numbers:
        """The arithmetic with this much of each correction."""
        value: Numbers = self.arithmetic * np.exp(
            kinship * self.kinship + booster * self.booster + shift
        )
        return value


@dataclass(frozen=True, slots=True)
class Band:
    """How much the corrections count, and quantiles of log(measured / predicted)."""

    kinship: float
    booster: float
    shift: float
    """Added to the logarithm: a relative error is least below the median."""
    low: float
    bound: float
    """What a target is compared with: exceeded once in four."""
    high: float
    """With ``low``, 90 % lie between."""


Bands = Mapping[tuple[int, bool], Band]
"""(regime, whether requests wait for a place) -> band."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    value: Numbers
    low: Numbers
    bound: Numbers
    high: Numbers


@dataclass(frozen=True, slots=True, kw_only=True)
class PerformanceModel:
    token: Coefficients
    first: Coefficients
    kinships: Mapping[str, Kinship]
    boosters: Mapping[str, Booster]
    bands: Mapping[str, Bands]
    hull: Mapping[str, tuple[float, float]]
    _counts: dict[tuple[str, ...], Counter[str]] = field(default_factory=dict)

    def parts(self, cases: Cases) -> dict[str, Parts]:
        """Arithmetic and corrections of both targets."""
        engines = cases.labels["engine"]
        tokens = self.token.scale(token_terms(cases), engines)
        token, step = tokens.sum(axis=1), tokens[:, :-1].sum(axis=1)
        first = self.first.scale(first_terms(cases, step), engines).sum(axis=1)
        features = design(cases, first, token, step)
        return {
            name: Parts(
                arithmetic=base,
                kinship=self.kinships[name].correct(cases),
                booster=self.boosters[name].correct(features),
            )
            for name, base in (("ttft", first), ("tpot", token))
        }

    def regimes(self, cases: Cases) -> Numbers:
        """The ``Regime`` of each case."""

        def seen(*names: str) -> Mask:
            known = self._measured(names)
            mine: Mask = np.array([text in known for text in cases.label(*names)])
            return mine

        regime = np.full(len(cases), float(Regime.MODEL))
        regime[seen("family")] = Regime.CELL
        regime[seen("family", "gpu")] = Regime.CURVE
        regime[seen(*CURVE)] = Regime.CONFIGURATION
        outside = ~seen("gpu") | ~seen("engine") | (cases["pipeline"] > 1)
        for name, (low, high) in self.hull.items():
            outside |= cases[name] < low / HULL_SLACK
            outside |= cases[name] > high * HULL_SLACK
        regime[outside] = Regime.OUTSIDE
        return regime

    def predict(self, cases: Cases) -> dict[str, Estimate]:
        """TTFT and TPOT of each case, in milliseconds."""
        found = self.parts(cases)
        place = 2 * self.regimes(cases).astype(int) + (cases["waiting"] > 0)
        estimates = {}
        for name, parts in found.items():
            bands = [self.bands[name][r, w] for r in Regime for w in (False, True)]
            columns = np.array([astuple(band) for band in bands]).T[:, place]
            value = parts.blend(columns[0], columns[1], columns[2])
            low, bound, high = value * np.exp(columns[3:])
            estimates[name] = Estimate(value=value, low=low, bound=bound, high=high)
        return estimates

    def points(self, cases: Cases) -> Numbers:
        """Measured points of each case's model on its GPU."""
        known = self._measured(("family", "gpu"))
        return np.array([float(known[cell]) for cell in cases.label("family", "gpu")])

    def _measured(self, names: tuple[str, ...]) -> Counter[str]:
        """How often each combination of labels was measured."""
        if names not in self._counts:
            measured = self.kinships["tpot"].measured
            self._counts[names] = Counter(measured.label(*names).tolist())
        return self._counts[names]


# A load is beyond the measured ones when it is off their range by more than this.
HULL_SLACK: Final = 4.0
HULL: Final = (
    "concurrency",
    "input",
    "output",
    "devices",
    "total",
    "prefill",
    "decode",
)


def fit_model(
    cases: Cases,
    ttft: Numbers,
    tpot: Numbers,
    weights: Numbers,
    *,
    bands: Mapping[str, Bands],
    shared: Mapping[str, Matrix] | None = None,
    seed: int,
) -> PerformanceModel:
    """Learn everything but the bands, which ``conformal`` finds by leaving out.

    ``shared`` is ``covariances`` of the cases, for who fits many parts of the same.
    """
    shared = shared or covariances(cases)
    engines = cases.labels["engine"]
    terms = token_terms(cases)
    token = _fit(terms, engines, tpot, weights, TPOT)
    scaled = token.scale(terms, engines)
    step = scaled[:, :-1].sum(axis=1)
    first = _fit(first_terms(cases, step), engines, ttft, weights, TTFT)
    base = {
        "tpot": scaled.sum(axis=1),
        "ttft": first.scale(first_terms(cases, step), engines).sum(axis=1),
    }
    features = design(cases, base["ttft"], base["tpot"], step)
    measured = {"ttft": ttft, "tpot": tpot}
    kinships, boosters = {}, {}
    for target in TARGETS:
        errors = np.log(measured[target.name] / base[target.name])
        kinships[target.name] = fit_kinship(
            target.kin, cases, errors, weights, shared=shared[target.name]
        )
        boosters[target.name] = fit_booster(
            features, errors, weights, slack=target.booster_slack, seed=seed
        )
    return PerformanceModel(
        token=token,
        first=first,
        kinships=kinships,
        boosters=boosters,
        bands=bands,
        hull={n: (float(cases[n].min()), float(cases[n].max())) for n in HULL},
    )


def covariances(cases: Cases) -> dict[str, Matrix]:
    """Of all cases with each other, for each target."""
    return {target.name: covariance(target.kin, cases) for target in TARGETS}


def _fit(
    terms: Matrix, engines: Any, measured: Numbers, weights: Numbers, target: Target
) -> Coefficients:
    return fit(
        terms,
        engines,
        measured,
        weights,
        shared_ridge=target.shared_ridge,
        own_ridge=target.own_ridge,
        slack=target.slack,
    )
