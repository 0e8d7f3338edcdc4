"""Time of one engine step, from what it must multiply, read and exchange.

A step runs ``decode`` sequences one token on and ``prefill`` prompt tokens with
them. Everything is in milliseconds and follows the rows of ``Layouts``. It knows
nothing of queues: ``serving`` makes requests out of steps.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np

from reconciler.optimizer.device import Device
from reconciler.optimizer.efficiency import Efficiency
from reconciler.optimizer.formats import formats_of
from reconciler.optimizer.layouts import Layouts, Numbers
from schemas.architecture import (
    Architecture,
    Attention,
    Experts,
    FeedForward,
    LatentAttention,
    Precision,
    StateSpace,
)

__all__ = ["TERMS", "Load", "StepModel"]

# Activations travel between GPUs at 16 bits, whatever the weights are.
ACTIVATION_BYTES: Final = 2
# DeepSeek sparse attention looks at this many tokens (index_topk of its configs).
SPARSE_TOKENS: Final = 2048
TERMS: Final = ("weights", "core", "experts", "exchange", "head", "overhead")
"""What a step's time is made of."""

Mixer = Attention | LatentAttention | StateSpace | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What one step does on one attention rank."""

    decode: Numbers
    """Sequences that produce one token."""
    context: Numbers
    """Tokens each of them looks back on."""
    prefill: Numbers
    """Prompt tokens."""
    length: Numbers
    """Tokens of the prompt they belong to, looked back on by half on average."""

    @property
    def tokens(self) -> Numbers:
        return self.decode + self.prefill


@dataclass(frozen=True, kw_only=True)
class StepModel:
    """One model at one precision on one kind of device."""

    architecture: Architecture
    precision: Precision
    kv_precision: Precision
    device: Device
    efficiency: Efficiency

    @cached_property
    def _formats(self) -> dict[str, Precision]:
        return dict(formats_of(self.architecture, self.precision))

    @cached_property
    def _block_scaled(self) -> bool:
        """FP8 that a model was published in is scaled in blocks; FP8 that was made
        of it afterwards, per tensor."""
        return self.architecture.native == Precision.FP8

    def terms(self, layouts: Layouts, load: Load) -> dict[str, Numbers]:
        """A step through all layers, by what takes the time, in ``TERMS``' order.

        With a pipeline it is the time through all stages: ``load`` is then that of
        one micro-batch.
        """
        terms = {name: np.zeros(len(layouts)) for name in TERMS}
        for block in self.architecture.blocks:
            self._mixer(block.mixer, block.count, layouts, load, terms)
            self._network(block.feed_forward, block.count, layouts, load, terms)
        terms["head"] = self._head(layouts, load)
        size = load.tokens * self.architecture.hidden * ACTIVATION_BYTES
        hops = (layouts.pipeline - 1) * self.efficiency.send_ms(self.device, size)
        terms["exchange"] = terms["exchange"] + hops
        layers = self.architecture.layers * self.efficiency.layer_ms
        # Norms and rotary embedding read and write the residual a few times.
        passes = (
            8 * size * self.architecture.layers / (self.device.bandwidth_gb_s * 1e6)
        )
        terms["overhead"] = passes + layers + self.efficiency.step_ms
        return terms

    def _mixer(
        self,
        mixer: Mixer,
        count: int,
        layouts: Layouts,
        load: Load,
        terms: dict[str, Numbers],
    ) -> None:
        if mixer is None:
            return
        parts: tuple[float, ...]
        if isinstance(mixer, StateSpace):
            parts, weights = (0.75, 0.25), self._formats["state_space"]
            core = self._state(mixer, layouts, load)
        elif isinstance(mixer, LatentAttention):
            # Down to the latents, up from each, and out.
            parts, weights = (0.1, 0.25, 0.2, 0.45), self._formats["attention"]
            core = self._latent(mixer, layouts, load)
        else:
            wide = mixer.heads + 2 * mixer.kv_heads
            into = wide / (wide + mixer.heads)
            parts, weights = (into, 1 - into), self._formats["attention"]
            core = self._heads(mixer, layouts, load)
        for part in parts:
            product = self._product(mixer.parameters * part, weights, layouts, load)
            terms["weights"] += count * product
        terms["core"] += count * core
        size = load.tokens * self.architecture.hidden * ACTIVATION_BYTES
        reduce = self.efficiency.all_reduce_ms(self.device, layouts.tensor, size)
        terms["exchange"] += count * reduce

    def _network(
        self,
        part: FeedForward | Experts | None,
        count: int,
        layouts: Layouts,
        load: Load,
        terms: dict[str, Numbers],
    ) -> None:
        if part is None:
            return
        experts = isinstance(part, Experts)
        dense = part.shared_parameters if isinstance(part, Experts) else part.parameters
        weights = self._formats["shared" if experts else "dense"]
        for share in (2 / 3, 1 / 3):
            terms["weights"] += count * self._product(
                dense * share, weights, layouts, load
            )
        ranks, tokens = layouts.tensor, load.tokens
        if isinstance(part, Experts):
            terms["experts"] += count * self._experts(part, layouts, load)
            # Every rank of a stage sees every token: gathered, then summed.
            ranks, tokens = ranks * layouts.data, tokens * layouts.data
        size = tokens * self.architecture.hidden * ACTIVATION_BYTES
        terms["exchange"] += count * self.efficiency.all_reduce_ms(
            self.device, ranks, size
        )

    def _product(
        self, parameters: float, weights: Precision, layouts: Layouts, load: Load
    ) -> Numbers:
        """Every token of this rank times a shard of a matrix."""
        return self.efficiency.product_ms(
            self.device,
            weights,
            parameters=parameters / layouts.tensor,
            tokens=load.tokens,
            block=self._block_scaled,
        )

    def _heads(self, mixer: Attention, layouts: Layouts, load: Load) -> Numbers:
        window = float(mixer.window) if mixer.window else np.inf
        elements = layouts.by_tensor(mixer.cache_elements)
        seen = np.minimum(load.context, window)
        heads = mixer.heads / layouts.tensor
        width = mixer.head_dim + mixer.value_dim
        cached = self.efficiency.cache_ms(
            self.device,
            traffic=load.decode * seen * elements * self.kv_precision.bits / 8,
            work=2 * heads * width * seen * load.decode,
            heads=heads,
            batch=load.decode,
            kind="heads",
        )
        return cached + self._looked(heads, width, window, load, kind="heads")

    def _latent(self, mixer: LatentAttention, layouts: Layouts, load: Load) -> Numbers:
        """Decoding multiplies with the latent itself; prompts expand it first.
        With sparse attention the indexer reads a small key of every token."""
        heads = mixer.heads / layouts.tensor
        most = SPARSE_TOKENS if mixer.index_dim else np.inf
        seen = np.minimum(load.context, most)
        latent = mixer.kv_rank + mixer.rope_dim
        indexed = load.decode * load.context * mixer.index_dim
        cached = self.efficiency.cache_ms(
            self.device,
            traffic=load.decode * seen * latent * self.kv_precision.bits / 8 + indexed,
            work=2 * heads * (latent + mixer.kv_rank) * seen * load.decode,
            heads=heads,
            batch=load.decode,
            kind="latent",
        )
        width = mixer.head_dim + mixer.value_dim
        return cached + self._looked(heads, width, most, load, kind="latent")

    def _looked(
        self, heads: Numbers, width: int, most: float, load: Load, *, kind: str
    ) -> Numbers:
        """What prompts look back on: half their length on average, or a window."""
        looked = np.minimum(load.length / 2, most)
        return self.efficiency.prompt_ms(
            self.device,
            traffic=np.zeros_like(heads),
            work=2 * heads * width * looked * load.prefill,
            length=np.maximum(load.length, 1.0),
            heads=heads,
            kind=kind,
        )

    def _state(self, mixer: StateSpace, layouts: Layouts, load: Load) -> Numbers:
        """Each sequence's state is read and written once a step, and once for every
        64 tokens of a prompt, the chunk that the kernels work in."""
        state = mixer.bytes_per_sequence / layouts.tensor
        work = 6 * mixer.state_elements / layouts.tensor
        cached = self.efficiency.cache_ms(
            self.device,
            traffic=2 * state * load.decode,
            work=work * load.decode,
            heads=np.ones(len(layouts)),
            batch=load.decode,
            kind="state",
        )
        # About the number of value heads: their states are 128 x 128.
        heads = mixer.state_elements / 128**2 / layouts.tensor
        prompts = self.efficiency.prompt_ms(
            self.device,
            traffic=2 * state * load.prefill / 64,
            work=work * load.prefill,
            length=load.prefill,
            heads=heads,
            kind="state",
        )
        return cached + prompts

    def _experts(self, experts: Experts, layouts: Layouts, load: Load) -> Numbers:
        """Every expert that a token chose is read once."""
        tokens = np.maximum(load.tokens * layouts.data, TINY_TOKENS)
        chosen = -np.expm1(tokens * np.log1p(-experts.top_k / experts.routed))
        ranks = layouts.tensor * layouts.data
        held = experts.routed * experts.expert_parameters / ranks
        return self.efficiency.experts_ms(
            self.device,
            self._formats["routed"],
            touched=chosen * held,
            work=2 * tokens * experts.top_k * experts.expert_parameters / ranks,
            rows=tokens * experts.top_k / experts.routed,
            held=held,
        )

    def _head(self, layouts: Layouts, load: Load) -> Numbers:
        parameters = self.architecture.vocab * self.architecture.hidden
        return self.efficiency.product_ms(
            self.device,
            self._formats["head"],
            parameters=parameters / layouts.tensor,
            tokens=np.maximum(load.decode, 1.0),
        )


# A step without tokens does not happen; this keeps its logarithms finite.
TINY_TOKENS: Final = 1e-3
