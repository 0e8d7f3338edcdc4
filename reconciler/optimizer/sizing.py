"""Sized options: every layout of a task's pools, with the batch and chunk it would get.

What HEURISTIC weighs, and what an infeasible task is told of. The batch is what the
load or the cache asks for, the chunk what engines take on such a device. Pure.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import numpy as np

from reconciler.optimizer.layouts import (
    Layouts,
    Numbers,
    Widths,
    chunk_of,
    layouts_of,
    splits,
    widths_of,
)
from reconciler.optimizer.options import Options, evaluate, join, replica_counts, room
from reconciler.optimizer.prediction import Predictor, memory
from reconciler.optimizer.task import Fixed, Pool, Task
from schemas.architecture import Architecture

__all__ = ["fixed_widths", "imagined", "sized"]

# Nodes that are imagined when nothing fits, to say what would.
IMAGINED_NODES: Final = 4
HANDFUL: Final = 4
# Of what does not fit, nobody is told who could be told of less than twice its memory.
OVERFULL: Final = 2.0


def sized(task: Task, predictor: Predictor) -> Options | None:
    """Every layout that fits; None if none does."""
    return _options(task, predictor, imagined=False)


def imagined(task: Task, predictor: Predictor) -> Options | None:
    """What could be besides if nothing had to fit and there were more nodes: the
    alternatives that an infeasible task is told of."""
    return _options(task, predictor, imagined=True)


def _options(task: Task, predictor: Predictor, *, imagined: bool) -> Options | None:
    """Every layout of every pool and precision; None if none is conceivable.

    ``imagined`` is what does not fit, or takes nodes that do not exist.
    """
    parts = []
    for i, pool in enumerate(task.pools):
        layouts, replicas = _rows(task, pool, imagined=imagined)
        for j in range(len(task.precisions)):
            sized, taken = _sized(task, pool, j, layouts, replicas)
            keep = taken <= 1.0
            if imagined:
                allowed = layouts.gpus <= (task.limits.max_gpus or np.inf)
                there = keep & allowed & (replicas <= room(pool, layouts))
                most = max(OVERFULL, taken.min(initial=np.inf))
                keep = (taken <= most) & ~there
            if keep.any():
                parts.append(
                    evaluate(
                        task,
                        predictor,
                        pool=i,
                        precision=j,
                        layouts=sized.take(keep),
                        replicas=replicas[keep],
                    )
                )
    return join(parts) if parts else None


def _rows(task: Task, pool: Pool, *, imagined: bool) -> tuple[Layouts, Numbers]:
    nodes = pool.nodes * (IMAGINED_NODES if imagined else 1)
    widths = widths_of(
        task.architecture,
        gpus_per_node=pool.gpus_per_node,
        nodes=nodes,
        batches=(0,),
        engine=task.engine,
    )
    widths = replace(widths, chunk=(chunk_of(pool.device),))
    widths = fixed_widths(widths, task.fixed, task.architecture)
    most = min(nodes * pool.gpus_per_node, task.limits.max_gpus or 10**9)
    layouts = layouts_of(
        task.architecture,
        widths,
        gpus_per_node=pool.gpus_per_node,
        most_gpus=nodes * pool.gpus_per_node if imagined else most,
    )
    machines = replace(pool, nodes=nodes)
    within = room(machines, layouts)
    tried = replica_counts(task, max(int(within.max(initial=0)), 1))
    if imagined:
        # Of what is only told, doublings beyond a handful are enough; as many as are
        # set are told of wherever they would lie.
        doublings = (n for n in tried if n <= HANDFUL or n.bit_count() == 1)
        tried = tuple(dict.fromkeys((tried[0], *doublings)))
        within = np.maximum(within, tried[0])
    counts = np.array(tried, dtype=np.float64)
    keep = counts <= within[:, None]
    rows, columns = np.nonzero(keep)
    return layouts.take(rows), counts[columns]


def _sized(
    task: Task, pool: Pool, precision: int, layouts: Layouts, replicas: Numbers
) -> tuple[Layouts, Numbers]:
    """Set each row's batch; say how much it needs of the memory there is."""
    share = np.ceil(task.concurrency / replicas)
    # Each data rank gets whole sequences.
    share = np.ceil(share / layouts.data) * layouts.data
    if task.fixed.max_batch is not None:
        share = np.full(len(layouts), float(task.fixed.max_batch))
    sized = replace(layouts, max_batch=share)
    table = memory(task, pool, task.precisions[precision], sized)
    if task.fixed.max_batch is None:
        places = np.maximum(table.sequences, 1.0) * layouts.data
        sized = replace(sized, max_batch=np.minimum(share, places))
    return sized, table.needed / table.available


def fixed_widths(widths: Widths, fixed: Fixed, architecture: Architecture) -> Widths:
    """Narrow every axis that the Endpoint sets to exactly what it says.

    A tensor width that the heads do not allow leaves its axis empty.
    """

    def one(axis: tuple[int, ...], value: int | None) -> tuple[int, ...]:
        return axis if value is None else (value,)

    tensor = one(widths.tensor, fixed.tensor)
    return replace(
        widths,
        tensor=tuple(t for t in tensor if splits(architecture, t)),
        pipeline=one(widths.pipeline, fixed.pipeline),
        data=one(widths.data, fixed.data),
        expert=widths.expert if fixed.expert is None else (fixed.expert,),
        chunk=one(widths.chunk, fixed.chunk),
    )
