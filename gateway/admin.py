"""Health, readiness, status and metrics on the loopback listener (I/O).

Served by the supervisor, away from the clients' port. It shows; nothing can be
changed through it.
"""

from __future__ import annotations

import socket

from aiohttp import web

from gateway.metrics import render
from gateway.supervisor import Supervisor

__all__ = ["start_admin"]


async def start_admin(
    supervisor: Supervisor, listening: socket.socket
) -> web.AppRunner:
    """Serve until the runner is cleaned up."""

    async def health(_: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def ready(_: web.Request) -> web.Response:
        if supervisor.ready:
            return web.Response(text="ready\n")
        return web.Response(status=503, text="starting or stopping\n")

    async def status(_: web.Request) -> web.Response:
        return web.json_response(supervisor.status())

    async def metrics(_: web.Request) -> web.Response:
        return web.Response(
            text=render(await supervisor.numbers()),
            headers={"content-type": "text/plain; version=0.0.4; charset=utf-8"},
        )

    app = web.Application()
    app.add_routes(
        [
            web.get("/healthz", health),
            web.get("/readyz", ready),
            web.get("/status", status),
            web.get("/metrics", metrics),
        ]
    )
    runner = web.AppRunner(app, access_log=None, handle_signals=False)
    await runner.setup()
    await web.SockSite(runner, listening).start()
    return runner
