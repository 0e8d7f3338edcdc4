"""config.json -> ``Architecture``. Pure: the caller has read the file.

Called by the catalog for its registry and by ``resolve`` for a model's own
config.json. It recognises what is there by its keys (latent attention by
``kv_lora_rank``, experts by their number), so that a model newer than this
module is read as far as it speaks in known keys; it refuses a layer it does not
know rather than count it as something else.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from schemas.architecture.config_keys import Keys
from schemas.architecture.facts import Architecture, Block, Parameters
from schemas.architecture.families import FAMILIES, UNKNOWN, Family
from schemas.architecture.layer_kinds import layer_kinds
from schemas.architecture.layers import (
    Attention,
    Experts,
    FeedForward,
    LatentAttention,
    StateSpace,
)
from schemas.architecture.mixers import cross_attention, mixer_of
from schemas.architecture.networks import network_of
from schemas.architecture.quantization import native_precision
from schemas.architecture.vision import vision_parameters

__all__ = ["architecture_from_config"]


def architecture_from_config(
    config: Mapping[str, object], *, file: str = "config.json"
) -> Architecture:
    """Read the facts of one model.

    A composite config (``text_config`` beside ``vision_config``) counts as its
    language model plus the parameters of its image tower.

    Raises:
        SpecError: every missing or unusable key at once, each with the way out.
    """
    outer = Keys(config, file=file)
    keys = outer.inner("text_config") or outer
    model_type = keys.text("model_type") or outer.text("model_type") or "unknown"
    family = FAMILIES.get(model_type, UNKNOWN)
    keys = keys.with_defaults(family.defaults)
    assumed = () if model_type in FAMILIES else (_ASSUMED.format(model_type),)

    hidden = keys.integer("hidden_size", "n_embd", "n_embed", "d_model")
    vocab = keys.integer("vocab_size", "padded_vocab_size")
    context = keys.integer(*_CONTEXT, default=_context_default(family))
    tied = keys.flag(
        "tie_word_embeddings",
        default=outer.flag("tie_word_embeddings", default=family.tied),
    )
    blocks = _blocks(keys, family, hidden)
    parameters = Parameters(
        embedding=_embedding(keys, family, vocab, context) * hidden,
        head=_head(family, vocab=vocab, hidden=hidden, tied=tied),
        attention=_sum(blocks, Attention) + _sum(blocks, LatentAttention),
        state_space=_sum(blocks, StateSpace),
        dense=_sum(blocks, FeedForward),
        **_experts(blocks),
        norms=_norms(blocks, family, hidden),
        vision=vision_parameters(outer, hidden=hidden),
    )
    outer.raise_problems()
    native, unquantized = native_precision(config)
    return Architecture(
        family=model_type,
        kind=family.kind,
        assumed=assumed,
        hidden=hidden,
        vocab=vocab,
        context_length=context,
        tied_embeddings=tied,
        native=native,
        unquantized=unquantized,
        blocks=blocks,
        parameters=parameters,
    )


_ASSUMED: Final = "model_type {} is not a known family: counted as Llama's layers"
_CONTEXT: Final = (
    "max_position_embeddings",
    "n_positions",
    "max_sequence_length",
    "max_seq_len",
    "seq_length",
)


def _context_default(family: Family) -> int | None:
    """T5's relative positions have no end; the context trained on is 512."""
    return 512 if family.kind == "encoder-decoder" else None


def _blocks(keys: Keys, family: Family, hidden: int) -> tuple[Block, ...]:
    """Alike layers counted together, in the order of their first."""
    norms = _norm(family, hidden) * family.norms
    blocks = [
        Block(
            count=count,
            mixer=mixer_of(keys, family, kind.mixer, hidden),
            feed_forward=network_of(keys, family, kind.network, hidden),
            norms=norms,
        )
        for kind, count in Counter(layer_kinds(keys, family)).items()
    ]
    if family.kind == "encoder-decoder":
        blocks += [
            replace(
                block,
                count=keys.integer("num_decoder_layers", default=block.count),
                mixer=cross_attention(block.mixer, keys, family, hidden),
                norms=norms + _norm(family, hidden),
            )
            for block in blocks
            if isinstance(block.mixer, Attention)
        ]
    return tuple(blocks)


def _norm(family: Family, hidden: int) -> int:
    return 2 * hidden if family.norm_bias else hidden


def _norms(blocks: tuple[Block, ...], family: Family, hidden: int) -> int:
    """The layers' norms and one more: a decoder's last, an encoder's first.

    An encoder-decoder has two stacks, so two more.
    """
    ends = 2 if family.kind == "encoder-decoder" else 1
    return sum(b.count * b.norms for b in blocks) + ends * _norm(family, hidden)


def _embedding(keys: Keys, family: Family, vocab: int, context: int) -> int:
    """Rows of all tables that turn an input into a vector."""
    if family.extra_positions is None:
        return vocab
    types = keys.integer("type_vocab_size", default=0)
    return vocab + context + family.extra_positions + types


def _head(family: Family, *, vocab: int, hidden: int, tied: bool) -> int:
    if family.kind == "encoder":  # BERT's pooler
        return hidden * (hidden + 1)
    return 0 if tied else vocab * hidden + (vocab if family.head_bias else 0)


def _sum(
    blocks: tuple[Block, ...],
    part: type[Attention | LatentAttention | StateSpace | FeedForward],
) -> int:
    return sum(
        block.count * piece.parameters
        for block in blocks
        for piece in (block.mixer, block.feed_forward)
        if isinstance(piece, part)
    )


def _experts(blocks: tuple[Block, ...]) -> dict[str, int]:
    found = [
        (block.count, block.feed_forward)
        for block in blocks
        if isinstance(block.feed_forward, Experts)
    ]
    return {
        "routed": sum(n * e.routed * e.expert_parameters for n, e in found),
        "shared": sum(n * e.shared_parameters for n, e in found),
        "router": sum(n * e.router_parameters for n, e in found),
    }
