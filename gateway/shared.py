"""Valkey, or Redis, that gateways share: the connection, and the cache on it (I/O).

Made once by each process that needs it; what is asked of it has a time limit of
its own, so that a server which hangs never holds a request for long.
"""

from __future__ import annotations

import asyncio
from typing import cast

from redis.asyncio import Redis
from redis.exceptions import RedisError

from gateway.cache import Kept
from gateway.snapshot import Snapshot

__all__ = ["SharedCache", "connect"]

_CONNECT_S = 1.0
_LIMIT_S = 0.1
"""A cache that is slow is no cache."""
_NAME = b"bud:cache:"


def connect(snapshot: Snapshot) -> Redis:
    """Make a client, which connects with the first question."""
    shared = snapshot.listener.shared
    assert shared is not None  # the caller has looked
    host, _, port = shared.address.rpartition(":")
    return Redis(
        host=host.strip("[]"),
        port=int(port),
        username=shared.username,
        password=snapshot.shared_password,
        ssl=shared.tls,
        socket_connect_timeout=_CONNECT_S,
    )


class SharedCache:
    """That of all gateways on one server; what cannot be asked holds nothing."""

    def __init__(self, client: Redis) -> None:
        self._client = client

    async def get(self, key: bytes) -> Kept | None:
        try:
            async with asyncio.timeout(_LIMIT_S):
                data = cast("bytes | None", await self._client.get(_NAME + key))
        except (RedisError, OSError, TimeoutError):
            return None
        if data is None:
            return None
        kind, _, body = data.partition(b"\n")
        return Kept(kind, body)

    async def put(self, key: bytes, kept: Kept, *, ttl_s: float) -> None:
        try:
            async with asyncio.timeout(_LIMIT_S):
                await self._client.set(
                    _NAME + key,
                    b"%b\n%b" % kept,
                    px=max(1, int(ttl_s * 1000)),
                )
        except (RedisError, OSError, TimeoutError):
            return

    async def close(self) -> None:
        await self._client.aclose()
