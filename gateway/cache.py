"""Answers that were given before, kept for the same question of the same project.

A key holds the project, the route and the whole request, so that no tenant can
meet another's answer. Kept in the worker's memory here, or by `shared` on the
server that gateways share.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from typing import NamedTuple, Protocol

import orjson

from gateway.openai import Request
from gateway.snapshot import Key, Route

__all__ = ["Cache", "Kept", "MemoryCache", "cache_key"]

MAX_KEPT = 1 << 20
"""Bytes of an answer; a larger one is not kept."""


class Kept(NamedTuple):
    kind: bytes
    """The content type."""
    body: bytes


def cache_key(key: Key, route: Route, request: Request) -> bytes:
    """Name a question: equal for equal requests of one project, and for no others."""
    scope = key.name.partition("/")[0], route.name, request.op, request.client
    document = orjson.dumps(request.document, option=orjson.OPT_SORT_KEYS)
    # Sizes before contents: no two lists of parts look the same put together.
    parts = [*(part.encode() for part in scope), document]
    text = b"".join(b"%d:%b" % (len(part), part) for part in parts)
    return hashlib.blake2b(text, digest_size=32).digest()


class Cache(Protocol):
    async def get(self, key: bytes) -> Kept | None: ...
    async def put(self, key: bytes, kept: Kept, *, ttl_s: float) -> None: ...
    async def close(self) -> None: ...


class MemoryCache:
    """One worker's own, bounded in bytes; what was used last stays longest."""

    def __init__(self, limit: int) -> None:
        self._limit, self._size = limit, 0
        self._kept: OrderedDict[bytes, tuple[Kept, float]] = OrderedDict()

    async def get(self, key: bytes) -> Kept | None:
        found = self._kept.get(key)
        if found is None:
            return None
        kept, until = found
        if asyncio.get_running_loop().time() >= until:
            self._drop(key)
            return None
        self._kept.move_to_end(key)
        return kept

    async def put(self, key: bytes, kept: Kept, *, ttl_s: float) -> None:
        self._drop(key)
        self._kept[key] = kept, asyncio.get_running_loop().time() + ttl_s
        self._size += len(kept.body)
        while self._size > self._limit:
            self._drop(next(iter(self._kept)))

    def _drop(self, key: bytes) -> None:
        found = self._kept.pop(key, None)
        if found is not None:
            self._size -= len(found[0].body)

    async def close(self) -> None:
        self._kept.clear()
