"""Convert a BERT encoder from safetensors to GGUF, so that llama.cpp serves it (I/O).

The fetch of a Model whose files are safetensors calls ``convert`` for the
llama.cpp engine; nothing else does. Tensors keep their type, so nothing is lost.
It never reads anything but the folder it is given.

What the file must hold is llama.cpp's own convention for encoders: its names for
the tensors (from the ``gguf`` package), the word pieces with "phantom spaces"
(a word start is marked, a continuation loses its ``##``), and the way in which
token vectors become one vector.
"""

from __future__ import annotations

import json
import mmap
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray

from schemas.errors import PermanentError

__all__ = ["convert", "tensors"]

_DTYPES = {"F32": np.float32, "F16": np.float16}
_POOLING = {
    "pooling_mode_mean_tokens": gguf.PoolingType.MEAN,
    "pooling_mode_cls_token": gguf.PoolingType.CLS,
    "pooling_mode_lasttoken": gguf.PoolingType.LAST,
}
_SPECIAL = {"cls": "[CLS]", "sep": "[SEP]", "unk": "[UNK]", "pad": "[PAD]"}
# A word start in llama.cpp's WordPiece vocabulary: U+2581, as SentencePiece marks it.
_WORD_START = "\u2581"
# Not weights, or a head that an embedding never passes through.
_SKIPPED = ("position_ids", "pooler.", "cls.")


def convert(folder: Path, target: Path) -> None:
    """Write ``target`` from the model in ``folder``; replaces it as a whole.

    Raises:
        PermanentError: the folder holds no BERT encoder that can be converted.
    """
    try:
        config = _json(folder / "config.json")
        if config.get("model_type") != "bert":
            raise _refusal(folder, f"its model_type is {config.get('model_type')!r}")
        vocabulary = (folder / "vocab.txt").read_text(encoding="utf-8").split("\n")
        pooling = _pooling(folder)
        partial = target.with_name(f"{target.name}.partial")
        writer = gguf.GGUFWriter(partial, "bert")
        _describe(writer, config, pooling)
        _add_vocabulary(writer, [t for t in vocabulary if t], config)
        _add_tensors(writer, folder / "model.safetensors", config)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    except (OSError, KeyError, ValueError, struct.error) as error:
        raise _refusal(folder, f"{type(error).__name__}: {error}") from error
    with partial.open("rb") as written:
        os.fsync(written.fileno())
    partial.replace(target)


def _refusal(folder: Path, found: str) -> PermanentError:
    return PermanentError(
        f"cannot convert {folder.name} to GGUF: {found}",
        hint="llama.cpp takes a BERT encoder as safetensors (config.json, vocab.txt, "
        "model.safetensors), or any model that already is a GGUF file",
    )


def _json(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_bytes())
    return content


def _pooling(folder: Path) -> gguf.PoolingType:
    modes = _json(folder / "1_Pooling" / "config.json")
    chosen = [kind for name, kind in _POOLING.items() if modes.get(name)]
    if len(chosen) != 1:
        raise _refusal(folder, f"its pooling is {modes}")
    return chosen[0]


def _describe(
    writer: gguf.GGUFWriter, config: dict[str, Any], pooling: gguf.PoolingType
) -> None:
    writer.add_name(str(config.get("_name_or_path", "bert")))
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_layer_norm_eps(config["layer_norm_eps"])
    writer.add_causal_attention(value=False)
    writer.add_pooling_type(pooling)


def _add_vocabulary(
    writer: gguf.GGUFWriter, tokens: list[str], config: dict[str, Any]
) -> None:
    if len(tokens) != config["vocab_size"]:
        raise ValueError(f"{len(tokens)} tokens, not {config['vocab_size']}")
    control = [_is_control(word) for word in tokens]
    writer.add_tokenizer_model("bert")
    writer.add_token_list(
        [
            word if special else _phantom(word)
            for word, special in zip(tokens, control, strict=True)
        ]
    )
    writer.add_token_types(
        [gguf.TokenType.CONTROL if c else gguf.TokenType.NORMAL for c in control]
    )
    writer.add_token_type_count(config["type_vocab_size"])
    ids = {name: tokens.index(text) for name, text in _SPECIAL.items()}
    writer.add_bos_token_id(ids["cls"])
    writer.add_sep_token_id(ids["sep"])
    writer.add_unk_token_id(ids["unk"])
    writer.add_pad_token_id(ids["pad"])


def _is_control(word: str) -> bool:
    """``[CLS]`` and ``[unused12]`` are; a lone bracket is a character."""
    return len(word) > len("[]") and word.startswith("[") and word.endswith("]")


def _phantom(word: str) -> str:
    if word.startswith("##") and word != "##":
        return word.removeprefix("##")
    return _WORD_START + word


def _add_tensors(writer: gguf.GGUFWriter, path: Path, config: dict[str, Any]) -> None:
    names = gguf.get_tensor_name_map(
        gguf.MODEL_ARCH.BERT, int(config["num_hidden_layers"])
    )
    for name, tensor in tensors(path):
        if name.startswith(_SKIPPED) or name.endswith(_SKIPPED[0]):
            continue
        known = names.get_name(name.removeprefix("bert."), (".weight", ".bias"))
        if known is None:
            raise ValueError(f"unknown tensor {name}")
        # llama.cpp computes norms, biases and token types in 32 bits only.
        small = tensor.ndim == 1 or "token_types" in known
        writer.add_tensor(known, tensor.astype(np.float32) if small else tensor)


def tensors(path: Path) -> Iterator[tuple[str, NDArray[Any]]]:
    """Yield each tensor as a view of the mapped file.

    The format: 8 bytes little-endian length, that much JSON, then the data.
    """
    with path.open("rb") as file:
        data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    (size,) = struct.unpack("<Q", data[:8])
    header: dict[str, Any] = json.loads(data[8 : 8 + size])
    header.pop("__metadata__", None)
    for name, entry in header.items():
        if entry["dtype"] == "I64":
            continue
        dtype = np.dtype(_DTYPES[entry["dtype"]])
        start, end = entry["data_offsets"]
        flat = np.frombuffer(
            data, dtype, (end - start) // dtype.itemsize, 8 + size + start
        )
        yield name, flat.reshape(entry["shape"])
