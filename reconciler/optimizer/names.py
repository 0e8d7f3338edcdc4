"""A model's architecture by whatever name a file gives it.

Called by ``rows``. A quantised or tuned copy computes like what it was made of, so
number formats and stages of tuning in a name are read over. What is still unknown is
the catalog's nearest spelling of the same size, or Llama's shape at the size that
the name says; both are said to be assumed. Pure.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Final

from schemas.architecture import Architecture, architecture_from_config
from schemas.catalog import Catalog

__all__ = ["architecture_of"]

# Words at the end of a repository's name that leave the shape as it is.
_COPY: Final = re.compile(
    r"[-_.](nv|mx)?(fp4|fp8|fp16|bf16|int4|int8|awq|gptq|gguf|w4a16|w8a8|w4afp8|"
    r"dynamic|block|quantized|hf|it|instruct|chat|base|thinking|\d{4}|v0\.\d)$"
)
_SIZE: Final = re.compile(r"(\d+(?:\.\d+)?)\s*b(?![a-z])")


def architecture_of(model: str, catalog: Catalog) -> tuple[Architecture, bool]:
    """The architecture, and whether it had to be assumed."""
    entry = catalog.models.get(model)
    if entry is not None:
        return entry.architecture, False
    plain = _plain(model)
    names = {_plain(known.id): known for known in reversed(list(catalog.models))}
    if plain in names:
        return names[plain].architecture, False
    for near in catalog.models.nearest(model) if plain else ():
        if _sizes(near) == _sizes(model):
            return catalog.models.find(near).architecture, True
    return _guessed(_sizes(model)[:1]), True


def _plain(model: str) -> str:
    """The name without its owner and without the words that leave its shape."""
    name = model.strip().casefold().rpartition("/")[2]
    while (shorter := _COPY.sub("", name)) != name:
        name = shorter
    return name


def _sizes(model: str) -> tuple[str, ...]:
    return tuple(_SIZE.findall(model.casefold()))


@cache
def _guessed(sizes: tuple[str, ...]) -> Architecture:
    """A model nobody described: Llama's shape at its size, else 8B."""
    billions = min(max(float(sizes[0]) if sizes else 8.0, 0.05), 4000.0)
    # Parameters grow with the cube of the width where depth grows with it too.
    layers = max(2, round(32 * (billions / 8) ** (1 / 3)))
    heads = max(1, round(32 * (billions / 8) ** (1 / 3) / 8) * 8)
    return architecture_from_config(
        {
            "model_type": "llama",
            "hidden_size": 128 * heads,
            "intermediate_size": 448 * heads,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "num_key_value_heads": min(8, heads),
            "vocab_size": 128256,
            "max_position_embeddings": 131072,
            "torch_dtype": "bfloat16",
        }
    )
