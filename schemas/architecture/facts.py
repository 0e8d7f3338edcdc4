"""``Architecture``: parameters, cache and state of one model, as numbers.

Built by ``architecture_from_config``; read by the memory and performance models
and by the plan. It knows no GPU and no engine, and adds no reserve of either.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Literal

from schemas.architecture.layers import (
    Attention,
    Experts,
    FeedForward,
    LatentAttention,
    StateSpace,
)
from schemas.architecture.precision import Precision
from schemas.architecture.quantization import KEPT

__all__ = ["Architecture", "Block", "Parameters"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """``count`` layers that are alike, wherever in the stack they stand."""

    count: int
    mixer: Attention | LatentAttention | StateSpace | None
    feed_forward: FeedForward | Experts | None
    norms: int
    """Parameters of the layer's norms."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameters:
    """Where a model's parameters are; the terms sum to ``total``."""

    embedding: int
    """Token, position and type tables; a tied table is here and not in ``head``."""
    head: int
    attention: int
    state_space: int
    dense: int
    """Feed-forwards that are not experts."""
    routed: int
    """Routed experts, all of them."""
    shared: int
    """Shared experts: every token passes through them."""
    router: int
    norms: int
    vision: int
    """The image tower and its projector."""

    @property
    def total(self) -> int:
        terms: list[int] = [getattr(self, term.name) for term in fields(self)]
        return sum(terms)


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """The facts of one model. Counts are of the whole model, before any sharding."""

    family: str
    """``model_type`` of config.json."""
    kind: Literal["decoder", "encoder", "encoder-decoder"]
    assumed: tuple[str, ...]
    """What config.json did not say and was taken from the field's habit."""
    hidden: int
    vocab: int
    context_length: int
    tied_embeddings: bool
    native: Precision
    """The precision the published weights are stored in."""
    unquantized: frozenset[str]
    """Terms of ``Parameters`` that the native format leaves at 16 bits."""
    blocks: tuple[Block, ...]
    parameters: Parameters

    @property
    def layers(self) -> int:
        return sum(block.count for block in self.blocks)

    @property
    def attention(self) -> Attention | LatentAttention | None:
        """The attention that sees the whole context, else the windowed one."""
        found = [
            block.mixer
            for block in self.blocks
            if isinstance(block.mixer, Attention | LatentAttention)
        ]
        return min(found, key=lambda mixer: mixer.window is not None, default=None)

    @property
    def heads(self) -> int:
        return self.attention.heads if self.attention else 0

    @property
    def kv_heads(self) -> int:
        """1 for multi-query and for latent attention; 0 without attention."""
        return self.attention.kv_heads if self.attention else 0

    @property
    def head_dim(self) -> int:
        return self.attention.head_dim if self.attention else 0

    @property
    def intermediate(self) -> int:
        """Width of the dense feed-forward, 0 where every layer has experts."""
        return max(
            (
                block.feed_forward.intermediate
                for block in self.blocks
                if isinstance(block.feed_forward, FeedForward)
            ),
            default=0,
        )

    @property
    def latent(self) -> LatentAttention | None:
        return self.attention if isinstance(self.attention, LatentAttention) else None

    @property
    def experts(self) -> Experts | None:
        return next(
            (
                block.feed_forward
                for block in self.blocks
                if isinstance(block.feed_forward, Experts)
            ),
            None,
        )

    @property
    def expert_layers(self) -> int:
        return self._count(lambda block: isinstance(block.feed_forward, Experts))

    @property
    def attention_layers(self) -> int:
        return self._count(
            lambda block: isinstance(block.mixer, Attention | LatentAttention)
        )

    @property
    def state_layers(self) -> int:
        return self._count(lambda block: isinstance(block.mixer, StateSpace))

    @property
    def window(self) -> int | None:
        """Tokens a sliding-window layer sees, None where no layer slides."""
        return max(
            (
                block.mixer.window
                for block in self.blocks
                if isinstance(block.mixer, Attention) and block.mixer.window
            ),
            default=None,
        )

    @property
    def window_layers(self) -> int:
        return self._count(
            lambda block: (
                isinstance(block.mixer, Attention) and block.mixer.window is not None
            )
        )

    def _count(self, wanted: Callable[[Block], bool]) -> int:
        return sum(block.count for block in self.blocks if wanted(block))

    @property
    def active_parameters(self) -> int:
        """Parameters one token's forward pass multiplies by.

        All of them without the experts it is not routed to, and without the
        embedding table unless that is the output head too: a lookup reads one row.
        """
        idle = sum(
            block.count
            * (block.feed_forward.routed - block.feed_forward.top_k)
            * block.feed_forward.expert_parameters
            for block in self.blocks
            if isinstance(block.feed_forward, Experts)
        )
        lookup = 0 if self.tied_embeddings else self.parameters.embedding
        return self.parameters.total - idle - lookup - self.parameters.vision

    def weight_bytes_by_term(
        self, precision: Precision | None = None
    ) -> dict[str, int]:
        """Bytes of each term of ``parameters``; None is the native precision.

        The native format keeps what its own config keeps. Any other quantises all
        matrices and leaves embeddings, head, router, norms and the image tower at
        16 bits, as vLLM's, ModelOpt's and AutoAWQ's defaults do.
        """
        chosen = precision or self.native
        kept = self.unquantized if chosen == self.native else KEPT
        if chosen.covers_embeddings:
            kept = frozenset()
        return {
            term.name: round(
                getattr(self.parameters, term.name)
                * (16.0 if term.name in kept else self._bits(term.name, chosen))
                / 8
            )
            for term in fields(self.parameters)
        }

    def _bits(self, term: str, precision: Precision) -> float:
        """Bits a value of ``term`` takes, where llama.cpp makes exceptions.

        Its Q4_K_M keeps the output table at Q6_K. Rows that are no multiple of 256
        fit neither: they fall back to Q5_0 (5.4 with the rows that do fit, as in
        Gemma 3 270M) and the table to Q8_0.
        """
        if precision is not Precision.Q4_K_M:
            return precision.bits
        fits = self.hidden % 256 == 0
        if term == ("embedding" if self.tied_embeddings else "head"):
            return 6.5625 if fits else 8.5
        return precision.bits if fits else 5.4

    def weight_bytes(self, precision: Precision | None = None) -> int:
        """Bytes of all weights; None is the native precision."""
        return sum(self.weight_bytes_by_term(precision).values())

    def kv_bytes_per_token(
        self, precision: Precision = Precision.BF16, *, tensor: int = 1
    ) -> float:
        """Bytes one more token costs on one of ``tensor`` ranks, all layers.

        Sliding windows are not subtracted: see ``kv_bytes``. In an encoder-decoder
        an input token is cached for cross-attention and an output token for
        self-attention, in every decoder layer: the same number for both.
        """
        return sum(
            block.count * block.mixer.cache_elements(tensor) * precision.bits / 8
            for block in self.blocks
            if isinstance(block.mixer, Attention | LatentAttention)
        )

    def kv_bytes(
        self, tokens: int, precision: Precision = Precision.BF16, *, tensor: int = 1
    ) -> float:
        """Bytes of one sequence of ``tokens``, sliding windows kept to their size.

        An engine without a hybrid cache allocator takes ``kv_bytes_per_token`` for
        every token instead.
        """
        return sum(
            block.count
            * block.mixer.cache_elements(tensor)
            * min(tokens, block.mixer.window or tokens)
            * precision.bits
            / 8
            for block in self.blocks
            if isinstance(block.mixer, Attention | LatentAttention)
        )

    def state_bytes(self) -> int:
        """Bytes of recurrent state one sequence holds, whatever its length."""
        return sum(
            block.count * block.mixer.bytes_per_sequence
            for block in self.blocks
            if isinstance(block.mixer, StateSpace)
        )
