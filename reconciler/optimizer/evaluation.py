"""`bud optimizer evaluate`: scores on cases that were left out, beside the peer's.

Each split's rows are predicted by models that never saw their group, and each
interval comes from other folds' errors. The peer's predictions stand in the same
rows (columns aic_*); they are compared on the rows it can predict. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

import numpy as np

from reconciler.optimizer.cases import Mask
from reconciler.optimizer.conformal import SPLITS, LeftOut, Split, score_bands
from reconciler.optimizer.layouts import Numbers
from reconciler.optimizer.performance import Estimate
from reconciler.optimizer.rows import numbers
from reconciler.optimizer.training import Measured

__all__ = ["Score", "predictions", "score", "table"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """Errors in percent, of the mean and the median case."""

    split: str
    target: str
    rows: int
    mean: float
    median: float
    covered: float
    """Percent of measurements inside the 90 % interval."""
    width: float
    """High over low of the median interval."""
    arithmetic: float
    """The fitted arithmetic's mean error, without corrections."""
    peer_rows: int
    mean_on_peer: float
    median_on_peer: float
    peer_mean: float
    peer_median: float


def predictions(split: Split, found: LeftOut, data: Measured, target: str) -> Estimate:
    """What is said of every run by models and bands that never saw it."""
    measured = getattr(data, target)
    columns = {f.name: np.zeros(len(measured)) for f in fields(Estimate)}
    for rows, estimate in score_bands(
        split, found, data.cases, measured, data.weights, target=target
    ):
        for name, values in columns.items():
            values[rows] = getattr(estimate, name)
    return Estimate(**columns)


def score(data: Measured, found: Mapping[str, LeftOut]) -> list[Score]:
    """Every split and target."""
    scores = []
    for split in SPLITS:
        for target in ("tpot", "ttft"):
            measured = getattr(data, target)
            said = predictions(split, found[split.name], data, target)
            value, low, high = said.value, said.low, said.high
            inside = (measured >= low) & (measured <= high)
            peer = numbers(data.lines, f"aic_{target}_ms")
            both = np.isfinite(peer)
            plain = found[split.name].parts[target].arithmetic
            everything = np.ones(len(measured), dtype=bool)
            mean, median = _errors(value, measured, data.weights, everything)
            on_peer = _errors(value, measured, data.weights, both)
            peers = _errors(peer, measured, data.weights, both)
            scores.append(
                Score(
                    split=split.name,
                    target=target,
                    rows=len(measured),
                    mean=mean,
                    median=median,
                    covered=100 * float(np.average(inside, weights=data.weights)),
                    width=float(np.median(high / low)),
                    arithmetic=_errors(plain, measured, data.weights, everything)[0],
                    peer_rows=int(both.sum()),
                    mean_on_peer=on_peer[0],
                    median_on_peer=on_peer[1],
                    peer_mean=peers[0],
                    peer_median=peers[1],
                )
            )
    return scores


def table(scores: list[Score]) -> str:
    """The scores for a person to read."""
    head = (
        f"{'left out':14}{'':5}{'n':>5} {'MAPE':>6}{'median':>7}{'cover':>7}{'width':>6}"
        f" | {'n':>5} {'MAPE':>6}{'median':>7}  peer {'MAPE':>6}{'median':>7}"
    )
    rows = [
        f"{s.split:14}{s.target:5}{s.rows:5} {s.mean:6.1f}{s.median:7.1f}"
        f"{s.covered:7.1f}{s.width:6.2f} | {s.peer_rows:5} {s.mean_on_peer:6.1f}"
        f"{s.median_on_peer:7.1f}       {s.peer_mean:6.1f}{s.peer_median:7.1f}"
        for s in scores
    ]
    return "\n".join([head, *rows])


def _errors(
    value: Numbers, measured: Numbers, weights: Numbers, rows: Mask
) -> tuple[float, float]:
    error, weight = np.abs(value / measured - 1)[rows] * 100, weights[rows]
    order = np.argsort(error)
    half = np.searchsorted(np.cumsum(weight[order]), weight.sum() / 2)
    return float(np.average(error, weights=weight)), float(error[order][half])
