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
from reconciler.optimizer.decisions import (
    Choosing,
    Outcomes,
    choose_all,
    ranking_regret,
)
from reconciler.optimizer.layouts import Numbers
from reconciler.optimizer.performance import Estimate
from reconciler.optimizer.prediction import ANALYTIC_BAND, BOUND_SHARE
from reconciler.optimizer.rows import numbers
from reconciler.optimizer.training import Measured

__all__ = ["Chosen", "Score", "decide", "predictions", "score", "table"]

# Percent added to the peer's predictions before they meet a target.
PEER_MARGINS = (0, 10, 30)


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
    held_rows: int
    held_mean: float
    """Of the runs whose load the cache holds at once: of the others, the longest
    waits decide the mean."""
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
            held = data.cases["waiting"] == 0
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
                    held_rows=int(held.sum()),
                    held_mean=_errors(value, measured, data.weights, held)[0],
                    arithmetic=_errors(plain, measured, data.weights, everything)[0],
                    peer_rows=int(both.sum()),
                    mean_on_peer=on_peer[0],
                    median_on_peer=on_peer[1],
                    peer_mean=peers[0],
                    peer_median=peers[1],
                )
            )
    return scores


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """What choosing by a predictor costs, beside the peer on its rows."""

    split: str
    by: str
    outcomes: Outcomes
    ranking_regret: float


def decide(data: Measured, found: Mapping[str, LeftOut]) -> list[Chosen]:
    """Choices from left-out predictions, and from the peer's as they stand."""
    everything = np.ones(len(data.ttft), dtype=bool)
    chosen = []
    for split in SPLITS:
        first, token = (
            predictions(split, found[split.name], data, target)
            for target in ("ttft", "tpot")
        )
        ours = Choosing(
            ttft=first.value,
            tpot=token.value,
            ttft_bound=first.bound,
            tpot_bound=token.bound,
        )
        chosen.append(_chosen(split.name, "ours", data, ours, everything))
    plain = {name: data.cases[name] for name in ("ttft", "tpot")}
    bounds = {
        f"{name}_bound": values * ANALYTIC_BAND[name] ** BOUND_SHARE
        for name, values in plain.items()
    }
    heuristic = Choosing(**plain, **bounds)
    chosen.append(_chosen("unfitted", "heuristic", data, heuristic, everything))
    ttft, tpot = (numbers(data.lines, f"aic_{t}_ms") for t in ("ttft", "tpot"))
    both = np.isfinite(ttft) & np.isfinite(tpot)
    for percent in PEER_MARGINS:
        by = 1 + percent / 100
        peer = Choosing(
            ttft=ttft, tpot=tpot, ttft_bound=ttft * by, tpot_bound=tpot * by
        )
        chosen.append(_chosen("peer's rows", f"peer +{percent} %", data, peer, both))
    return chosen


def _chosen(
    split: str, by: str, data: Measured, predicted: Choosing, rows: Mask
) -> Chosen:
    columns = [getattr(predicted, f.name)[rows] for f in fields(Choosing)]
    mine = Choosing(
        **dict(zip((f.name for f in fields(Choosing)), columns, strict=True))
    )
    known = (data.cases.take(rows), data.ttft[rows], data.tpot[rows], mine)
    return Chosen(
        split=split,
        by=by,
        outcomes=choose_all(*known),
        ranking_regret=ranking_regret(*known),
    )


def table(scores: list[Score], chosen: list[Chosen]) -> str:
    """The scores for a person to read."""
    head = (
        f"{'left out':14}{'':5}{'n':>5} {'MAPE':>6}{'median':>7}{'cover':>7}{'width':>6}"
        f"{'fits':>7}{'MAPE':>6} | {'n':>5} {'MAPE':>6}{'median':>7}"
        f"  peer {'MAPE':>6}{'median':>7}"
    )
    rows = [
        f"{s.split:14}{s.target:5}{s.rows:5} {s.mean:6.1f}{s.median:7.1f}"
        f"{s.covered:7.1f}{s.width:6.2f}{s.held_rows:7}{s.held_mean:6.1f} | "
        f"{s.peer_rows:5} {s.mean_on_peer:6.1f}"
        f"{s.median_on_peer:7.1f}       {s.peer_mean:6.1f}{s.peer_median:7.1f}"
        for s in scores
    ]
    choices = [
        f"{c.split:14}{c.by:11}{c.outcomes.tasks:6}{c.outcomes.targets:8}"
        f"{c.outcomes.missed:8.1f}{c.outcomes.none_found:6.1f}"
        f"{c.outcomes.lost_when_met:6.1f}{c.outcomes.score:7.1f}"
        f"{c.ranking_regret:8.2f}"
        for c in chosen
    ]
    below = (
        f"{'left out':14}{'chosen by':11}{'tasks':>6}{'targets':>8}{'missed':>8}"
        f"{'none':>6}{'lost':>6}{'score':>7}{'regret':>8}"
    )
    return "\n".join([head, *rows, "", below, *choices])


def _errors(
    value: Numbers, measured: Numbers, weights: Numbers, rows: Mask
) -> tuple[float, float]:
    error, weight = np.abs(value / measured - 1)[rows] * 100, weights[rows]
    order = np.argsort(error)
    half = np.searchsorted(np.cumsum(weight[order]), weight.sum() / 2)
    return float(np.average(error, weights=weight)), float(error[order][half])
