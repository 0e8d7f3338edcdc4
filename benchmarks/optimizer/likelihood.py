"""The variances of kinship that make the training rows most likely.

    python benchmarks/optimizer/likelihood.py <folder of the rows> <ttft or tpot>

Climbs the marginal likelihood of the Gaussian process from the variances in
``kin.py`` (L-BFGS, some minutes) and prints what it finds. Rounded, and without
what a handful of misdescribed runs inflates, it is what stands there.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
from scipy.linalg import lapack  # type: ignore[import-untyped]
from scipy.optimize import minimize  # type: ignore[import-untyped]

sys.path.insert(0, str(Path(__file__).parents[2]))

from reconciler.optimizer.coefficients import Matrix
from reconciler.optimizer.kin import Kin, Shares
from reconciler.optimizer.kinship import covariance
from reconciler.optimizer.layouts import Numbers
from reconciler.optimizer.performance import TARGETS, fit_model
from reconciler.optimizer.training import read_measured
from schemas.catalog import catalog

STEPS = 40


def main() -> None:
    folder, name = Path(sys.argv[1]), sys.argv[2]
    data = read_measured(folder, catalog())
    model = fit_model(data.cases, data.ttft, data.tpot, data.weights, bands={}, seed=0)
    base = model.parts(data.cases)[name].arithmetic
    kin = next(target.kin for target in TARGETS if target.name == name)
    parts = [covariance(_alone(share), data.cases) for share in kin.shares]
    errors = np.log(getattr(data, name) / base)
    left = np.abs(errors - model.kinships[name].correct(data.cases))
    doubt = np.maximum(1.0, left / (2 * kin.noise**0.5)) / data.weights
    start = np.log([*(share.variance for share in kin.shares), kin.noise])
    found = minimize(
        lambda x: _unlikely(x, parts, errors, doubt),
        start,
        jac=True,
        method="L-BFGS-B",
        bounds=[(np.log(1e-6), np.log(0.5))] * len(start),
        options={"maxfun": STEPS},
    )
    *variances, noise = np.exp(found.x)
    for share, variance in sorted(
        zip(kin.shares, variances, strict=True), key=lambda pair: -pair[1]
    ):
        print(f"{variance:.5f} {' '.join(share.labels)} {share.by}")
    print(f"{noise:.5f} noise")


def _alone(share: Shares) -> Kin:
    return Kin(shares=(replace(share, variance=1.0),), noise=0.0)


def _unlikely(
    logs: Numbers, parts: list[Matrix], errors: Numbers, doubt: Numbers
) -> tuple[float, Numbers]:
    """The negative logarithm of the likelihood, and its slope by each variance."""
    *variances, noise = np.exp(logs)
    whole = np.diag(noise * doubt)
    for variance, part in zip(variances, parts, strict=True):
        whole += variance * part
    lower, _ = lapack.dpotrf(whole, lower=1)
    weights = lapack.dpotrs(lower, errors, lower=1)[0]
    inverse, _ = lapack.dpotri(lower, lower=1)
    inverse = np.tril(inverse) + np.tril(inverse, -1).T
    pull = np.outer(weights, weights) - inverse
    slopes = [-v * np.vdot(pull, p) / 2 for v, p in zip(variances, parts, strict=True)]
    slopes.append(-noise * np.vdot(np.diag(pull), doubt) / 2)
    value = errors @ weights / 2 + np.log(np.diag(lower)).sum()
    return float(value), np.array(slopes)


if __name__ == "__main__":
    main()
