"""A client of the data path that is a coroutine of this process (I/O).

What is not hot asks upstreams through the same exchange as the edge does, with
the same limits, tries and records; only the answer ends up here instead of in a
socket. Made by the worker for the aiohttp application and the batch executor.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from typing import NamedTuple

from gateway.exchange import Exchange

__all__ = ["Broken", "Call", "Reply"]

_HIGH = 256 * 1024
"""Bytes that wait for their reader before the upstream is asked to slow down."""


class Reply(NamedTuple):
    status: int
    fields: dict[str, str]
    """Lower-case names; what frames the body is left out."""


class Broken(Exception):
    """The answer ended in the middle."""


class Call:
    """One exchange, and its answer as it comes."""

    def __init__(self) -> None:
        self.exchange: Exchange | None = None
        self._parts: deque[bytes] = deque()
        self._size = 0
        self._slow = self._over = self._broken = False
        self._news = asyncio.Event()

    # What the exchange calls.

    def write(self, data: bytes) -> None:
        self._parts.append(data)
        self._size += len(data)
        self._news.set()
        if self._size > _HIGH and not self._slow and self.exchange is not None:
            self._slow = True
            self.exchange.client_slow(True)

    def finish(self) -> None:
        self._over = True
        self._news.set()

    def cut(self) -> None:
        self._broken = True
        self.finish()

    # What the coroutine calls.

    async def reply(self) -> Reply:
        """Wait for the head of the answer.

        Raises:
            Broken: it never came.
        """
        first = await self._next()
        if first is None:
            raise Broken
        head, _, rest = first.partition(b"\r\n\r\n")
        if rest:
            self._parts.appendleft(rest)
            self._size += len(rest)
        status, *lines = head.decode("latin-1").split("\r\n")
        fields = dict(line.split(": ", 1) for line in lines)
        fields.pop("content-length", None)
        return Reply(int(status.split(" ", 2)[1]), fields)

    async def body(self) -> AsyncIterator[bytes]:
        """Give the body in pieces, after the head.

        Raises:
            Broken: it ended in the middle.
        """
        while (part := await self._next()) is not None:
            yield part

    async def whole(self) -> bytes:
        return b"".join([part async for part in self.body()])

    def close(self) -> None:
        """Stop the upstream's work, if it still goes on."""
        if not self._over and self.exchange is not None:
            self._over = True
            self.exchange.client_gone()

    async def _next(self) -> bytes | None:
        while not self._parts:
            if self._broken:
                raise Broken
            if self._over:
                return None
            self._news.clear()
            await self._news.wait()
        part = self._parts.popleft()
        self._size -= len(part)
        if self._slow and self._size <= _HIGH // 2:
            self._slow = False
            if self.exchange is not None and not self._over:
                self.exchange.client_slow(False)
        return part
