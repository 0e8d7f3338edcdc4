"""Fitted efficiency terms: by how much each term of the arithmetic is off.

The arithmetic gives a latency as a sum of terms. Each term gets one factor for
all engines and one for each engine, both drawn towards 1 (ridge in logarithms),
so that a handful of models cannot bend what holds for all. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from reconciler.optimizer.cases import Cases, Texts
from reconciler.optimizer.layouts import Numbers

__all__ = ["ENGINES", "Coefficients", "first_terms", "fit", "token_terms"]

Matrix = np.ndarray[tuple[int, int], np.dtype[np.float64]]

ENGINES: Final = ("vllm", "sglang", "trtllm")
# Of a step's terms, those that are a token's, in the order of ``token_terms``.
STEP_TERMS: Final = ("weights", "core", "experts", "exchange", "overhead", "head")
ROUNDS: Final = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Coefficients:
    """Logarithms of the factors: all engines' and each engine's own."""

    shared: Numbers
    own: Matrix

    def scale(self, terms: Matrix, engines: Texts) -> Matrix:
        """Each term times its factor; an engine that was not fitted has the shared."""
        index = np.array([ENGINES.index(e) if e in ENGINES else -1 for e in engines])
        own = np.vstack([self.own, np.zeros(len(self.shared))])
        scaled: Matrix = terms * np.exp(self.shared + own[index])
        return scaled

    def packed(self) -> dict[str, Any]:
        return {"shared": _rounded(self.shared), "own": _rounded(self.own)}

    @classmethod
    def unpacked(cls, data: Mapping[str, Any]) -> Coefficients:
        return cls(shared=np.array(data["shared"]), own=np.array(data["own"]))


def token_terms(cases: Cases) -> Matrix:
    """TPOT: a decoding step by its parts, and the prompts that come between."""
    steps = [cases[f"decode_{name}"] for name in STEP_TERMS]
    others = np.maximum(cases["running"] - 1, 0) * cases["marginal"] / cases["output"]
    return np.column_stack([*steps, others])


def first_terms(cases: Cases, step: Numbers) -> Matrix:
    """TTFT, with the fitted decoding ``step``. The constants are starting values.

    In order: a request's way through the server (25 ms), the step it waits for,
    its own prompt, launches of a prompt's kernels (0.1 ms a layer: prompts run
    outside captured graphs), the burst that benchmarks begin with (a tenth of the
    requests wait for half of the others), prompts ahead in the steady state,
    scheduling of each that runs, and the wait for a place.
    """
    others = np.maximum(cases["running"] - 1, 0)
    ones = np.ones(len(cases))
    return np.column_stack(
        [
            25.0 * ones,
            step,
            1.3 * cases["prefill"],
            0.1 * cases["layers"],
            0.05 * others * cases["marginal"],
            0.05 * cases["share"] * others * cases["marginal"],
            0.0015 * others * cases["layers"],
            0.003 * others * step,
            cases["waiting"],
        ]
    )


def fit(
    terms: Matrix,
    engines: Texts,
    measured: Numbers,
    weights: Numbers,
    *,
    shared_ridge: float,
    own_ridge: float,
    slack: float,
) -> Coefficients:
    """Find the factors by iteratively reweighted Gauss-Newton steps.

    ``slack`` is the relative error beyond which a point loses its weight: some
    measurements are of something else than they say.
    """
    count = terms.shape[1]
    index = np.array([ENGINES.index(engine) for engine in engines])
    target, theta = np.log(measured), np.zeros(4 * count)
    ridge = np.concatenate(
        [np.full(count, shared_ridge**2), np.full(3 * count, own_ridge**2)]
    )
    for _ in range(ROUNDS):
        factors = theta[:count] + theta[count:].reshape(3, count)[index]
        parts = terms * np.exp(factors)
        whole = parts.sum(axis=1)
        error = target - np.log(whole)
        slope = parts / whole[:, None]
        full = np.zeros((len(target), 4 * count))
        full[:, :count] = slope
        for engine in range(3):
            rows = index == engine
            begin = count * (1 + engine)
            full[rows, begin : begin + count] = slope[rows]
        trusted = weights / np.sqrt(1 + (error / slack) ** 2)
        curvature = full.T @ (full * trusted[:, None]) + np.diag(ridge)
        step = np.linalg.solve(curvature, full.T @ (trusted * error) - ridge * theta)
        # A factor of e at most in one round: the surface is not a bowl far out.
        theta += step * min(1.0, 1.0 / float(np.abs(step).max()))
    return Coefficients(shared=theta[:count], own=theta[count:].reshape(3, count))


def _rounded(values: Numbers | Matrix) -> list[Any]:
    rounded: list[Any] = np.round(values, 6).tolist()
    return rounded
