"""What the families of models do alike, by ``model_type`` of config.json.

Only what config.json does not say itself: where a bias is, how many norms a layer
has, what a key's default is. Read by ``schemas.architecture.config`` alone.
Source: the configuration and modeling modules of Hugging Face transformers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Final, Literal

__all__ = ["FAMILIES", "UNKNOWN", "Family"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """The default is Llama's: gated, RMSNorm twice a layer, no bias, untied head.

    ``None`` for a bias means that config.json says it (``attention_bias``,
    ``mlp_bias``, ``use_bias`` ...) and that it is absent unless it does.
    """

    kind: Literal["decoder", "encoder", "encoder-decoder"] = "decoder"
    gated: bool = True
    qkv_bias: bool | None = None
    out_bias: bool | None = None
    mlp_bias: bool | None = None
    head_bias: bool = False
    norms: int = 2
    norm_bias: bool = False
    qk_norm: Literal["none", "head", "full"] = "none"
    """A norm over each head's dimensions, or over all heads at once."""
    tied: bool = False
    extra_positions: int | None = None
    """None: no table of learned positions. A number: rows beyond the context."""
    router_bias: bool = False
    expert_bias: bool = False
    output_gate: bool = False
    sinks: bool = False
    windowed: Literal["none", "all", "alternate", "pattern"] = "none"
    """Which layers ``sliding_window`` concerns when no key says it."""
    defaults: Mapping[str, int | bool] = field(
        default_factory=lambda: MappingProxyType({})
    )
    """Values of keys that a config.json of this family may leave out."""


UNKNOWN: Final = Family()

_LAYER_NORM: Final = Family(
    gated=False,
    qkv_bias=True,
    out_bias=True,
    mlp_bias=True,
    norm_bias=True,
)
_BERT: Final = replace(_LAYER_NORM, kind="encoder", tied=True, extra_positions=0)
_QWEN3: Final = Family(qk_norm="head")
_QWEN3_NEXT: Final = replace(_QWEN3, output_gate=True)
_DEEPSEEK_V3: Final = Family(router_bias=True)
_GEMMA: Final = Family(tied=True)
_GEMMA3: Final = replace(
    _GEMMA,
    norms=4,
    qk_norm="head",
    windowed="pattern",
    # A config.json of Gemma 3 names only what differs from these.
    defaults=MappingProxyType(
        {
            "vocab_size": 262_208,
            "num_attention_heads": 8,
            "num_key_value_heads": 4,
            "head_dim": 256,
            "sliding_window": 4096,
            "sliding_window_pattern": 6,
            "max_position_embeddings": 131_072,
        }
    ),
)
_T5: Final = Family(
    kind="encoder-decoder", gated=False, qkv_bias=False, out_bias=False, tied=True
)

FAMILIES: Final[Mapping[str, Family]] = MappingProxyType(
    {
        "aquila": Family(),
        "bert": _BERT,
        "bloom": replace(_LAYER_NORM, tied=True),
        "codegen": replace(
            _LAYER_NORM, qkv_bias=False, out_bias=False, norms=1, head_bias=True
        ),
        "cohere": Family(norms=1, tied=True),
        "cohere2": Family(norms=1, tied=True),
        "deepseek_v2": Family(),
        "deepseek_v3": _DEEPSEEK_V3,
        "deepseek_v32": _DEEPSEEK_V3,
        "falcon": replace(
            _LAYER_NORM,
            qkv_bias=None,
            out_bias=None,
            mlp_bias=None,
            norms=1,
            tied=True,
        ),
        "gemma": _GEMMA,
        "gemma2": replace(
            _GEMMA,
            norms=4,
            windowed="alternate",
            defaults=MappingProxyType({"sliding_window": 4096, "head_dim": 256}),
        ),
        "gemma3": _GEMMA3,
        "gemma3_text": replace(
            _GEMMA3,
            defaults=MappingProxyType({**_GEMMA3.defaults, "vocab_size": 262_144}),
        ),
        "gemma4_text": replace(
            _GEMMA,
            norms=4,
            qk_norm="head",
            windowed="pattern",
            defaults=MappingProxyType({"sliding_window_pattern": 6}),
        ),
        "glm4_moe": Family(router_bias=True),
        "glm_moe_dsa": _DEEPSEEK_V3,
        "gpt_bigcode": replace(_LAYER_NORM, tied=True, extra_positions=0),
        "gpt_neox": _LAYER_NORM,
        "gpt_oss": Family(
            out_bias=True, router_bias=True, expert_bias=True, sinks=True
        ),
        "gptj": replace(
            _LAYER_NORM, qkv_bias=False, out_bias=False, norms=1, head_bias=True
        ),
        "granite": Family(),
        "granitemoe": Family(),
        "jamba": Family(
            defaults=MappingProxyType(
                {
                    "attn_layer_period": 8,
                    "attn_layer_offset": 4,
                    "expert_layer_period": 2,
                    "expert_layer_offset": 1,
                    "mamba_d_state": 16,
                    "mamba_d_conv": 4,
                    "mamba_expand": 2,
                }
            )
        ),
        "kimi_k2": _DEEPSEEK_V3,
        "llama": Family(),
        "llama4_text": Family(),
        "minimax_m2": Family(qk_norm="full", router_bias=True),
        "mistral": Family(windowed="all"),
        "mixtral": Family(windowed="all"),
        "mpt": replace(
            _LAYER_NORM,
            qkv_bias=False,
            out_bias=False,
            mlp_bias=False,
            norm_bias=False,
            tied=True,
        ),
        "mt5": replace(_T5, gated=True),
        "nemotron": Family(gated=False, norm_bias=True),
        "nemotron_h": Family(gated=False, norms=1, router_bias=True),
        "olmo2": Family(qk_norm="full"),
        "olmo3": Family(qk_norm="full"),
        "olmoe": Family(qk_norm="full"),
        "opt": replace(_LAYER_NORM, tied=True, extra_positions=2),
        "phi": replace(_LAYER_NORM, norms=1, head_bias=True),
        "phi3": Family(windowed="all"),
        "phimoe": Family(qkv_bias=True, out_bias=True, norm_bias=True, head_bias=True),
        "qwen2": Family(qkv_bias=True, out_bias=False),
        "qwen2_moe": Family(qkv_bias=True, out_bias=False),
        "qwen3": _QWEN3,
        "qwen3_5_moe_text": _QWEN3_NEXT,
        "qwen3_5_text": _QWEN3_NEXT,
        "qwen3_moe": _QWEN3,
        "qwen3_next": _QWEN3_NEXT,
        "qwen3_vl_moe_text": _QWEN3,
        "qwen3_vl_text": replace(_QWEN3, tied=True),
        "starcoder2": replace(_LAYER_NORM, tied=True),
        "t5": _T5,
        "xlm-roberta": _BERT,
    }
)
"""Grows by a row: docs/catalog.md says how one is checked."""
