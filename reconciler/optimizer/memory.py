"""Memory of one rank: what a layout needs, and what it leaves for the cache.

The search prunes by it, HEURISTIC decides by it and the plan shows its table. It
knows the engine only through ``Reserve``; it never refuses for want of a cache
for the whole batch, because engines queue what does not fit.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Final

import numpy as np

from reconciler.optimizer.formats import formats_of
from reconciler.optimizer.layouts import Layouts, Numbers
from schemas.architecture import Architecture, Experts, FeedForward, Precision

__all__ = ["GIB", "RESERVES", "MemoryTable", "Reserve", "memory_of"]

GIB: Final = 1024**3

# Share of a device that engines fill: vLLM's --gpu-memory-utilization is 0.9 and
# TensorRT-LLM's and SGLang's defaults come to 0.88-0.93 once weights are loaded.
# 0.92 with the reserve below accepts every clean measured configuration.
UTILISATION: Final = 0.92

# Deployed, a rank needs -5 to +20 % of what is computed here: the spread of eight
# published cache sizes of vLLM on dense models (+1.3..+4.4 % before the reserve)
# and one MoE model's (8.8 GiB of 55 unaccounted for).
BAND: Final = (0.95, 1.20)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reserve:
    """What an engine takes before any weight, in GiB a rank."""

    context_gib: float
    """Driver context, kernels, allocator slack."""
    collective_gib: float
    """Buffers of the collectives, where there is more than one rank."""
    graphs_gib: float
    """Captured CUDA graphs."""


RESERVES: Final = {
    # The sum of the first and third is the 1.6 GiB that brings our cache sizes
    # within 1 % of vLLM's on dense models; 0.35 is NCCL's own on 2-8 H100
    # (aiconfigurator-core 0.12.0, systems/h100_sxm.yaml: nccl_mem).
    "vllm": Reserve(context_gib=0.9, collective_gib=0.35, graphs_gib=0.7),
    "sglang": Reserve(context_gib=0.9, collective_gib=0.35, graphs_gib=0.7),
    "trtllm": Reserve(context_gib=0.9, collective_gib=0.35, graphs_gib=0.5),
    # A process and its compute buffer; measured with a 270M model: 0.2 GiB.
    "llamacpp": Reserve(context_gib=0.2, collective_gib=0.0, graphs_gib=0.0),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryTable:
    """GiB of the fullest rank, by what takes it; arrays follow the layouts."""

    weights: Numbers
    activations: Numbers
    graphs: Numbers
    adapters: Numbers
    reserve: Numbers
    sequence: Numbers
    """Cache and state of one request at its full length."""
    available: Numbers
    """What the engine may fill of one device, or of its slice of it."""

    @property
    def fixed(self) -> Numbers:
        """Everything but the cache."""
        return (
            self.weights + self.activations + self.graphs + self.adapters + self.reserve
        )

    @property
    def needed(self) -> Numbers:
        """The least that runs: everything, and the cache of one request."""
        return self.fixed + self.sequence

    @property
    def fits(self) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
        return self.needed <= self.available

    @property
    def sequences(self) -> Numbers:
        """Requests whose cache fits at once, on one attention rank."""
        room = np.maximum(self.available - self.fixed, 0.0)
        return np.floor(room / np.maximum(self.sequence, 1e-9))

    def row(self, index: int) -> dict[str, float]:
        """One layout's table, in the order it is shown."""
        table = {f.name: float(getattr(self, f.name)[index]) for f in fields(self)}
        return table | {
            "needed": float(self.needed[index]),
            "needed_lo": float(self.needed[index]) * BAND[0],
            "needed_hi": float(self.needed[index]) * BAND[1],
        }


