"""Which kind of mixer and of network each layer has, from config.json's patterns.

Called by ``schemas.architecture.config``. A kind that is not known is a problem,
never counted as another.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, Literal, NamedTuple, TypeVar

from schemas.architecture.config_keys import Keys
from schemas.architecture.families import Family

__all__ = ["EXPERT_COUNT_KEYS", "LayerKind", "layer_kinds"]

T = TypeVar("T")
MixerKind = Literal["full", "window", "mamba1", "mamba2", "delta", "none"]
NetworkKind = Literal["dense", "experts", "none"]

EXPERT_COUNT_KEYS: Final = ("n_routed_experts", "num_local_experts", "num_experts")


# Eight times the deepest of today's (Llama 3.1 405B: 126).
_MOST_LAYERS: Final = 1000
_WAY_OUT: Final = "name a model of the catalog as the architecture"


class LayerKind(NamedTuple):
    mixer: MixerKind
    network: NetworkKind


# Nemotron-H: a layer is a mixer or a network, one letter or one word each.
_BLOCK_LETTERS: Final[dict[str, LayerKind]] = {
    "M": LayerKind("mamba2", "none"),
    "*": LayerKind("full", "none"),
    "-": LayerKind("none", "dense"),
    "E": LayerKind("none", "experts"),
}
_BLOCK_WORDS: Final[dict[str, LayerKind]] = {
    "mamba": _BLOCK_LETTERS["M"],
    "attention": _BLOCK_LETTERS["*"],
    "mlp": _BLOCK_LETTERS["-"],
    "moe": _BLOCK_LETTERS["E"],
}
# Keys that give a layer a shape of its own, or a mixer that is not counted here.
_UNCOUNTED: Final = {
    "block_configs": "layers that each have their own shape (Nemotron NAS)",
    "linear_attn_config": "Kimi delta attention",
    "compress_ratios": "compressed attention (DeepSeek V4)",
    "attn_type_list": "lightning attention (MiniMax-01)",
}
_LAYER_TYPES: Final[dict[str, MixerKind]] = {
    "full_attention": "full",
    "attention": "full",
    "sliding_attention": "window",
    "chunked_attention": "window",
    "deepseek_sparse_attention": "full",
    "linear_attention": "delta",
    "mamba": "mamba2",
}


def layer_kinds(keys: Keys, family: Family) -> list[LayerKind]:
    """One entry a layer, in order."""
    for name, what in _UNCOUNTED.items():
        value = keys.sequence(name)
        if name == "attn_type_list" and 0 not in (value or ()):
            continue
        if keys.has(name):
            keys.problem(name, f"cannot count {what}: {name} is set", _WAY_OUT)
    letters = keys.text("hybrid_override_pattern")
    if letters is not None:
        return _translated(
            keys, "hybrid_override_pattern", list(letters), _BLOCK_LETTERS
        )
    words = keys.sequence("layers_block_type")
    if words is not None and "moe" in words:
        return _translated(keys, "layers_block_type", words, _BLOCK_WORDS)
    count = keys.integer("num_hidden_layers", "n_layer", "n_layers", "num_layers")
    if count > _MOST_LAYERS:
        keys.problem(
            "num_hidden_layers",
            f"cannot count {count} layers: no model has more than {_MOST_LAYERS}",
            "give the config.json published with the weights",
        )
        count = 1
    mixers = _mixers(keys, family, count)
    networks = _networks(keys, count)
    return [LayerKind(*pair) for pair in zip(mixers, networks, strict=True)]


def _mixers(keys: Keys, family: Family, count: int) -> list[MixerKind]:
    for name in ("layer_types", "layers_block_type"):
        types = keys.sequence(name)
        if types is not None:
            return _translated(
                keys, name, _of_length(keys, name, types, count), _LAYER_TYPES
            )
    pattern = keys.sequence("hybrid_layer_pattern")  # MiMo-V2: 1 slides
    if pattern is not None:
        flags = _of_length(keys, "hybrid_layer_pattern", pattern, count)
        return ["window" if flag else "full" for flag in flags]
    return [_mixer_at(keys, family, index) for index in range(count)]


def _mixer_at(keys: Keys, family: Family, index: int) -> MixerKind:
    if keys.has("full_attention_interval"):  # Qwen3-Next
        return (
            "delta"
            if (index + 1) % keys.integer("full_attention_interval", least=1)
            else "full"
        )
    if keys.has("attn_layer_period"):  # Jamba
        period = keys.integer("attn_layer_period", least=1)
        return (
            "full" if index % period == keys.integer("attn_layer_offset") else "mamba1"
        )
    if keys.has("attention_chunk_size"):  # Llama 4: every fourth layer sees it all
        return "window" if (index + 1) % 4 else "full"
    if not keys.has("sliding_window"):
        return "full"
    if keys.has("use_sliding_window"):  # Qwen2, Qwen3
        first = keys.integer("max_window_layers", default=0)
        slides = keys.flag("use_sliding_window") and index >= first
    elif family.windowed == "pattern":
        slides = bool((index + 1) % keys.integer("sliding_window_pattern", least=1))
    else:
        slides = family.windowed == "all" or (
            family.windowed == "alternate" and index % 2 == 0
        )
    return "window" if slides else "full"


def _networks(keys: Keys, count: int) -> list[NetworkKind]:
    if not any(keys.integer(name, default=0) for name in EXPERT_COUNT_KEYS):
        return ["dense"] * count
    types = keys.sequence("mlp_layer_types")
    if types is not None:
        types = _of_length(keys, "mlp_layer_types", types, count)
        return ["experts" if kind == "sparse" else "dense" for kind in types]
    frequency = keys.sequence("moe_layer_freq")
    if frequency is not None:
        flags = _of_length(keys, "moe_layer_freq", frequency, count)
        return ["experts" if flag else "dense" for flag in flags]
    dense = keys.sequence("mlp_only_layers") or ()
    return [
        "experts" if index not in dense and _has_experts(keys, index) else "dense"
        for index in range(count)
    ]


def _has_experts(keys: Keys, index: int) -> bool:
    if keys.has("expert_layer_period"):  # Jamba
        period = keys.integer("expert_layer_period", least=1)
        return index % period == keys.integer("expert_layer_offset")
    if index < keys.integer("first_k_dense_replace", default=0):  # DeepSeek
        return False
    step = keys.integer(
        "decoder_sparse_step", "interleave_moe_layer_step", default=1, least=1
    )  # Qwen, Llama 4
    return (index + 1) % step == 0


def _of_length(keys: Keys, name: str, values: list[object], count: int) -> list[object]:
    """The first ``count``: configs may name the prediction layers behind them."""
    if len(values) < count:
        keys.problem(
            name,
            f"cannot match {name} to the layers: {len(values)} entries, {count} layers",
            "give one entry for each layer",
        )
        return values + [values[-1] if values else 0] * (count - len(values))
    return values[:count]


def _translated(
    keys: Keys, name: str, values: Sequence[object], known: Mapping[str, T]
) -> list[T]:
    words = [str(value) for value in values]
    unknown = sorted({word for word in words if word not in known})
    if unknown:
        keys.problem(
            name,
            f"cannot count layers of kind {', '.join(unknown)}",
            f"known kinds are {', '.join(map(str, known))}; {_WAY_OUT}",
        )
    # The first kind stands in for an unknown one, so that all problems are found.
    stand_in = next(iter(known.values()))
    return [known.get(word, stand_in) for word in words]
