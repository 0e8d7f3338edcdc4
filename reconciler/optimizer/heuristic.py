"""HEURISTIC: memory arithmetic, tensor and pipeline ranks, in milliseconds.

Every layout that fits is timed by arithmetic alone; batch and chunk are not
searched but set: the batch is what the load or the cache asks for, the chunk what
engines take on such a device. REGRESSOR searches both and believes measurements.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np

from reconciler.optimizer.answers import answer
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
from reconciler.optimizer.prediction import AnalyticPredictor, Predictor, memory
from reconciler.optimizer.task import Decision, Fixed, Pool, Task
from schemas.architecture import Architecture

__all__ = ["Heuristic", "fixed_widths", "imagine"]

# Nodes that are imagined when nothing fits, to say what would.
IMAGINED_NODES: Final = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Heuristic:
    predictor: Predictor = field(default_factory=AnalyticPredictor)

    @property
    def identity(self) -> str:
        return f"heuristic/1+{self.predictor.identity}"

    def decide(self, task: Task) -> Decision:
        return answer(
            task,
            options=lambda: self.consider(task),
            imagined=lambda: imagine(task, self.predictor),
            identity=self.identity,
        )

    def consider(self, task: Task) -> Options | None:
        """Every layout that fits, with the batch and chunk it would get."""
        return _options(task, self.predictor, imagined=False)


def imagine(task: Task, predictor: Predictor) -> Options | None:
    """What could be if nothing had to fit and there were more nodes: the
    alternatives that an infeasible task is told of."""
    return _options(task, predictor, imagined=True)


def _options(task: Task, predictor: Predictor, *, imagined: bool) -> Options | None:
    """Every layout of every pool and precision; None if none is conceivable.

    ``imagined`` keeps what does not fit and adds nodes that do not exist.
    """
    parts = []
    for i, pool in enumerate(task.pools):
        layouts, replicas = _rows(task, pool, imagined=imagined)
        for j in range(len(task.precisions)):
            sized, fits = _sized(task, pool, j, layouts, replicas)
            keep = np.full(len(sized), fill_value=True) if imagined else fits
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
    limit = int(room(machines, layouts).max(initial=0))
    tried = replica_counts(task, max(limit, 1))
    if imagined:
        # Of what is only told, every third number beyond a handful is enough.
        tried = tried[:4] + tried[4::3]
    counts = np.array(tried, dtype=np.float64)
    index, count = np.meshgrid(np.arange(len(layouts)), counts, indexing="ij")
    rows, replicas = layouts.take(index.ravel()), count.ravel()
    if imagined:
        return rows, replicas
    keep = replicas <= room(pool, rows)
    return rows.take(keep), replicas[keep]


def _sized(
    task: Task, pool: Pool, precision: int, layouts: Layouts, replicas: Numbers
) -> tuple[Layouts, np.ndarray[tuple[int], np.dtype[np.bool_]]]:
    """Set each row's batch; say which rows fit."""
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
    return sized, table.fits


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
