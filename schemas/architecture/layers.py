"""The parts a transformer layer is made of, each with its parameter formula.

``schemas.architecture.config`` builds them; the memory and the performance model
read them. Every formula is that of the reference implementation (Hugging Face
transformers) and counts each tensor once. They never count multi-token-prediction
layers: engines load those only for speculative decoding.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Attention", "Experts", "FeedForward", "LatentAttention", "StateSpace"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Attention:
    """Multi-head, grouped-query or multi-query attention.

    ``window`` counts the tokens a layer looks back on; None is all of them.
    ``parameters`` is q + k + v + o and what belongs to them (biases, query and key
    norms, output gate, sinks, cross-attention of a decoder).
    """

    heads: int
    kv_heads: int
    head_dim: int
    value_dim: int
    window: int | None = None
    cached: bool = True
    """False in an encoder: nothing is kept from one step to the next."""
    parameters: int

    def cache_elements(self, tensor: int = 1) -> int:
        """Values cached per token on one of ``tensor`` ranks.

        K and V for each kv head; heads are split over the ranks and replicated
        when there are fewer of them than ranks.
        """
        if not self.cached:
            return 0
        return -(-self.kv_heads // tensor) * (self.head_dim + self.value_dim)


@dataclass(frozen=True, slots=True, kw_only=True)
class LatentAttention:
    """Multi-head latent attention (DeepSeek-V2, arXiv 2405.04434).

    One compressed vector per token stands for all K and V heads.
    ``index_dim`` is the key of DeepSeek sparse attention's indexer, 0 without it.
    """

    hidden: int
    heads: int
    query_rank: int
    """0: the query is not compressed."""
    kv_rank: int
    nope_dim: int
    rope_dim: int
    value_dim: int
    index_heads: int = 0
    index_dim: int = 0

    @property
    def parameters(self) -> int:
        """Down- and up-projections of q and of kv with their norms, o, the indexer.

        The indexer is its query from the compressed q, one key with a LayerNorm,
        and one weight for each of its heads.
        """
        query = (
            self.query_rank * (self.hidden + 1 + self.heads * self.head_dim)
            if self.query_rank
            else self.hidden * self.heads * self.head_dim
        )
        down = self.hidden * (self.kv_rank + self.rope_dim) + self.kv_rank
        up = self.kv_rank * self.heads * (self.nope_dim + self.value_dim)
        out = self.heads * self.value_dim * self.hidden
        indexer = (
            self.query_rank * self.index_heads * self.index_dim
            + self.hidden * (self.index_dim + self.index_heads)
            + 2 * self.index_dim
        )
        return query + down + up + out + (indexer if self.index_heads else 0)

    @property
    def window(self) -> None:
        """Latent attention sees the whole context."""

    @property
    def kv_heads(self) -> int:
        """The latent is one head for all, whatever config.json says."""
        return 1

    @property
    def head_dim(self) -> int:
        return self.nope_dim + self.rope_dim

    def cache_elements(self, tensor: int = 1) -> int:
        """The latent and its rotary part, not doubled; replicated on each rank."""
        del tensor
        return self.kv_rank + self.rope_dim + self.index_dim


@dataclass(frozen=True, slots=True, kw_only=True)
class StateSpace:
    """Mamba, Mamba-2 or gated delta net: a state of fixed size per sequence."""

    state_elements: int
    state_bytes: int
    """Bytes of one state value; the convolution's window is always 2 bytes a value."""
    conv_elements: int
    parameters: int

    @property
    def bytes_per_sequence(self) -> int:
        return self.state_elements * self.state_bytes + self.conv_elements * 2


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedForward:
    """A dense feed-forward: up and down, and a gate where ``gated``."""

    intermediate: int
    parameters: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Experts:
    """A mixture of experts; ``shared_*`` is what every token passes through."""

    routed: int
    top_k: int
    intermediate: int
    expert_parameters: int
    """One routed expert."""
    shared_intermediate: int = 0
    shared_parameters: int = 0
    router_parameters: int

    @property
    def parameters(self) -> int:
        return (
            self.routed * self.expert_parameters
            + self.shared_parameters
            + self.router_parameters
        )


def attention_parameters(
    *,
    hidden: int,
    heads: int,
    kv_heads: int,
    head_dim: int,
    value_dim: int,
    query_factor: int = 1,
    qkv_bias: bool = False,
    out_bias: bool = False,
) -> int:
    """Sum q + k + v + o; ``query_factor`` is 2 where q carries an output gate."""
    query = heads * head_dim * query_factor
    key, value, out = kv_heads * head_dim, kv_heads * value_dim, heads * value_dim
    return (
        hidden * (query + key + value)
        + out * hidden
        + (query + key + value if qkv_bias else 0)
        + (hidden if out_bias else 0)
    )


def feed_forward_parameters(
    *, hidden: int, intermediate: int, gated: bool, bias: bool = False
) -> int:
    """Up and down, a gate where ``gated``, and their biases."""
    matrices = 3 if gated else 2
    biases = (matrices - 1) * intermediate + hidden if bias else 0
    return matrices * hidden * intermediate + biases


def mamba2(
    *,
    hidden: int,
    heads: int,
    head_dim: int,
    groups: int,
    state: int,
    kernel: int,
    conv_bias: bool,
    state_bytes: int,
) -> StateSpace:
    """in_proj (z, x, B, C, dt), convolution, dt, A, D, gated norm, out_proj."""
    inner = heads * head_dim
    conv = inner + 2 * groups * state
    return StateSpace(
        state_elements=inner * state,
        state_bytes=state_bytes,
        conv_elements=conv * (kernel - 1),
        parameters=hidden * (inner + conv + heads)
        + conv * kernel
        + (conv if conv_bias else 0)
        + 3 * heads
        + inner
        + inner * hidden,
    )


def mamba1(
    *,
    hidden: int,
    inner: int,
    state: int,
    kernel: int,
    dt_rank: int,
    state_bytes: int,
) -> StateSpace:
    """in_proj (x, z), convolution with bias, x_proj, dt_proj, A, D, out_proj.

    Jamba's three norms over dt, B and C are included.
    """
    return StateSpace(
        state_elements=inner * state,
        state_bytes=state_bytes,
        conv_elements=inner * (kernel - 1),
        parameters=hidden * 2 * inner
        + inner * (kernel + 1)
        + inner * (dt_rank + 2 * state)
        + (dt_rank + 1) * inner
        + inner * state
        + inner
        + inner * hidden
        + dt_rank
        + 2 * state,
    )


def gated_delta_net(
    *,
    hidden: int,
    key_heads: int,
    key_dim: int,
    value_heads: int,
    value_dim: int,
    kernel: int,
    state_bytes: int,
) -> StateSpace:
    """q, k, v, z and b, a projections, convolution, dt, A, norm, out (Qwen3-Next)."""
    keys, values = key_heads * key_dim, value_heads * value_dim
    conv = 2 * keys + values
    return StateSpace(
        state_elements=value_heads * key_dim * value_dim,
        state_bytes=state_bytes,
        conv_elements=conv * (kernel - 1),
        parameters=hidden * (conv + values)
        + hidden * 2 * value_heads
        + conv * kernel
        + 2 * value_heads
        + value_dim
        + values * hidden,
    )
