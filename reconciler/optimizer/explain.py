"""Explain: why this layout, what else there was, and what one more GPU buys.

Called by `bud optimize`, the plan's comment and the console. Text and SVG from
values; it decides nothing that ``choose`` has not. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from html import escape
from typing import Final

import numpy as np

from reconciler.optimizer.choose import feasible, order, runners_up
from reconciler.optimizer.options import Options
from reconciler.optimizer.task import (
    Candidate,
    Decision,
    Infeasible,
    Optimizer,
    Task,
)

__all__ = ["Explanation", "Point", "explain", "pareto", "picture", "table"]


SHOWN: Final = 8
WIDTH, HEIGHT, MARGIN = 640, 360, 56


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One option in the picture."""

    spent: float
    """USD an hour, or devices where there is no price."""
    tokens_per_s: float
    feasible: bool
    label: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    decision: Decision
    best: tuple[Candidate, ...]
    """The chosen one and the best that differ from it, best first."""
    front: tuple[Point, ...]
    """No other option serves as much for less."""
    one_more: str
    """What one more GPU would buy, in words."""


def explain(task: Task, optimizer: Optimizer) -> Explanation:
    """Decide once more, with everything that was considered at hand.

    Raises:
        Infeasible: as ``optimizer.decide`` does.
    """
    decision = optimizer.decide(task)
    options = optimizer.consider(task)
    assert options is not None, "a decision had options"
    ranked = order(options)
    ranked = ranked[feasible(options)[ranked]]
    return Explanation(
        decision=decision,
        best=(decision.chosen, *runners_up(options, ranked, SHOWN - 1)),
        front=pareto(options),
        one_more=_one_more(task, decision, optimizer),
    )


def pareto(options: Options) -> tuple[Point, ...]:
    """Options of which none serves as much for less, from cheap to fast."""
    priced = all(pool.price_usd_per_h is not None for pool in options.task.pools)
    spent = options.usd_per_h if priced else options.devices
    rate, good = options.tokens_per_s, feasible(options)
    front, best = [], 0.0
    for index in np.lexsort((-rate, spent)):
        if good[index] and rate[index] > best * 1.001:
            best = float(rate[index])
            front.append(_point(options, int(index), float(spent[index])))
    return tuple(front)


def table(explanation: Explanation) -> str:
    """The best alternatives and the memory of the chosen one, for a terminal."""
    head = (
        f"{'':2}{'pool':14}{'gpu':18}{'layout':20}{'batch':>6}{'chunk':>7}{'x':>4}"
        f"{'TTFT ms (90 %)':>24}{'TPOT ms (90 %)':>24}{'tok/s':>9}{'USD/h':>8}"
    )
    rows = [
        _row("> " if index == 0 else "  ", candidate)
        for index, candidate in enumerate(explanation.best)
    ]
    decision = explanation.decision
    memory = ", ".join(f"{name} {gib:.1f}" for name, gib in decision.memory_gib.items())
    return "\n".join(
        [
            head,
            *rows,
            "",
            f"why      {decision.reason}",
            f"binds    {decision.binding or 'nothing'}",
            f"one more {explanation.one_more}",
            f"memory   GiB a rank: {memory}",
            f"rests on {decision.measured_points} measured points of model and GPU",
            f"of       {decision.considered} options considered",
        ]
    )


