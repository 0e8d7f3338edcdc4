"""A layer's feed-forward or mixture of experts, from config.json's keys.

Called by ``schemas.architecture.config``.
"""

from __future__ import annotations

from schemas.architecture.config_keys import Keys
from schemas.architecture.families import Family
from schemas.architecture.layer_kinds import EXPERT_COUNT_KEYS, NetworkKind
from schemas.architecture.layers import Experts, FeedForward, feed_forward_parameters

__all__ = ["network_of"]


def network_of(
    keys: Keys, family: Family, kind: NetworkKind, hidden: int
) -> FeedForward | Experts | None:
    match kind:
        case "none":
            return None
        case "dense":
            return _dense(keys, family, hidden)
        case "experts":
            return _experts(keys, family, hidden)


def _gated(keys: Keys, family: Family) -> bool:
    # T5 v1.1 and Flan say it in the name of the activation.
    projection = keys.text("feed_forward_proj")
    return family.gated if projection is None else projection.startswith("gated")


def _dense(keys: Keys, family: Family, hidden: int) -> FeedForward:
    intermediate = keys.integer(
        "intermediate_size_mlp",  # Llama 4: the layers without experts
        "dense_intermediate_size",
        "intermediate_size",
        "n_inner",
        "ffn_dim",
        "ffn_hidden_size",
        "d_ff",
        default=keys.integer("expansion_ratio", default=4) * hidden,
    )
    bias = keys.flag("mlp_bias", "use_bias", "bias")
    return FeedForward(
        intermediate=intermediate,
        parameters=feed_forward_parameters(
            hidden=hidden,
            intermediate=intermediate,
            gated=_gated(keys, family),
            bias=bias if family.mlp_bias is None else family.mlp_bias,
        ),
    )


def _experts(keys: Keys, family: Family, hidden: int) -> Experts:
    routed = keys.integer(*EXPERT_COUNT_KEYS)
    intermediate = keys.integer("moe_intermediate_size", "intermediate_size")
    shared = _shared_width(keys, intermediate)
    # LatentMoE (Nemotron 3): routed experts work in a narrower space, between a
    # projection down and one up that belong to the router's path.
    latent = keys.integer("moe_latent_size", default=0)
    return Experts(
        routed=routed,
        top_k=keys.integer("num_experts_per_tok", "top_k_experts", "moe_topk"),
        intermediate=intermediate,
        expert_parameters=feed_forward_parameters(
            hidden=latent or hidden,
            intermediate=intermediate,
            gated=family.gated,
            bias=family.expert_bias,
        ),
        shared_intermediate=shared,
        shared_parameters=feed_forward_parameters(
            hidden=hidden, intermediate=shared, gated=family.gated
        )
        # Qwen weighs its shared expert by a gate of one row.
        + (hidden if keys.has("shared_expert_intermediate_size") and shared else 0),
        router_parameters=hidden * routed
        + (routed if family.router_bias else 0)
        + 2 * latent * hidden,
    )


def _shared_width(keys: Keys, intermediate: int) -> int:
    """Width of all shared experts together."""
    named = (
        "moe_shared_expert_intermediate_size",
        "shared_expert_intermediate_size",
        "share_expert_dim",
        "shared_intermediate_size",
    )
    if keys.has(*named):
        return keys.integer(*named)
    # Llama 4 has always one; in Gemma 4 the dense network stands beside the experts.
    if keys.has("interleave_moe_layer_step", "enable_moe_block"):
        return keys.integer("intermediate_size")
    return (
        keys.integer("n_shared_experts", "num_shared_experts", default=0) * intermediate
    )