def memory_of(
    architecture: Architecture,
    layouts: Layouts,
    *,
    precision: Precision,
    kv_precision: Precision,
    tokens: int,
    capacity_gib: float,
    engine: str,
    lora_ranks: tuple[int, ...] = (),
) -> MemoryTable:
    """Compute the table of every layout, for requests of ``tokens`` in all."""
    reserve = RESERVES[engine]
    stage = _fullest_stage(architecture, layouts.pipeline)
    ranks = layouts.tensor * layouts.data * layouts.pipeline
    cache = layouts.by_tensor(
        lambda tensor: architecture.kv_bytes(tokens, kv_precision, tensor=tensor)
    )
    state = architecture.state_bytes() / layouts.tensor
    full = np.ones(len(layouts))
    return MemoryTable(
        weights=_weights(architecture, layouts, precision) / GIB,
        activations=_activations(architecture, layouts) / GIB,
        graphs=full * reserve.graphs_gib,
        adapters=_adapters(architecture, layouts, lora_ranks) / GIB,
        reserve=full * reserve.context_gib + (ranks > 1) * reserve.collective_gib,
        sequence=(cache + state) * stage / GIB,
        available=full * capacity_gib * (1.0 if engine == "llamacpp" else UTILISATION),
    )


def _fullest_stage(architecture: Architecture, pipeline: Numbers) -> Numbers:
    """The share of all layers on the stage that has the most of them."""
    return np.ceil(architecture.layers / pipeline) / architecture.layers


def _weights(
    architecture: Architecture, layouts: Layouts, precision: Precision
) -> Numbers:
    """Attention is split by tensor ranks and repeated on each data rank; experts
    are spread over both. Norms and routers are on every rank."""
    formats = formats_of(architecture, precision)
    by = {
        term: getattr(architecture.parameters, term) * stored.bits / 8
        for term, stored in formats.items()
    }
    stage = _fullest_stage(architecture, layouts.pipeline)
    tensor = layouts.tensor
    layers = (
        (by["attention"] + by["state_space"] + by["dense"] + by["shared"]) / tensor
        + by["routed"] / (tensor * layouts.data)
        + by["router"]
        + by["norms"]
    )
    # The first stage holds the embedding and the last the head; a tied table is
    # needed on both.
    table = by["embedding"] if architecture.tied_embeddings else by["head"]
    ends = np.where(
        layouts.pipeline > 1,
        np.maximum(by["embedding"], table),
        by["embedding"] + by["head"],
    )
    total: Numbers = layers * stage + (ends + by["vision"]) / tensor
    return total


def _activations(architecture: Architecture, layouts: Layouts) -> Numbers:
    """The widest moment of a step: residual, and the feed-forward or attention
    of ``chunk`` tokens, at 16 bits; then float32 logits, one row a sequence."""
    attention = architecture.attention
    heads = (
        attention.heads * (2 * attention.head_dim + attention.value_dim)
        if attention
        else 0
    )
    experts = architecture.experts
    wide = max(
        2 * architecture.intermediate,
        heads,
        2 * experts.top_k * experts.intermediate if experts else 0,
    )
    step = layouts.chunk * 2 * (4 * architecture.hidden + wide / layouts.tensor)
    rows = np.minimum(layouts.max_batch, layouts.chunk)
    return step + rows * 4 * architecture.vocab / layouts.tensor


def _adapters(
    architecture: Architecture, layouts: Layouts, ranks: tuple[int, ...]
) -> Numbers:
    """Every adapter is held in a slot of the largest rank, over all projections."""
    if not ranks:
        return np.zeros(len(layouts))
    hidden, wide = architecture.hidden, 0
    for block in architecture.blocks:
        feed_forward = block.feed_forward
        attention = architecture.attention
        span = attention.heads * attention.head_dim if attention else 0
        wide += block.count * 4 * (hidden + span)
        if isinstance(feed_forward, FeedForward):
            wide += block.count * 3 * (hidden + feed_forward.intermediate)
        elif isinstance(feed_forward, Experts):
            wide += block.count * 3 * (hidden + feed_forward.shared_intermediate)
    return 2.0 * len(ranks) * max(ranks) * wide / layouts.pipeline / layouts.tensor
