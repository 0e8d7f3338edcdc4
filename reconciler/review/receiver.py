"""Where a forge's webhooks arrive, and where plans can be read (I/O: HTTP).

`service` runs it. Whatever is wrong with a delivery is found before it is parsed,
costs nothing but its bytes, and is recorded: the first of a kind in a minute, so
that a stranger cannot fill the ledger. What it was about is looked at later.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import orjson
from aiohttp import web

from reconciler.forge.webhooks import Kind, Refused, read_delivery
from reconciler.store import Store
from renderers.comment import comment

__all__ = ["MAX_BYTES", "Receiver", "Wanted"]

MAX_BYTES = 1 << 20
"""Of a delivery. Gitea and GitHub send 25 MB at most, of which we read a number."""
_READ_S = 10.0
_SAID_AGAIN = timedelta(minutes=1)


@dataclass(slots=True)
class Wanted:
    """Pull requests to be looked at; ten events of one are one look."""

    pulls: set[int] = field(default_factory=set)
    everything: bool = False
    due: asyncio.Event = field(default_factory=asyncio.Event)

    def ask(self, pull: int | None) -> None:
        if pull is None:
            self.everything = True
        else:
            self.pulls.add(pull)
        self.due.set()

    def take(self) -> tuple[set[int], bool]:
        taken, self.pulls = self.pulls, set()
        everything, self.everything = self.everything, False
        self.due.clear()
        return taken, everything


@dataclass(slots=True, kw_only=True)
class Receiver:
    kind: Kind
    repository: str
    secret: str
    store: Store
    wanted: Wanted
    clock: Callable[[], datetime]
    _said: dict[str, datetime] = field(default_factory=dict)

    @asynccontextmanager
    async def serve(self, host: str, port: int) -> AsyncIterator[int]:
        """Answer while the block runs; gives the port."""
        # The reading bound is our own: aiohttp's would parse multipart first.
        app = web.Application(client_max_size=MAX_BYTES)
        app.router.add_post("/webhook", self._webhook)
        app.router.add_get("/plans/{digest:[0-9a-f]{64}}", self._plan)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        try:
            site = web.TCPSite(runner, host, port)
            await site.start()
            yield runner.addresses[0][1]
        finally:
            await runner.cleanup()

    async def _webhook(self, request: web.Request) -> web.Response:
        body = await self._body(request)
        if body is None:
            return self._refused(413, f"oversize: more than {MAX_BYTES} bytes")
        try:
            delivery = read_delivery(
                self.kind,
                request.headers,
                body,
                secret=self.secret,
                repository=self.repository,
            )
        except Refused as error:
            return self._refused(403, str(error))
        if not self.store.reviews.first_seen(f"delivery {delivery.id}"):
            return self._refused(409, f"replayed: {delivery.id} was here before")
        self.wanted.ask(delivery.pull)
        return web.Response(status=202)

    async def _body(self, request: web.Request) -> bytes | None:
        if (request.content_length or 0) > MAX_BYTES:
            return None
        body = bytearray()
        async with asyncio.timeout(_READ_S):
            async for part in request.content.iter_chunked(1 << 16):
                body += part
                if len(body) > MAX_BYTES:
                    return None
        return bytes(body)

    def _refused(self, status: int, why: str) -> web.Response:
        now, kind = self.clock(), why.partition(":")[0]
        if now - self._said.get(kind, now - _SAID_AGAIN) >= _SAID_AGAIN:
            self._said[kind] = now
            self.store.decide("webhook", f"refuse delivery: {why}")
        return web.Response(status=status)

    async def _plan(self, request: web.Request) -> web.Response:
        """Whoever knows the digest was shown it: it cannot be guessed."""
        review = self.store.reviews.find(request.match_info["digest"])
        if review is None:
            return web.Response(status=404)
        if "json" in request.headers.get("Accept", ""):
            return web.Response(body=review.document, content_type="application/json")
        text = comment(orjson.loads(review.document))
        return web.Response(text=text, content_type="text/plain")
