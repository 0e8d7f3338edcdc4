"""The precision the published weights are in, and what it leaves at 16 bits.

Called by ``schemas.architecture.config`` with the whole config.json.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from schemas.architecture.precision import Precision

__all__ = ["KEPT", "native_precision"]

KEPT: Final = frozenset({"embedding", "head", "router", "norms", "vision"})
"""Terms that stay at 16 bits in every format but llama.cpp's."""

_DTYPES: Final = {
    "float32": Precision.FP32,
    "float16": Precision.FP16,
    "bfloat16": Precision.BF16,
}
# A module that a config leaves unconverted -> the term it belongs to.
_MODULES: Final = {
    "self_attn": "attention",
    "linear_attn": "state_space",
    "shared_expert": "shared",
    "mlp.gate_proj": "dense",
    "mlp\\.(gate|": "dense",
}
# Within those modules these are small, and never converted by anyone.
_SMALL: Final = ("norm", "index", "shared_expert_gate", "bias")


def native_precision(
    config: Mapping[str, object],
) -> tuple[Precision, frozenset[str]]:
    """The stored precision and the terms that it does not cover."""
    text = config.get("text_config")
    inner = text if isinstance(text, Mapping) else {}
    quantization = config.get("quantization_config", inner.get("quantization_config"))
    if not isinstance(quantization, Mapping):
        names = (
            source.get(key)
            for source in (inner, config)
            for key in ("dtype", "torch_dtype")
        )
        dtype = next((name for name in names if isinstance(name, str)), "bfloat16")
        return _DTYPES.get(dtype, Precision.BF16), KEPT
    return _method(quantization), KEPT | frozenset(_left_out(quantization))


def _method(quantization: Mapping[str, object]) -> Precision:
    said = f"{quantization}".lower()
    for mark, precision in (
        ("nvfp4", Precision.FP4),
        ("mxfp4", Precision.MXFP4),
        ("'num_bits': 4", Precision.INT4),
        ("'bits': 4", Precision.INT4),
        ("'load_in_4bit': true", Precision.INT4),
        ("fp8", Precision.FP8),
        ("'type': 'float'", Precision.FP8),
    ):
        if mark in said:
            return precision
    return Precision.INT8


def _left_out(quantization: Mapping[str, object]) -> Iterator[str]:
    for key in ("modules_to_not_convert", "ignore", "exclude_modules"):
        names = quantization.get(key)
        for name in names if isinstance(names, list | tuple) else ():
            if any(small in str(name) for small in _SMALL):
                continue
            yield from (term for mark, term in _MODULES.items() if mark in str(name))
