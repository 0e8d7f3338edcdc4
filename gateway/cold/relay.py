"""What the handlers of the aiohttp application share (I/O).

The worker as they see it, and an upstream's answer on its way to the client.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from typing import TYPE_CHECKING, Protocol

from aiohttp import web

from gateway.cold.call import Broken, Call, Reply
from gateway.cold.turn import Turn
from gateway.health import Health, RetryBudget
from gateway.openai import BadRequest, Request
from gateway.snapshot import Address, Key, Route, Snapshot

if TYPE_CHECKING:
    from gateway.store import Store

__all__ = ["JSON", "ColdRuntime", "ask", "relay", "send"]

JSON = "application/json"


class ColdRuntime(Protocol):
    snapshot: Snapshot
    draining: bool
    healths: dict[str, Health]
    now: Callable[[], float]
    random: Callable[[], float]
    store: Store | None

    def wall(self) -> float:
        """Seconds since the epoch."""
        ...

    def call(self, key: Key, request: Request, fields: Mapping[bytes, bytes]) -> Call:
        """Begin an exchange; ``fields`` are the client's, by lower-case name.

        Raises:
            BadRequest: the key may not, or nothing can.
        """
        ...

    def turn(self, key: Key, request: Request, fields: Mapping[bytes, bytes]) -> Turn:
        """Ask for a turn of a session; its `admitted` says whether it may begin.

        Raises:
            BadRequest: the key may not, or nothing can.
        """
        ...

    def retries(self, route: Route) -> RetryBudget: ...
    def tls_of(self, address: Address) -> ssl.SSLContext:
        """Give what speaks TLS there."""
        ...

    def wake_jobs(self) -> None:
        """Look for new work at once."""
        ...


async def ask(
    runtime: ColdRuntime, key_name: str | None, request: Request
) -> tuple[Reply, bytes]:
    """Ask in the name of a key, long after its own request.

    Raises:
        BadRequest: the key is no longer good, may not, or nothing can.
        Broken: the answer ended in the middle.
    """
    key = runtime.snapshot.key_named(key_name, now=runtime.wall())
    if key is None:
        raise BadRequest(f"the key {key_name!r} is no longer valid", code="no_key")
    call = runtime.call(key, request, {})
    try:
        return await call.reply(), await call.whole()
    finally:
        call.close()


async def relay(request: web.Request, call: Call) -> web.StreamResponse:
    """Pass an answer on as it comes."""
    try:
        reply = await call.reply()
        return await send(request, reply.status, reply.fields, call.body())
    finally:
        call.close()


async def send(
    request: web.Request,
    status: int,
    fields: dict[str, str],
    body: AsyncIterator[bytes],
) -> web.StreamResponse:
    """Write a response in pieces."""
    response = web.StreamResponse(status=status, headers=fields)
    response.force_close()
    await response.prepare(request)
    try:
        async for part in body:
            await response.write(part)
    except Broken:
        # Nothing else says in plain HTTP that an answer is not whole.
        if request.transport is not None:
            request.transport.abort()
    await response.write_eof()
    return response
