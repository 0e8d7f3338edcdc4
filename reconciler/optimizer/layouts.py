"""Layouts: ways to lay one replica out on GPUs, as columns.

``Layouts`` is what the memory and performance models compute over, thousands of
rows at once; ``layouts_of`` lists every row a pool allows. It never judges one:
whether it fits and how fast it is are other modules' answers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from itertools import product
from typing import Final

import numpy as np

from reconciler.optimizer.device import Device
from schemas.architecture import Architecture

__all__ = [
    "CHUNKS",
    "Layouts",
    "Numbers",
    "Widths",
    "chunk_of",
    "layouts_of",
    "splits",
    "widths_of",
]

Numbers = np.ndarray[tuple[int], np.dtype[np.float64]]

# Tokens an engine lets into one step. 2048 was vLLM's default, 8192 is on large
# GPUs; beyond 16384 a step is longer than any per-token target.
CHUNKS: Final = (2048, 4096, 8192, 16384)


# vLLM's own rule: 8192 tokens a step on devices of 70 GiB and more, 2048 below.
LARGE_DEVICE_GIB: Final = 70


@dataclass(frozen=True, slots=True, kw_only=True)
class Layouts:
    """One row a layout. GPUs of a row are tensor x pipeline x data."""

    tensor: Numbers
    pipeline: Numbers
    data: Numbers
    """Ranks that hold their own requests; attention is repeated on each."""
    expert: Numbers
    """Ranks the experts are spread over; tensor x data is the most."""
    max_batch: Numbers
    """Sequences that run at once, in the whole replica."""
    chunk: Numbers

    @classmethod
    def one(
        cls,
        *,
        tensor: int = 1,
        pipeline: int = 1,
        data: int = 1,
        expert: int = 1,
        max_batch: int,
        chunk: int = 8192,
    ) -> Layouts:
        return cls.of([(tensor, pipeline, data, expert, max_batch, chunk)])

    @classmethod
    def of(cls, rows: list[tuple[int, ...]]) -> Layouts:
        """Build from rows of numbers in the order of the fields."""
        columns = np.array(rows, dtype=np.float64).reshape(-1, len(fields(cls))).T
        return cls(**{f.name: columns[i] for i, f in enumerate(fields(cls))})

    def __len__(self) -> int:
        return len(self.tensor)

    @property
    def gpus(self) -> Numbers:
        return self.tensor * self.pipeline * self.data

    def by_tensor(self, what: Callable[[int], float]) -> Numbers:
        """A number of each row that its tensor width decides, asked once a width."""
        widths, index = np.unique(self.tensor, return_inverse=True)
        found: Numbers = np.array([float(what(int(width))) for width in widths])[index]
        return found

    def take(self, keep: np.ndarray[tuple[int], np.dtype[np.generic]]) -> Layouts:
        """The rows a mask or a list of indices selects."""
        return Layouts(**{f.name: getattr(self, f.name)[keep] for f in fields(self)})


@dataclass(frozen=True, slots=True, kw_only=True)
class Widths:
    """The values that each axis may take."""

    tensor: tuple[int, ...]
    pipeline: tuple[int, ...]
    data: tuple[int, ...]
    expert: tuple[int, ...] | None
    """None: 1 and all of tensor x data, where there are experts."""
    max_batch: tuple[int, ...]
    chunk: tuple[int, ...]


def widths_of(
    architecture: Architecture,
    *,
    gpus_per_node: int,
    nodes: int,
    batches: tuple[int, ...],
    engine: str,
) -> Widths:
    """What the model and the machines allow, before anybody fixed anything.

    Tensor ranks stay within a node: they meet twice a layer. Pipeline stages may
    cross nodes; data-parallel attention is for models with experts, where it
    saves repeating a latent cache.
    """
    if engine == "llamacpp":
        return Widths(
            tensor=(1,),
            pipeline=(1,),
            data=(1,),
            expert=None,
            max_batch=batches,
            chunk=(2048,),
        )
    within = _powers_of_two(gpus_per_node)
    return Widths(
        tensor=tuple(t for t in within if splits(architecture, t)),
        pipeline=tuple(
            p
            for p in _powers_of_two(max(nodes, gpus_per_node))
            if p <= architecture.layers
        ),
        data=within if architecture.experts else (1,),
        expert=None,
        max_batch=batches,
        chunk=CHUNKS,
    )


def chunk_of(device: Device) -> int:
    """Tokens of a step where nobody says or searches them."""
    return 8192 if device.memory_gib >= LARGE_DEVICE_GIB else 2048


def splits(architecture: Architecture, tensor: int) -> bool:
    """Whether ``tensor`` ranks can share the heads: query heads divide evenly, and
    kv heads do or are repeated evenly."""
    heads, kv_heads = architecture.heads, architecture.kv_heads
    if not heads:
        return architecture.hidden % tensor == 0
    shared = kv_heads % tensor == 0 or tensor % kv_heads == 0
    return heads % tensor == 0 and shared


def layouts_of(
    architecture: Architecture, widths: Widths, *, gpus_per_node: int, most_gpus: int
) -> Layouts:
    """List every layout of at most ``most_gpus`` GPUs.

    A pipeline stage lies within one node; a replica of more than one node fills
    whole nodes, so that no two replicas share a node's links.
    """
    rows: list[tuple[int, ...]] = []
    for tensor, pipeline, data in product(widths.tensor, widths.pipeline, widths.data):
        stage, gpus = tensor * data, tensor * pipeline * data
        if stage > gpus_per_node or gpus > most_gpus:
            continue
        if gpus > gpus_per_node and gpus % gpus_per_node:
            continue
        experts = architecture.experts
        spread = widths.expert or ((1, stage) if experts else (1,))
        for expert in sorted(set(spread)):
            if stage % expert or (experts and experts.routed % expert):
                continue
            rows += [
                (tensor, pipeline, data, expert, batch, chunk)
                for batch, chunk in product(widths.max_batch, widths.chunk)
                if batch % data == 0
            ]
    return Layouts.of(rows)


def _powers_of_two(most: int) -> tuple[int, ...]:
    return tuple(2**i for i in range(max(most, 1).bit_length()))
