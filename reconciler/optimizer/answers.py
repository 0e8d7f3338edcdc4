"""From options to a Decision: what both optimizers say once they have looked.

Called by ``heuristic`` and ``regressor`` with what they considered; decides the
context length, words the reason and builds the memory table of what was chosen.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from reconciler.optimizer.choose import binding, feasible, nearest, order, runners_up
from reconciler.optimizer.front import pareto
from reconciler.optimizer.options import join
from reconciler.optimizer.prediction import Predictor, memory
from reconciler.optimizer.sizing import imagined
from reconciler.optimizer.task import (
    Candidate,
    Decision,
    Infeasible,
    Optimizer,
    Task,
)

__all__ = ["answer"]

# The workload's lengths are means. Three quarters of public chat traffic is below
# twice its mean length, and a context that is cut short fails requests.
CONTEXT_HEADROOM: Final = 2
CONTEXT_STEP: Final = 1024


def answer(task: Task, optimizer: Optimizer, predictor: Predictor) -> Decision:
    """Choose among what ``optimizer`` considers; on failure explain with what
    ``predictor`` says of more nodes.

    Raises:
        Infeasible: nothing meets every hard constraint.
    """
    found = optimizer.consider(task)
    if found is None or not feasible(found).any():
        parts = [part for part in (found, imagined(task, predictor)) if part]
        if not parts:
            raise Infeasible(_inconceivable(task), ())
        raise nearest(join(parts))
    ranked = order(found)
    ranked = ranked[feasible(found)[ranked]]
    best = int(ranked[0])
    chosen = found.candidate(best)
    binds = binding(found, best)
    pool = task.pools[int(found.pool[best])]
    precision = task.precisions[int(found.precision[best])]
    row = found.layouts.take(ranked[:1])
    table = memory(task, pool, precision, row)
    return Decision(
        chosen=chosen,
        context=_context(task, table.row(0)),
        alternatives=runners_up(found, ranked),
        reason=_reason(task, chosen, binds),
        binding=binds,
        memory_gib=table.row(0),
        method=optimizer.identity,
        considered=len(found),
        front=pareto(found),
        measured_points=int(found.prediction.points[best]),
    )


def _inconceivable(task: Task) -> str:
    if not task.pools:
        return "no node pool that may be used"
    f = task.fixed
    wanted = {
        "tensor": f.tensor,
        "pipeline": f.pipeline,
        "data": f.data,
        "expert": f.expert,
    }
    said = ", ".join(f"{k} {v}" for k, v in wanted.items() if v is not None)
    return (
        f"no layout with {said or 'these pools'} divides the model's heads and experts"
    )


def _context(task: Task, table: Mapping[str, float]) -> int:
    """What is set; else the workload with headroom, as the model and cache allow."""
    if task.fixed.context is not None:
        return task.fixed.context
    workload = task.input_tokens + task.output_tokens
    wanted = -(-CONTEXT_HEADROOM * workload // CONTEXT_STEP) * CONTEXT_STEP
    free = table["available"] - (table["needed"] - table["sequence"])
    room = int(workload * free / table["sequence"]) if table["sequence"] else wanted
    longest = task.architecture.context_length
    return max(min(wanted, room, longest), min(workload, longest))


def _reason(task: Task, chosen: Candidate, binds: str) -> str:
    ways = {
        "cost": "the cheapest token",
        "throughput": "the most tokens per second",
        "latency": "the shortest answer",
    }
    what = ways[task.objective]
    within = " that meets every hard constraint" if binds else ""
    stop = f"; {binds} rules out better" if binds else ""
    place = f"{chosen.gpus} x {chosen.gpu}" if chosen.gpu else "this node's CPUs"
    return f"{what}{within}: on {place}{stop}"
