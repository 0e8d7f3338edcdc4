"""Prompts that mean the same: their embeddings, side by side (I/O).

Each worker has its own index, of prompts whose answers are in the cache. Two
prompts are only ever compared within one project, route, model and set of
parameters: all of a request but its words must be equal. Called by the gate.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import orjson

from gateway.cache import cache_key
from gateway.exchange import Exchange
from gateway.gating import Caching
from gateway.judge import Ask
from gateway.texts import parts_of

if TYPE_CHECKING:
    import numpy as np

__all__ = ["Neighbours", "Place"]

_SPACES, _PLACES = 256, 1024
"""Of one worker: at 384 numbers a prompt, a full space takes 1.5 MB."""


class _Space:
    def __init__(self) -> None:
        self.vectors: list[np.ndarray[Any, Any]] = []
        self.keys: list[bytes] = []


class Place:
    """Where a prompt stands in its space."""

    def __init__(self, space: _Space, vector: np.ndarray[Any, Any]) -> None:
        self._space, self._vector = space, vector

    def nearest(self, similarity: float) -> bytes | None:
        """Give the key of the closest prompt that is at least so similar."""
        space = self._space
        if not space.keys:
            return None
        import numpy as np  # noqa: PLC0415  only who compares prompts pays for it

        cosines = np.stack(space.vectors) @ self._vector
        best = int(cosines.argmax())
        return space.keys[best] if cosines[best] >= similarity else None

    def keep(self, key: bytes) -> None:
        """Say under which key this prompt's answer is."""
        space = self._space
        if key not in space.keys:
            space.vectors.append(self._vector)
            space.keys.append(key)
            del space.vectors[:-_PLACES], space.keys[:-_PLACES]


class Neighbours:
    def __init__(self, ask: Ask) -> None:
        self._ask = ask
        self._spaces: OrderedDict[bytes, _Space] = OrderedDict()

    async def place(self, exchange: Exchange, caching: Caching) -> Place | None:
        """Embed a request's words; None: they cannot be."""
        document = orjson.loads(orjson.dumps(exchange.request.document))
        words = []
        for part in parts_of(document):
            words.append(part.text)
            part.put("")
        assert caching.embeddings is not None
        answer = await self._ask(
            exchange, caching.embeddings, "embeddings", {"input": "\n".join(words)}
        )
        vector = _vector(answer)
        if vector is None:
            return None
        blank = exchange.request._replace(document=document)
        scope = cache_key(exchange.key, exchange.route, blank)
        # How many numbers there are says which model embedded them.
        name = hashlib.blake2b(scope + b"%d" % len(vector), digest_size=32).digest()
        space = self._spaces.setdefault(name, _Space())
        self._spaces.move_to_end(name)
        while len(self._spaces) > _SPACES:
            self._spaces.popitem(last=False)
        return Place(space, vector)


def _vector(answer: bytes | None) -> np.ndarray[Any, Any] | None:
    """Read the one embedding of an answer, with length 1."""
    import numpy as np  # noqa: PLC0415  as above

    try:
        numbers: Sequence[float] = orjson.loads(answer or b"")["data"][0]["embedding"]
        vector = np.asarray(numbers, dtype=np.float32)
        length = float(np.linalg.norm(vector))
    except (orjson.JSONDecodeError, IndexError, KeyError, TypeError, ValueError):
        return None
    return vector / length if vector.ndim == 1 and length > 0 else None
