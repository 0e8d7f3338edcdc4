"""A BERT encoder as written in its paper: numpy, no shortcuts, a few sentences.

What llama.cpp answers from our converted file is compared with this.
"""

import unicodedata
from collections.abc import Iterator
from math import erf
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from reconciler.engines.gguf_bert import tensors

Array = NDArray[np.floating]
_HEADS, _EPSILON = 12, 1e-12  # of all-MiniLM-L6-v2
_gelu = np.vectorize(lambda x: x * 0.5 * (1 + erf(x / 2**0.5)))


class Encoder:
    def __init__(self, folder: Path) -> None:
        self._weights = dict(tensors(folder / "model.safetensors"))
        words = (folder / "vocab.txt").read_text(encoding="utf-8").split("\n")
        self._ids = {word: number for number, word in enumerate(words)}

    def tokens(self, text: str) -> list[int]:
        """WordPiece, lower-cased and without accents."""
        found = [self._ids["[CLS]"]]
        for word in _words(text):
            found += self._pieces(word)
        return [*found, self._ids["[SEP]"]]

    def embed(self, text: str) -> Array:
        """The mean over all tokens of the last layer, as a unit vector."""
        tokens = self.tokens(text)
        table = "embeddings.{}_embeddings.weight".format
        x = self._norm(
            self._weights[table("word")][tokens]
            + self._weights[table("position")][: len(tokens)]
            + self._weights[table("token_type")][0],
            "embeddings",
        )
        for layer in range(6):
            x = self._layer(x, f"encoder.layer.{layer}")
        mean = x.mean(0)
        unit: Array = mean / np.linalg.norm(mean)
        return unit

    def _layer(self, x: Array, name: str) -> Array:
        tokens, width = x.shape
        query, key, value = (
            self._linear(x, f"{name}.attention.self.{part}")
            .reshape(tokens, _HEADS, width // _HEADS)
            .transpose(1, 0, 2)
            for part in ("query", "key", "value")
        )
        scores = query @ key.transpose(0, 2, 1) / (width // _HEADS) ** 0.5
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        mixed = (weights @ value).transpose(1, 0, 2).reshape(tokens, width)
        attended = self._linear(mixed, f"{name}.attention.output.dense")
        x = self._norm(x + attended, f"{name}.attention.output")
        wide = _gelu(self._linear(x, f"{name}.intermediate.dense"))
        return self._norm(
            x + self._linear(wide, f"{name}.output.dense"), f"{name}.output"
        )

    def _linear(self, x: Array, name: str) -> Array:
        out: Array = (
            x @ self._weights[f"{name}.weight"].T + self._weights[f"{name}.bias"]
        )
        return out

    def _norm(self, x: Array, name: str) -> Array:
        centred = x - x.mean(-1, keepdims=True)
        scaled = centred / np.sqrt(x.var(-1, keepdims=True) + _EPSILON)
        weight = self._weights[f"{name}.LayerNorm.weight"]
        out: Array = scaled * weight + self._weights[f"{name}.LayerNorm.bias"]
        return out

    def _pieces(self, word: str) -> list[int]:
        found, start = list[int](), 0
        while start < len(word):
            prefix = "##" if start else ""
            ends = range(len(word), start, -1)
            end = next((e for e in ends if prefix + word[start:e] in self._ids), None)
            if end is None:
                return [self._ids["[UNK]"]]
            found.append(self._ids[prefix + word[start:end]])
            start = end
        return found


def _words(text: str) -> Iterator[str]:
    """Split at spaces, and around everything that is no letter or digit."""
    plain = "".join(
        c
        for c in unicodedata.normalize("NFD", text.lower())
        if unicodedata.category(c) != "Mn"
    )
    spaced = "".join(c if c.isalnum() else f" {c} " for c in plain)
    yield from spaced.split()
