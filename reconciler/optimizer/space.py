"""The space that REGRESSOR searches: every choice of one task, by number.

A choice is five numbers: a block (pool and precision), a layout in it, a batch, a
chunk and a number of replicas. ``options`` evaluates many choices at once; the
exact search lists all of them, the genetic one breeds them. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from reconciler.optimizer.layouts import Layouts, Numbers, layouts_of, widths_of
from reconciler.optimizer.options import Options, evaluate, join, replica_counts, room
from reconciler.optimizer.prediction import Predictor
from reconciler.optimizer.sizing import fixed_widths
from reconciler.optimizer.task import Task

__all__ = ["GENES", "Block", "Choices", "Space", "space_of"]

GENES: Final = 5
# Engines take any batch; powers of two are what their graphs are captured for.
BATCHES: Final = tuple(2**i for i in range(11))

Choices = np.ndarray[tuple[int, int], np.dtype[np.int64]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """One pool at one precision."""

    pool: int
    precision: int
    layouts: Layouts
    """Ranks only; batch and chunk are put in their place."""
    batches: tuple[int, ...]
    chunks: tuple[int, ...]
    replicas: tuple[int, ...]

    @property
    def sizes(self) -> tuple[int, int, int, int]:
        return (
            len(self.layouts), len(self.batches), len(self.chunks), len(self.replicas)
        )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Space:
    task: Task
    blocks: tuple[Block, ...]

    @property
    def size(self) -> int:
        return sum(int(np.prod(block.sizes)) for block in self.blocks)

    def everything(self) -> Choices:
        """Every choice, in a fixed order."""
        parts = []
        for number, block in enumerate(self.blocks):
            grid = np.indices(block.sizes).reshape(4, -1).T
            parts.append(np.insert(grid, 0, number, axis=1))
        return np.concatenate(parts).astype(np.int64)

    def wrap(self, choices: Choices) -> Choices:
        """Bring each number into its block's range, so that any five are a choice."""
        sizes = np.array([block.sizes for block in self.blocks])
        blocks = choices[:, 0] % len(self.blocks)
        rest = choices[:, 1:] % sizes[blocks]
        return np.column_stack([blocks, rest]).astype(np.int64)

    def sensible(self, choices: Choices) -> Choices:
        """Drop batches far beyond a replica's share: they are served like the least
        that holds it; and replicas that have no room."""
        keep = np.zeros(len(choices), dtype=bool)
        for number, block in enumerate(self.blocks):
            rows = np.flatnonzero(choices[:, 0] == number)
            layouts, replicas = _layouts(block, choices[rows])
            share = np.ceil(self.task.concurrency / replicas)
            least = 2 ** np.ceil(np.log2(np.maximum(share, layouts.data)))
            fixed = self.task.fixed.max_batch is not None
            held = (layouts.max_batch <= least) | fixed
            whole = layouts.max_batch % layouts.data == 0
            pool = self.task.pools[block.pool]
            keep[rows] = held & whole & (replicas <= room(pool, layouts))
        return choices[keep]

    def options(self, choices: Choices, predictor: Predictor) -> Options:
        """Evaluate choices; the rows of a block stand together, in block order."""
        parts = []
        for number, block in enumerate(self.blocks):
            rows = choices[choices[:, 0] == number]
            if not len(rows):
                continue
            layouts, replicas = _layouts(block, rows)
            parts.append(
                evaluate(
                    self.task,
                    predictor,
                    pool=block.pool,
                    precision=block.precision,
                    layouts=layouts,
                    replicas=replicas,
                )
            )
        return join(parts)


def space_of(task: Task) -> Space:
    """Everything that the task leaves open."""
    blocks = []
    for number, pool in enumerate(task.pools):
        batches = tuple(b for b in BATCHES if b < 2 * task.concurrency) or (1,)
        if task.fixed.max_batch is not None:
            batches = (task.fixed.max_batch,)
        widths = widths_of(
            task.architecture,
            gpus_per_node=pool.gpus_per_node,
            nodes=pool.nodes,
            batches=(0,),
            engine=task.engine,
        )
        chunks = (task.fixed.chunk,) if task.fixed.chunk else widths.chunk
        ranks = fixed_widths(widths, replace(task.fixed, chunk=0), task.architecture)
        layouts = layouts_of(
            task.architecture,
            ranks,
            gpus_per_node=pool.gpus_per_node,
            most_gpus=min(pool.devices, task.limits.max_gpus or pool.devices),
        )
        if not len(layouts):
            continue
        most = int(room(pool, layouts).max())
        blocks += [
            Block(
                pool=number,
                precision=precision,
                layouts=layouts,
                batches=batches,
                chunks=chunks,
                replicas=replica_counts(task, max(most, 1)),
            )
            for precision in range(len(task.precisions))
        ]
    return Space(task=task, blocks=tuple(blocks))


def _layouts(block: Block, choices: Choices) -> tuple[Layouts, Numbers]:
    ranks = block.layouts.take(choices[:, 1])
    layouts = replace(
        ranks,
        max_batch=np.array(block.batches, dtype=float)[choices[:, 2]],
        chunk=np.array(block.chunks, dtype=float)[choices[:, 3]],
    )
    return layouts, np.array(block.replicas, dtype=float)[choices[:, 4]]
