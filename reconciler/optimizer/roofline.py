"""Time of one engine step, from what it must multiply, read and exchange.

A step runs ``decode`` sequences one token on and ``prefill`` prompt tokens with
them. Each operator takes the longer of its arithmetic and its memory traffic,
each at the fraction of the datasheet that ``Efficiency`` says is achieved, plus
a fixed cost. Everything is in milliseconds and follows the rows of ``Layouts``.
It knows nothing of queues: ``serving`` makes requests out of steps.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from reconciler.optimizer.device import Device
from reconciler.optimizer.efficiency import Efficiency
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

__all__ = ["Load", "StepModel"]

ACTIVATION_BYTES = 2
"""Activations travel between GPUs at 16 bits, whatever the weights are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What one step does on one attention rank."""

    decode: Numbers
    """Sequences that produce one token."""
    context: Numbers
    """Tokens each of them looks back on."""
    prefill: Numbers
    """Prompt tokens."""
    prefill_context: Numbers
    """Tokens a prompt token looks back on, on average."""

    @property
    def tokens(self) -> Numbers:
        return self.decode + self.prefill


@dataclass(frozen=True, slots=True, kw_only=True)
class StepModel:
    """One model at one precision on one kind of device."""

    architecture: Architecture
    precision: Precision
    kv_precision: Precision
    device: Device
    efficiency: Efficiency

    def step_ms(self, layouts: Layouts, load: Load) -> Numbers:
        """Time of one step through all layers.

        With a pipeline it is the time through all stages: ``load`` is then that of
        one micro-batch.
        """
        total = np.zeros(len(layouts))
        for block in self.architecture.blocks:
            layer = self._mixer(block.mixer, layouts, load)
            layer = layer + self._feed_forward(block.feed_forward, layouts, load)
            total += block.count * (layer + self.efficiency.layer_overhead_ms)
        hops = (layouts.pipeline - 1) * self._send(load)
        return total + self._head(layouts, load) + hops + self.efficiency.step_ms

    def terms(self, layouts: Layouts, load: Load) -> dict[str, Numbers]:
        """The step by what takes the time: what the learned correction sees."""
        weights, core, experts, exchange = (np.zeros(len(layouts)) for _ in range(4))
        for block in self.architecture.blocks:
            mixer, feed_forward = block.mixer, block.feed_forward
            if mixer is not None:
                weights += block.count * self._projections(mixer, layouts, load)
                core += block.count * self._core(mixer, layouts, load)
                exchange += block.count * self._all_reduce(layouts, load)
            if isinstance(feed_forward, FeedForward):
                weights += block.count * self._dense(
                    feed_forward.parameters, layouts, load
                )
                exchange += block.count * self._all_reduce(layouts, load)
            elif isinstance(feed_forward, Experts):
                shared = self._dense(feed_forward.shared_parameters, layouts, load)
                weights += block.count * shared
                experts += block.count * self._routed(feed_forward, layouts, load)
                exchange += block.count * self._expert_exchange(layouts, load)
        return {
            "weights": weights,
            "core": core,
            "experts": experts,
            "exchange": exchange,
            "head": self._head(layouts, load),
        }

    def _mixer(
        self,
        mixer: Attention | LatentAttention | StateSpace | None,
        layouts: Layouts,
        load: Load,
    ) -> Numbers:
        if mixer is None:
            return np.zeros(len(layouts))
        return (
            self._projections(mixer, layouts, load)
            + self._core(mixer, layouts, load)
            + self._all_reduce(layouts, load)
        )

    def _feed_forward(
        self, part: FeedForward | Experts | None, layouts: Layouts, load: Load
    ) -> Numbers:
        match part:
            case None:
                return np.zeros(len(layouts))
            case FeedForward():
                dense = self._dense(part.parameters, layouts, load)
                return dense + self._all_reduce(layouts, load)
            case Experts():
                shared = self._dense(part.shared_parameters, layouts, load)
                routed = self._routed(part, layouts, load)
                return shared + routed + self._expert_exchange(layouts, load)

    def _projections(
        self,
        mixer: Attention | LatentAttention | StateSpace,
        layouts: Layouts,
        load: Load,
    ) -> Numbers:
        return self._dense(mixer.parameters, layouts, load)

    def _dense(self, parameters: int, layouts: Layouts, load: Load) -> Numbers:
        """A matrix product of every token of this rank with a shard of weights."""
        return self._product(parameters / layouts.tensor, load.tokens)

    def _product(self, parameters: Numbers, tokens: Numbers) -> Numbers:
        return self.efficiency.product_ms(
            self.device, self.precision, parameters=parameters, tokens=tokens
        )

    def _core(
        self,
        mixer: Attention | LatentAttention | StateSpace,
        layouts: Layouts,
        load: Load,
    ) -> Numbers:
        """Attention itself: the cache is read once a sequence, prompts multiply."""
        tensor = layouts.tensor
        if isinstance(mixer, StateSpace):
            # The state of each sequence is read and written once a step.
            traffic = 2 * mixer.bytes_per_sequence / tensor * load.decode
            work = 4 * mixer.state_elements / tensor * load.tokens
            return self.efficiency.attention_ms(self.device, traffic=traffic, work=work)
        window = float(mixer.window) if mixer.window else np.inf
        seen = np.minimum(load.context, window)
        elements = np.array([mixer.cache_elements(int(t)) for t in tensor])
        traffic = load.decode * seen * elements * self.kv_precision.bits / 8
        if isinstance(mixer, LatentAttention):
            decode_width = 2 * mixer.kv_rank + mixer.rope_dim
            # Sparse attention reads the indexer's keys of all, then 2,048 tokens.
        else:
            decode_width = mixer.head_dim + mixer.value_dim
        heads = mixer.heads / tensor
        decoding = self.efficiency.attention_ms(
            self.device,
            traffic=traffic,
            work=2 * heads * decode_width * seen * load.decode,
        )
        looked = np.minimum(load.prefill_context, window)
        width = mixer.head_dim + mixer.value_dim
        prompting = self.efficiency.attention_ms(
            self.device,
            traffic=load.prefill * elements * 2,
            work=2 * heads * width * looked * load.prefill,
        )
        return decoding + prompting

    def _routed(self, experts: Experts, layouts: Layouts, load: Load) -> Numbers:
        """Routed experts: every one that a token chose is read once."""
        tokens = load.tokens * layouts.data
        touched = experts.routed * -np.expm1(
            tokens * np.log1p(-experts.top_k / experts.routed)
        )
        shard = layouts.tensor * layouts.data
        return self.efficiency.experts_ms(
            self.device,
            self.precision,
            parameters=touched * experts.expert_parameters / shard,
            work=2 * tokens * experts.top_k * experts.expert_parameters / shard,
            tokens_per_expert=tokens * experts.top_k / np.maximum(touched, 1.0),
        )

    def _all_reduce(self, layouts: Layouts, load: Load) -> Numbers:
        size = load.tokens * self.architecture.hidden * ACTIVATION_BYTES
        return self.efficiency.all_reduce_ms(self.device, layouts.tensor, size)

    def _expert_exchange(self, layouts: Layouts, load: Load) -> Numbers:
        """All ranks of a stage see every token: gather, then reduce and scatter."""
        size = load.tokens * layouts.data * self.architecture.hidden * ACTIVATION_BYTES
        return self.efficiency.all_reduce_ms(
            self.device, layouts.tensor * layouts.data, size
        )

    def _head(self, layouts: Layouts, load: Load) -> Numbers:
        rows = np.maximum(load.decode, 1.0)
        parameters = self.architecture.vocab * self.architecture.hidden / layouts.tensor
        return self.efficiency.product_ms(
            self.device, Precision.BF16, parameters=parameters, tokens=rows
        )

    def _send(self, load: Load) -> Numbers:
        size = load.tokens * self.architecture.hidden * ACTIVATION_BYTES
        return self.efficiency.send_ms(self.device, size)
