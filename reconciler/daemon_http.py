"""What the daemon shows on loopback: health, status, metrics (I/O).

Whoever asks changes nothing; ``POST /look`` only makes it look sooner.
"""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Any

from aiohttp import ClientError, ClientSession, ClientTimeout, web

from reconciler.daemon import Daemon
from reconciler.metrics import Metrics

__all__ = ["ask_daemon", "serve"]

_TIMEOUT = ClientTimeout(total=2)


@asynccontextmanager
async def serve(
    daemon: Daemon, metrics: Metrics, *, port: int, where: Path
) -> AsyncIterator[str]:
    """Answer on 127.0.0.1 while the block runs; ``where`` says the address."""

    async def health(_: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def status(_: web.Request) -> web.Response:
        return web.json_response(_status(daemon))

    async def measured(_: web.Request) -> web.Response:
        return web.Response(
            body=metrics.text(), headers={"Content-Type": "text/plain; version=0.0.4"}
        )

    async def look(_: web.Request) -> web.Response:
        daemon.look()
        return web.Response(status=HTTPStatus.ACCEPTED)

    app = web.Application()
    app.router.add_post("/look", look)
    app.router.add_get("/healthz", health)
    app.router.add_get("/status", status)
    app.router.add_get("/metrics", measured)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", port)
        await site.start()
        url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        part = where.with_suffix(".part")
        part.write_text(json.dumps({"pid": os.getpid(), "url": url}))
        part.replace(where)
        yield url
    finally:
        where.unlink(missing_ok=True)
        await runner.cleanup()


def _status(daemon: Daemon) -> dict[str, Any]:
    progress = daemon.progress
    blocked = progress.plan.blocked if progress.plan else ()
    return {
        "pid": os.getpid(),
        "commit": progress.commit,
        "phase": progress.phase,
        "since": progress.since.isoformat() if progress.since else None,
        "error": progress.error,
        "plan": progress.plan.digest if progress.plan else None,
        "pending": len(progress.plan.steps) if progress.plan else None,
        "steps": {str(key): doing for key, doing in progress.steps.items()},
        "blocked": [
            {"key": str(item.key), "waits": item.waits, "detail": item.detail}
            for item in blocked
        ],
    }


async def ask_daemon(where: Path, *, look: bool = False) -> dict[str, Any] | None:
    """The status of the daemon whose address is in ``where``; None without one.

    With ``look`` it is told to look at once.
    """
    try:
        url = json.loads(where.read_text())["url"]
        async with ClientSession(timeout=_TIMEOUT) as session:
            if look:
                await session.post(f"{url}/look")
            async with session.get(f"{url}/status") as answer:
                said: dict[str, Any] = await answer.json()
                return said
    except (OSError, ClientError, TimeoutError):
        return None
