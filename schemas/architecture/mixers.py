"""A layer's mixer (attention or state space), from config.json's keys.

Called by ``schemas.architecture.config``. Dimensions that a windowed layer has of
its own (``swa_*``) are read for it; without them it is shaped like the others.
"""

from __future__ import annotations

from dataclasses import replace

from schemas.architecture.config_keys import Keys
from schemas.architecture.families import Family
from schemas.architecture.layer_kinds import MixerKind
from schemas.architecture.layers import (
    Attention,
    LatentAttention,
    StateSpace,
    attention_parameters,
    gated_delta_net,
    mamba1,
    mamba2,
)

__all__ = ["cross_attention", "mixer_of"]

Mixer = Attention | LatentAttention | StateSpace


def mixer_of(keys: Keys, family: Family, kind: MixerKind, hidden: int) -> Mixer | None:
    match kind:
        case "none":
            return None
        case "mamba1":
            return _mamba1(keys, hidden)
        case "mamba2":
            return _mamba2(keys, hidden)
        case "delta":
            return _delta(keys, hidden)
        case "full" | "window" if keys.has("kv_lora_rank"):
            return _latent(keys, hidden)
        case "full" | "window":
            return _attention(keys, family, hidden, windowed=kind == "window")


def cross_attention(
    own: Attention, keys: Keys, family: Family, hidden: int
) -> Attention:
    """A decoder's attention with as much again for looking at the encoder."""
    cross = _attention(keys, family, hidden, windowed=False)
    return replace(own, cached=True, parameters=own.parameters + cross.parameters)


def _attention(keys: Keys, family: Family, hidden: int, *, windowed: bool) -> Attention:
    own = "swa_" if windowed else "global_"  # MiMo-V2 names the one, Gemma 4 the other
    heads = keys.integer(
        f"{own}num_attention_heads",
        "num_attention_heads",
        "n_head",
        "n_heads",
        "num_heads",
    )
    kv_heads = _kv_heads(keys, own, heads)
    head_dim = keys.integer(
        f"{own}head_dim",
        "head_dim",
        "attention_head_dim",
        "d_kv",
        default=hidden // max(heads, 1),
    )
    value_dim = keys.integer(f"{own}v_head_dim", "v_head_dim", default=head_dim)
    bias = keys.flag("attention_bias", "qkv_bias", "use_bias", "bias")
    # Gemma 4: where a layer sees it all, V is K before its norm.
    shared = not windowed and keys.flag("attention_k_eq_v")
    norms = {"none": 0, "head": 2, "full": heads + kv_heads}[family.qk_norm]
    return Attention(
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        value_dim=value_dim,
        window=keys.integer("attention_chunk_size", "sliding_window")
        if windowed
        else None,
        cached=family.kind == "decoder",
        parameters=attention_parameters(
            hidden=hidden,
            heads=heads,
            kv_heads=kv_heads,
            head_dim=head_dim,
            value_dim=value_dim,
            query_factor=2 if family.output_gate else 1,
            qkv_bias=bias if family.qkv_bias is None else family.qkv_bias,
            out_bias=bias if family.out_bias is None else family.out_bias,
        )
        + norms * head_dim
        - (hidden * kv_heads * value_dim if shared else 0)
        + (heads if family.sinks else 0),
    )


def _kv_heads(keys: Keys, own: str, heads: int) -> int:
    # Falcon names num_kv_heads in both generations; only the second obeys it.
    if keys.flag("multi_query") and not keys.flag("new_decoder_architecture"):
        return 1
    return keys.integer(
        f"{own}num_key_value_heads",
        *(() if own == "swa_" else ("num_global_key_value_heads",)),
        "num_key_value_heads",
        "num_kv_heads",
        default=heads,
    )


def _latent(keys: Keys, hidden: int) -> LatentAttention:
    return LatentAttention(
        hidden=hidden,
        heads=keys.integer("num_attention_heads"),
        query_rank=keys.integer("q_lora_rank", default=0),
        kv_rank=keys.integer("kv_lora_rank"),
        nope_dim=keys.integer("qk_nope_head_dim"),
        rope_dim=keys.integer("qk_rope_head_dim"),
        value_dim=keys.integer("v_head_dim"),
        index_heads=keys.integer("index_n_heads", default=0),
        index_dim=keys.integer("index_head_dim", default=0),
    )


def _state_bytes(keys: Keys) -> int:
    """State values: vLLM keeps them in the model's 16 bits unless the config asks for more."""
    asked = keys.text("mamba_ssm_cache_dtype", "mamba_ssm_dtype")
    return 4 if asked == "float32" else 2


def _mamba1(keys: Keys, hidden: int) -> StateSpace:
    return mamba1(
        hidden=hidden,
        inner=keys.integer("mamba_expand") * hidden,
        state=keys.integer("mamba_d_state"),
        kernel=keys.integer("mamba_d_conv"),
        dt_rank=keys.integer("mamba_dt_rank", default=-(-hidden // 16)),
        state_bytes=_state_bytes(keys),
    )


def _mamba2(keys: Keys, hidden: int) -> StateSpace:
    return mamba2(
        hidden=hidden,
        heads=keys.integer("mamba_num_heads", "mamba_n_heads"),
        head_dim=keys.integer("mamba_head_dim", "mamba_d_head"),
        groups=keys.integer("n_groups", "mamba_n_groups"),
        state=keys.integer("ssm_state_size", "mamba_d_state"),
        kernel=keys.integer("conv_kernel", "mamba_d_conv"),
        conv_bias=keys.flag("use_conv_bias", "mamba_conv_bias", default=True),
        state_bytes=_state_bytes(keys),
    )


def _delta(keys: Keys, hidden: int) -> StateSpace:
    return gated_delta_net(
        hidden=hidden,
        key_heads=keys.integer("linear_num_key_heads"),
        key_dim=keys.integer("linear_key_head_dim"),
        value_heads=keys.integer("linear_num_value_heads"),
        value_dim=keys.integer("linear_value_head_dim"),
        kernel=keys.integer("linear_conv_kernel_dim"),
        state_bytes=_state_bytes(keys),
    )
