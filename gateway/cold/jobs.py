"""Work that outlives its request: taken up, kept, handed on (I/O).

Each worker looks into the store for work that nobody is at and takes it by a
lease. A worker that is killed stops renewing, and another goes on with what it
left. Started by the worker process.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import structlog

from gateway.cold.files import content_path
from gateway.documents import Document, Kind
from schemas.errors import PermanentError

if TYPE_CHECKING:
    from gateway.store import Store

__all__ = ["RENEW_S", "Job", "Jobs", "Lost", "Trade"]

LEASE_S = 10.0
"""What a killed worker left is taken up after so long."""
RENEW_S = 2.0
_LOOK_S = 1.0
_EXPIRE_S = 60.0
_log = structlog.get_logger("gateway")


class Lost(Exception):
    """Somebody else has the work now, or it is gone."""


class Job:
    """A document that this worker holds."""

    def __init__(
        self, store: Store, document: Document, wall: Callable[[], float]
    ) -> None:
        self.store, self.document, self._wall = store, document, wall
        self.epoch = document.version
        """No two that took it up have the same."""

    @property
    def body(self) -> dict[str, Any]:
        return self.document.body

    async def write(self, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
        """Change the document and renew the lease.

        Raises:
            Lost: it is no longer this worker's.
        """
        while True:
            old = self.document
            done = await asyncio.to_thread(
                self.store.change,
                old,
                change(old.body),
                lease_until=self._wall() + LEASE_S,
            )
            if done is not None:
                self.document = done
                return
            newer = await asyncio.to_thread(
                self.store.get, old.project, old.kind, old.id
            )
            if newer is None or newer.owner != old.owner or newer.lease_until is None:
                raise Lost
            self.document = newer

    async def end(self, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
        """Write the last state: there is nothing more to do.

        Raises:
            Lost: it is no longer this worker's.
        """
        await self.write(change)
        await self._let_go(None)

    async def hand_on(self) -> None:
        """Let another worker take it up at once."""
        with suppress(Lost, PermanentError):
            await self.write(lambda body: body)
            await self._let_go(0)

    async def _let_go(self, until: float | None) -> None:
        await asyncio.to_thread(
            self.store.change, self.document, self.document.body, lease_until=until
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Trade:
    """How one kind of work is done."""

    do: Callable[[Job], Awaitable[None]]
    at_once: int
    """Of this kind, in one worker."""


class Jobs:
    """One worker's share of the work."""

    def __init__(
        self, store: Store, trades: Mapping[Kind, Trade], wall: Callable[[], float]
    ) -> None:
        self._store, self._trades, self._wall = store, trades, wall
        self._owner = os.urandom(8).hex()
        self._busy: dict[Kind, set[asyncio.Task[None]]] = {k: set() for k in trades}
        self._news = asyncio.Event()
        self._expired_at = 0.0

    def wake(self) -> None:
        self._news.set()

    async def run(self) -> None:
        """Take up work until cancelled; then hand on what is not done."""
        try:
            async with asyncio.TaskGroup() as tasks:
                while True:
                    try:
                        await self._look(tasks)
                    except PermanentError as error:
                        _log.error("store failed", error=str(error))
                    with suppress(TimeoutError):
                        async with asyncio.timeout(_LOOK_S):
                            await self._news.wait()
                    self._news.clear()
        except asyncio.CancelledError:
            pass

    async def _look(self, tasks: asyncio.TaskGroup) -> None:
        now = self._wall()
        for kind, trade in self._trades.items():
            busy = self._busy[kind]
            while len(busy) < trade.at_once:
                document = await asyncio.to_thread(
                    self._store.claim, kind, self._owner, now=now, until=now + LEASE_S
                )
                if document is None:
                    break
                job = Job(self._store, document, self._wall)
                task = tasks.create_task(self._do(trade, job))
                busy.add(task)
                task.add_done_callback(busy.discard)
        if now - self._expired_at >= _EXPIRE_S:
            self._expired_at = now
            for old in await asyncio.to_thread(self._store.expire, now=now):
                if old.kind == "file":
                    content_path(self._store, old.id).unlink(missing_ok=True)

    async def _do(self, trade: Trade, job: Job) -> None:
        try:
            await trade.do(job)
        except Lost:
            pass
        except asyncio.CancelledError:
            await job.hand_on()
            raise
        except Exception as error:  # noqa: BLE001  one job must not end the others
            # Its lease runs out, and it is tried again.
            _log.error("job failed", job=job.document.id, error=repr(error))
