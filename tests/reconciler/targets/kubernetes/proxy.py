"""Between a target and its API server: what Sieve does to a controller.

It numbers every write and can, at one of them, cut the line before or after it goes
through (a crash: nothing of that target passes any more), answer reads with what was
true before (time travel), drop watch events, or refuse reads. (Sieve, OSDI 2022.)
"""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import aiohttp
from aiohttp import web

from tests.reconciler.targets.kubernetes.plane import TOKEN, Plane

PASSED = ("Authorization", "Content-Type")
JSON = "application/json"


@dataclass
class Proxy:
    plane: Plane
    url: str = ""
    writes: list[str] = field(default_factory=list)
    """Every write that reached the server, in order; a dry run is none."""
    cut_before: int = 0
    cut_after: int = 0
    dead: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the line was cut: whoever was writing has crashed."""
    stale_from: int = 0
    """After this many writes, reads are answered as they were before the last one."""
    stale_reads: int = 0
    drop_events: bool = False
    refuse_reads: int = 0
    """Status to answer every read with."""
    refuse_kind: str = ""
    """Only reads of this plural."""
    answers: bool = False
    """Say what the ready pods behind a Service would, which have no network here."""
    _seen: dict[str, tuple[int, bytes]] = field(default_factory=dict)
    _older: dict[str, tuple[int, bytes]] = field(default_factory=dict)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        if self.dead.is_set():
            return self._hang_up(request)
        if request.method == "GET":
            if self.answers and request.path.endswith("/proxy/v1/models"):
                return await self._answer(request)
            if request.query.get("watch"):
                return await self._watch(request)
            return await self._read(request)
        return await self._write(request)

    async def _write(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        dry = "dryRun" in request.query or b'"dryRun"' in body
        number = 0
        if not dry:
            self.writes.append(f"{request.method} {request.path}")
            number = len(self.writes)
        if number and number == self.cut_before:
            self.writes.pop()
            self.dead.set()
            return self._hang_up(request)
        status, content = await self._forward(request, body)
        if number and number == self.cut_after:
            self.dead.set()
            return self._hang_up(request)
        return web.Response(status=status, body=content, content_type=JSON)

    async def _read(self, request: web.Request) -> web.StreamResponse:
        if self.refuse_reads and self.refuse_kind in request.path:
            return web.json_response({"message": "planted"}, status=self.refuse_reads)
        key = request.path_qs
        stale = self.stale_reads and len(self.writes) >= self.stale_from > 0
        if stale and (older := self._older.get(key)):
            self.stale_reads -= 1
            return web.Response(status=older[0], body=older[1], content_type=JSON)
        status, content = await self._forward(request, b"")
        if (before := self._seen.get(key)) and before[1] != content:
            self._older[key] = before
        self._seen[key] = status, content
        return web.Response(status=status, body=content, content_type=JSON)

    async def _answer(self, request: web.Request) -> web.Response:
        """The model's name, if a pod behind the Service is ready."""
        service = request.match_info["path"].split("/")[5].split(":")[1]
        path = request.path.partition("/services/")[0] + f"/endpoints/{service}"
        async with self._session.get(
            self.plane.server + path, headers=_headers(request)
        ) as upstream:
            found = await upstream.json()
        ready = any(part.get("addresses") for part in found.get("subsets") or ())
        models = [{"id": service}] if ready else []
        return web.json_response({"data": models}, status=200 if ready else 503)

    async def _watch(self, request: web.Request) -> web.StreamResponse:
        async with self._session.get(
            self.plane.server + request.path_qs, headers=_headers(request)
        ) as upstream:
            response = web.StreamResponse(
                status=upstream.status, headers={"Content-Type": JSON}
            )
            await response.prepare(request)
            with suppress(ConnectionResetError):  # who watched was killed
                async for line in upstream.content:
                    if self.dead.is_set():
                        break
                    if not self.drop_events:
                        await response.write(line)
            return response

    async def _forward(self, request: web.Request, body: bytes) -> tuple[int, bytes]:
        async with self._session.request(
            request.method,
            self.plane.server + request.path_qs,
            data=body or None,
            headers=_headers(request),
        ) as upstream:
            return upstream.status, await upstream.read()

    def _hang_up(self, request: web.Request) -> web.Response:
        assert request.transport is not None
        request.transport.abort()
        return web.Response(status=502)

    _session: aiohttp.ClientSession = field(init=False)


def _headers(request: web.Request) -> dict[str, str]:
    """Of what a client asked in; the answer is JSON whatever else it would take.

    Helm's client sends no token where nothing is encrypted: the proxy has one.
    """
    passed = {name: request.headers[name] for name in PASSED if name in request.headers}
    return {"Authorization": f"Bearer {TOKEN}", **passed, "Accept": JSON}


@asynccontextmanager
async def proxy_to(plane: Plane) -> AsyncIterator[Proxy]:
    """Serve a proxy on loopback."""
    proxy = Proxy(plane)
    context = ssl.create_default_context(cadata=plane.ca.decode())
    connector = aiohttp.TCPConnector(ssl=context, limit=0)
    app = web.Application(client_max_size=1 << 24)
    app.router.add_route("*", "/{path:.*}", proxy.handle)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    async with aiohttp.ClientSession(
        connector=connector, read_bufsize=1 << 21
    ) as session:
        proxy._session = session
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        proxy.url = site.name.rstrip("/")
        host, port = runner.addresses[0][:2]
        proxy.url = f"http://{host}:{port}"
        try:
            yield proxy
        finally:
            await runner.cleanup()
            await connector.close(abort_ssl=True)
