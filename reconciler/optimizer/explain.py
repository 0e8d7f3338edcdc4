"""Explain: why this layout, what else there was, and what one more GPU buys.

Called by `bud optimize`. Text and SVG from values; it decides nothing that ``choose``
has not. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from reconciler.optimizer.choose import feasible, order, runners_up
from reconciler.optimizer.front import picture
from reconciler.optimizer.task import (
    Candidate,
    Decision,
    Infeasible,
    Optimizer,
    Task,
)

__all__ = ["Explanation", "drawn", "explain", "table"]


SHOWN: Final = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    decision: Decision
    best: tuple[Candidate, ...]
    """The chosen one and the best that differ from it, best first."""
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
        one_more=_one_more(task, decision, optimizer),
    )


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


def drawn(explanation: Explanation) -> str:
    """The picture of the front, as SVG."""
    chosen = explanation.decision.chosen
    return picture(
        explanation.decision.front,
        chosen=chosen.label,
        across="GPUs" if chosen.usd_per_h is None else "USD an hour",
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
    return f"{100 * (gain - 1):.0f} % more tokens per second ({other.label})"
