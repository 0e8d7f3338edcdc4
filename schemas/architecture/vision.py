"""Parameters of an image tower, from ``vision_config``.

Called by ``schemas.architecture.config``. Exact to a tenth of a percent of the whole
model for the towers of Gemma 3 and 4, Qwen3-VL and Llama 4; any other is counted as a plain vision transformer with a
projector of one matrix.
"""

from __future__ import annotations

from schemas.architecture.config_keys import Keys
from schemas.architecture.layers import attention_parameters, feed_forward_parameters

__all__ = ["vision_parameters"]


def vision_parameters(outer: Keys, *, hidden: int) -> int:
    """Patch and position embedding, blocks, norms and the way into ``hidden``."""
    keys = outer.inner("vision_config")
    if keys is None:
        return 0
    width = keys.integer("hidden_size", "vt_hidden_size", "embed_dim")
    depth = keys.integer("num_hidden_layers", "depth", "vt_num_hidden_layers")
    heads = keys.integer("num_attention_heads", "num_heads", "vt_num_attention_heads")
    inner = keys.integer("intermediate_size", "vt_intermediate_size", default=4 * width)
    block = (
        attention_parameters(
            hidden=width,
            heads=heads,
            kv_heads=heads,
            head_dim=width // max(heads, 1),
            value_dim=width // max(heads, 1),
            qkv_bias=True,
            out_bias=True,
        )
        + feed_forward_parameters(
            hidden=width,
            intermediate=inner,
            gated=keys.text("model_type") == "gemma4_vision",
            bias=True,
        )
        + 4 * width  # two LayerNorms
    )
    patch = keys.integer("patch_size", default=14, least=1)
    pixels = 3 * patch * patch * keys.integer("temporal_patch_size", default=1)
    return (
        depth * block
        + (pixels + 1) * width
        + _positions(keys, patch) * width
        + _projector(keys, width, hidden)
    )


def _positions(keys: Keys, patch: int) -> int:
    if keys.has("position_embedding_size"):  # Gemma 4: a table for each direction
        return 2 * keys.integer("position_embedding_size")
    image = keys.integer("image_size", default=0)
    return keys.integer("num_position_embeddings", default=(image // patch) ** 2)


def _projector(keys: Keys, width: int, hidden: int) -> int:
    merge = keys.integer("spatial_merge_size", default=1) ** 2
    if keys.has("out_hidden_size"):  # Qwen-VL: a merger, and one a deepstack layer
        wide, out = width * merge, keys.integer("out_hidden_size")
        matrices = wide * (wide + 1) + (wide + 1) * out
        deep = len(keys.sequence("deepstack_visual_indexes") or ())
        return (1 + deep) * matrices + 2 * width + deep * 2 * wide
    if keys.has("projector_input_dim"):  # Llama 4: an adapter of two layers
        narrow = keys.integer("projector_input_dim")
        wide = keys.integer("intermediate_size")
        out = keys.integer("projector_output_dim")
        return wide * narrow + narrow * out + out * hidden + 5 * width
    return width * hidden + 3 * width
