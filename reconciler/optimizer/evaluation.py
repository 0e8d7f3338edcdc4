"""`bud optimizer evaluate`: scores on cases that were left out, beside the peer's.

Each split's rows are predicted by models that never saw their group, with blends and
intervals that were learned without it as well. The peer's predictions stand in the same
rows (columns aic_*); they are compared on the rows it can predict. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np

from reconciler.optimizer.cases import Mask
from reconciler.optimizer.conformal import judged
from reconciler.optimizer.decisions import (
    Choosing,
    Outcomes,
    choose_all,
    ranking_regret,
)
from reconciler.optimizer.layouts import Numbers
from reconciler.optimizer.leaving import (
    SPLITS,
    LeftOut,
    Runs,
    leave_out,
    leave_out_twice,
)
from reconciler.optimizer.performance import Estimate
from reconciler.optimizer.prediction import ANALYTIC_BAND, BOUND_SHARE
from reconciler.optimizer.rows import numbers
from reconciler.optimizer.training import Measured

__all__ = ["Chosen", "Predicted", "Score", "decide", "predictions", "score", "table"]

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Predicted:
    """What is said of every run of one split by what never saw its group."""

    split: str
    found: LeftOut
    estimates: Mapping[str, Estimate]


def predictions(runs: Runs, *, seed: int) -> list[Predicted]:
    """Of every split; some minutes."""
    return [
        _predicted(
            split.name,
            leave_out(split, runs, seed=seed),
            leave_out_twice(split, runs, seed=seed),
            runs,
        )
        for split in SPLITS
    ]


def _predicted(
    split: str, found: LeftOut, others: Mapping[int, LeftOut], runs: Runs
) -> Predicted:
    estimates = {}
    for target in found.parts:
        columns = {f.name: np.zeros(len(found.rows)) for f in fields(Estimate)}
        for places, estimate in judged(found, others, runs, target):
            for name, values in columns.items():
                values[places] = getattr(estimate, name)
        estimates[target] = Estimate(**columns)
    return Predicted(split=split, found=found, estimates=estimates)


def score(data: Measured, predicted: Sequence[Predicted]) -> list[Score]:
    """Every split and target."""
    return [
        _score(data, one, target) for one in predicted for target in ("tpot", "ttft")
    ]


def _score(data: Measured, predicted: Predicted, target: str) -> Score:
    rows, said = predicted.found.rows, predicted.estimates[target]
    measured, weights = getattr(data.runs, target)[rows], data.runs.weights[rows]
    inside = (measured >= said.low) & (measured <= said.high)
    peer = numbers(data.lines, f"aic_{target}_ms")[rows]
    both = np.isfinite(peer)
    plain = predicted.found.parts[target].arithmetic
    everything = np.ones(len(rows), dtype=bool)
    held = data.runs.cases["waiting"][rows] == 0
    mean, median = _errors(said.value, measured, weights, everything)
    on_peer = _errors(said.value, measured, weights, both)
    peers = _errors(peer, measured, weights, both)
    return Score(
        split=predicted.split,
        target=target,
        rows=len(data.rows),
        mean=mean,
        median=median,
        covered=100 * float(np.average(inside, weights=weights)),
        width=float(np.median(said.high / said.low)),
        held_rows=int((data.runs.cases["waiting"] == 0).sum()),
        held_mean=_errors(said.value, measured, weights, held)[0],
        arithmetic=_errors(plain, measured, weights, everything)[0],
        peer_rows=len(np.unique(rows[both])),
        mean_on_peer=on_peer[0],
        median_on_peer=on_peer[1],
        peer_mean=peers[0],
        peer_median=peers[1],
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """What choosing by a predictor costs, beside the peer on its rows."""

    split: str
    by: str
    outcomes: Outcomes
    ranking_regret: float


def decide(data: Measured, predicted: Sequence[Predicted]) -> list[Chosen]:
    """Choices from left-out predictions, and from the peer's as they stand."""
    everything = np.ones(len(data.rows), dtype=bool)
    chosen = []
    for one in predicted:
        # Of several draws the first: each run once.
        places = np.argsort(one.found.rows[: len(everything)])
        first, token = one.estimates["ttft"], one.estimates["tpot"]
        ours = Choosing(
            ttft=first.value[places],
            tpot=token.value[places],
            ttft_bound=first.bound[places],
            tpot_bound=token.bound[places],
        )
        chosen.append(_chosen(one.split, "ours", data, ours, everything))
    plain = {name: data.runs.cases[name] for name in ("ttft", "tpot")}
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
    runs = data.runs
    known = (runs.cases.take(rows), runs.ttft[rows], runs.tpot[rows], mine)
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
