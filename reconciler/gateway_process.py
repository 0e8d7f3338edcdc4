"""The gateway as a process of this machine: started, found again, stopped (I/O).

It outlives the daemon, so that a restart of the one never costs the other a
request. The daemon's loop starts it when it is not there; `bud down` stops it.
Its own supervisor replaces its workers; this one replaces the supervisor.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import tomllib
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import structlog

from reconciler import faults
from reconciler.targets.gateway import InForce
from schemas.gateway import Listener

__all__ = ["GatewayProcess"]

_log = structlog.get_logger("gateway-process")
_TREE = Path(__file__).resolve().parent.parent
_MARK = "BUD_GATEWAY"
"""In the environment of a gateway: the config that it serves."""
_LOOK_S = 0.25
_MAX_PAUSE_S = 10.0
_ASK_TIMEOUT = aiohttp.ClientTimeout(total=2)


@dataclass(frozen=True, slots=True)
class _Running:
    pid: int
    born: str
    """When it started, in clock ticks since boot: a reused pid has another."""
    listener: dict[str, Any]


class GatewayProcess:
    """Serves ``config``; its log and its pid lie beside it."""

    def __init__(self, config: Path) -> None:
        self.config = config
        self._record = config.with_name("gateway.json")
        self.log = config.with_name("gateway.log")
        self._child: subprocess.Popen[bytes] | None = None

    async def ask(self) -> InForce | None:
        """What the gateway serves from; None when none runs."""
        running = self._running()
        if running is None:
            return None
        url = f"http://{Listener.model_validate(running.listener).admin}/status"
        try:
            async with (
                aiohttp.ClientSession(timeout=_ASK_TIMEOUT) as session,
                session.get(url) as answer,
            ):
                said = await answer.json()
        except (aiohttp.ClientError, TimeoutError):
            # It runs and does not answer yet: whatever it serves, it is not ours.
            return InForce(digest="", error="")
        digest = (said["config"] or "").removeprefix("sha256:")
        return InForce(digest=digest, error=said["error"] or "")

    def metrics_url(self) -> str | None:
        """Where its metrics are; None when none runs."""
        running = self._running()
        if running is None:
            return None
        return f"http://{Listener.model_validate(running.listener).admin}"

    async def supervise(self, stop: asyncio.Event) -> None:
        """Keep one running while there is a config, until ``stop``."""
        pause = _LOOK_S
        while not stop.is_set():
            running, wanted = self._running(), self._listener()
            if running is not None and wanted not in (None, running.listener):
                # Where it listens is fixed at its start.
                await self.stop()
                running = None
            if running is None and wanted is not None:
                self._start(wanted)
                pause = min(pause * 2, _MAX_PAUSE_S)
            elif running is not None:
                pause = _LOOK_S
            with suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), pause)

    async def stop(self, timeout_s: float = 40.0) -> None:
        """End it: requests in flight first, then by force."""
        running = self._running()
        if running is None:
            return
        with suppress(ProcessLookupError):
            os.kill(running.pid, signal.SIGTERM)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        while self._running() is not None:
            if loop.time() > deadline:
                with suppress(ProcessLookupError):
                    os.killpg(running.pid, signal.SIGKILL)
            await asyncio.sleep(0.05)
        self._record.unlink(missing_ok=True)

    def _start(self, listener: dict[str, Any]) -> None:
        with self.log.open("ab") as out:
            child = self._child = subprocess.Popen(
                [sys.executable, "-m", "gateway", "--config", str(self.config)],
                cwd=self.config.parent,
                env={**os.environ, "PYTHONPATH": str(_TREE), _MARK: str(self.config)},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
        # A kill right here leaves a gateway without a record: `_found` knows it again.
        faults.point("gateway started")
        record = {"pid": child.pid, "born": _born(child.pid), "listener": listener}
        part = self._record.with_suffix(".part")
        part.write_text(json.dumps(record))
        part.replace(self._record)
        _log.info("gateway started", pid=child.pid, listen=listener.get("listen"))

    def _found(self) -> int | None:
        """A gateway of ours whose pid nobody recorded."""
        mark = f"{_MARK}={self.config}".encode()
        for folder in Path("/proc").iterdir():
            with suppress(OSError):
                if not folder.name.isdigit():
                    continue
                if mark not in (folder / "environ").read_bytes().split(b"\0"):
                    continue
                if b"gateway" in (folder / "cmdline").read_bytes().split(b"\0"):
                    return int(folder.name)  # a worker's module is `gateway.worker`
        return None

    def _running(self) -> _Running | None:
        if self._child is not None:
            self._child.poll()  # reap it: a zombie still has its birth
        try:
            record = _Running(**json.loads(self._record.read_text()))
            if _born(record.pid) == record.born:
                return record
        except FileNotFoundError:
            pass
        pid = self._found()
        return _Running(pid, _born(pid), self._listener() or {}) if pid else None

    def _listener(self) -> dict[str, Any] | None:
        """The listener's table as written; None while there is no config."""
        try:
            config = tomllib.loads(self.config.read_text(encoding="utf-8"))
        except (FileNotFoundError, tomllib.TOMLDecodeError):
            return None
        table = config.get("gateway")
        return table if isinstance(table, dict) else None


def _born(pid: int) -> str:
    """Field 22 of /proc/PID/stat; empty when there is no such process.

    Fields are counted after the last parenthesis: a program's name may hold any.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""
    fields = stat.rpartition(")")[2].split()
    return "" if fields[0] == "Z" else fields[19]