def picture(explanation: Explanation) -> str:
    """The Pareto front as an SVG: what is spent across, tokens per second up."""
    front = explanation.front
    if not front:
        return f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="0"/>'
    most_spent = max(point.spent for point in front) * 1.05
    most_rate = max(point.tokens_per_s for point in front) * 1.05

    def place(point: Point) -> tuple[float, float]:
        x = MARGIN + (WIDTH - 2 * MARGIN) * point.spent / most_spent
        y = HEIGHT - MARGIN - (HEIGHT - 2 * MARGIN) * point.tokens_per_s / most_rate
        return round(x, 1), round(y, 1)

    line = " ".join(f"{x},{y}" for x, y in map(place, front))
    chosen = _label(explanation.decision.chosen)
    dots = "\n".join(_dot(point, *place(point), chosen) for point in front)
    across = "USD an hour" if _priced(explanation) else "GPUs"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'role="img" font-family="sans-serif" font-size="11">\n'
        f"<title>Cheapest ways to serve, by tokens per second</title>\n"
        f'<path d="M{MARGIN} {MARGIN}V{HEIGHT - MARGIN}H{WIDTH - MARGIN}" '
        f'fill="none" stroke="currentColor"/>\n'
        f'<polyline points="{line}" fill="none" stroke="currentColor" '
        f'stroke-dasharray="3 3"/>\n{dots}\n'
        f'<text x="{WIDTH // 2}" y="{HEIGHT - 12}" text-anchor="middle">{across}, '
        f"up to {most_spent:.4g}</text>\n"
        f'<text x="14" y="{HEIGHT // 2}" text-anchor="middle" '
        f'transform="rotate(-90 14 {HEIGHT // 2})">tokens per second, up to '
        f"{most_rate:.4g}</text>\n</svg>\n"
    )


def _dot(point: Point, x: float, y: float, chosen: str) -> str:
    radius = 6 if point.label == chosen else 3
    return (
        f'<circle cx="{x}" cy="{y}" r="{radius}" fill="currentColor">'
        f"<title>{escape(point.label)}: {point.tokens_per_s:.4g} tok/s for "
        f"{point.spent:.4g}</title></circle>"
    )


def _priced(explanation: Explanation) -> bool:
    return explanation.decision.chosen.usd_per_h is not None


def _point(options: Options, index: int, spent: float) -> Point:
    return Point(
        spent=spent,
        tokens_per_s=float(options.tokens_per_s[index]),
        feasible=True,
        label=_label(options.candidate(index)),
    )


def _label(c: Candidate) -> str:
    return (
        f"{c.replicas} x {c.gpu or 'cpu'} t{c.tensor} p{c.pipeline} d{c.data} "
        f"e{c.expert} {c.precision}, batch {c.max_batch}"
    )


def _row(mark: str, c: Candidate) -> str:
    p = c.prediction
    ranks = f"t{c.tensor} p{c.pipeline} d{c.data} e{c.expert} {c.precision}"
    spans = [
        f"{p[f'{n}_ms']:.4g} ({p[f'{n}_lo']:.3g}-{p[f'{n}_hi']:.3g})"
        for n in ("ttft", "tpot")
    ]
    price = "-" if c.usd_per_h is None else f"{c.usd_per_h:.2f}"
    return (
        f"{mark}{c.node_pool[:13]:14}{(c.gpu or 'cpu')[:17]:18}{ranks:20}"
        f"{c.max_batch:6}{c.chunk:7}{c.replicas:4}{spans[0]:>24}{spans[1]:>24}"
        f"{p['tokens_per_s']:9.0f}{price:>8}"
    )


def _one_more(task: Task, decision: Decision, optimizer: Optimizer) -> str:
    """Decide again with one more node's worth of freedom, or say what it would be."""
    had = decision.chosen.gpus
    if not had:
        return "a GPU would change the engine: nothing to compare"
    freer = replace(
        task,
        objective="throughput",
        limits=replace(task.limits, max_gpus=had + 1, max_usd_per_month=None),
        fixed=replace(task.fixed, replicas=None),
        autoscaled=None,
    )
    try:
        other = optimizer.decide(freer).chosen
    except Infeasible:
        return "nothing: no layout of that many GPUs meets the targets"
    gain = other.prediction["tokens_per_s"] / decision.chosen.prediction["tokens_per_s"]
    if other.gpus <= had or gain <= 1:
        return f"nothing: the best use of {had + 1} GPUs is that of {had} or fewer"
    return f"{100 * (gain - 1):.0f} % more tokens per second ({_label(other)})"
