"""Booster: XGBoost on what the arithmetic leaves, in logarithms.

It sees shares and ratios of the arithmetic's own terms rather than names, so that
what it learns of one model may hold for the next. Single-purpose wrapper of the
library: fixed seed, one thread, histograms, so that the same rows give the
same trees. The library takes a third of a second to import, and a plan that only
reads its lock never needs it: it is imported where it is called.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from reconciler.optimizer.cases import Cases
from reconciler.optimizer.coefficients import ENGINES, STEP_TERMS, Matrix
from reconciler.optimizer.layouts import Numbers

if TYPE_CHECKING:
    import xgboost as xgb

__all__ = ["Booster", "design", "fit_booster"]

ROUNDS: Final = 250
PARAMETERS: Final = {
    "objective": "reg:pseudohubererror",
    "base_score": 0.0,
    "tree_method": "hist",
    "max_depth": 4,
    "eta": 0.06,
    "subsample": 0.7,
    "colsample_bytree": 0.5,
    "min_child_weight": 4,
    "reg_lambda": 4.0,
    "nthread": 1,
    "verbosity": 0,
}
PLAIN: Final = (
    "share", "waiting", "concurrency", "input", "output", "devices", "tensor", "data",
    "expert", "places", "layers", "hidden", "active", "total", "experts", "latent",
    "state", "bandwidth", "compute", "bits", "release", "prefill", "decode", "marginal",
)  # fmt: skip


class Booster:
    """Trained trees for one target."""

    def __init__(self, trees: xgb.Booster) -> None:
        self._trees = trees

    def correct(self, features: Matrix) -> Numbers:
        """The logarithm that the arithmetic of each row is off by, as expected."""
        import xgboost as xgb  # noqa: PLC0415

        found: Numbers = self._trees.predict(xgb.DMatrix(features)).astype(np.float64)
        return found

    def packed(self) -> bytes:
        """UBJSON, the library's own format."""
        return bytes(self._trees.save_raw("ubj"))

    @classmethod
    def unpacked(cls, data: bytes) -> Booster:
        import xgboost as xgb  # noqa: PLC0415

        trees = xgb.Booster({"nthread": 1})
        trees.load_model(bytearray(data))
        return cls(trees)


def fit_booster(
    features: Matrix, errors: Numbers, weights: Numbers, *, slack: float, seed: int
) -> Booster:
    """Train; ``slack`` is the error beyond which a point counts by its distance
    instead of its square."""
    import xgboost as xgb  # noqa: PLC0415

    parameters = {**PARAMETERS, "huber_slope": slack, "seed": seed}
    data = xgb.DMatrix(features, errors, weight=weights)
    return Booster(xgb.train(parameters, data, ROUNDS))


def design(cases: Cases, first: Numbers, token: Numbers, step: Numbers) -> Matrix:
    """The features of each case; ``first``, ``token`` and ``step`` are the fitted
    arithmetic's TTFT, TPOT and decoding step."""
    columns = [cases[name] for name in PLAIN]
    columns += [np.log(first), np.log(token), np.log(first / cases["prefill"])]
    columns += [np.log(cases["prefill"] / step)]
    columns += [cases["concurrency"] * cases["marginal"] / first]
    prompt: Numbers = np.sum([cases[f"prefill_{name}"] for name in STEP_TERMS], axis=0)
    for name in STEP_TERMS:
        columns += [
            cases[f"decode_{name}"] / cases["decode"],
            cases[f"prefill_{name}"] / prompt,
        ]
    columns += [(cases.labels["engine"] == engine).astype(float) for engine in ENGINES]
    return np.column_stack(columns)
