"""Who lends the limits to the workers: from memory, the books, what is shared (I/O).

The supervisor asks here for each slice that a worker wants. Says how much; never
which request may use it.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gateway.books import Books
from gateway.limits import Authority, Grant, Limiter, slice_of
from gateway.snapshot import Snapshot

if TYPE_CHECKING:
    from gateway.shared_limits import SharedLimits

__all__ = ["Lender"]

_PUBLISH_S = 0.1


class Lender:
    """Keeps the limits of all workers of this gateway."""

    def __init__(
        self,
        snapshot: Snapshot,
        folder: Path | None,
        hear: Callable[[dict[str, Any]], None] | None,
    ) -> None:
        self._authority = Authority()
        self._books = None if folder is None else Books(folder, self._authority, hear)
        holder = uuid.uuid4().hex if self._books is None else self._books.gateway
        self._shared = _shared(snapshot, self._authority, holder)

    @property
    def shared_up(self) -> bool | None:
        """Say whether what gateways share answers; None: nothing is shared."""
        return None if self._shared is None else self._shared.up

    def employ(self, worker: int) -> dict[str, str] | None:
        """Say where a new worker leaves its records; None: nowhere."""
        if self._books is None:
            return None
        return {"folder": str(self._books.folder), "name": self._books.employ(worker)}

    def bury(self, worker: int, spool: dict[str, str] | None) -> None:
        """Answer for a worker that is gone, and take back what it held."""
        if self._books is not None and spool is not None:
            self._books.bury(spool["name"])
        self._authority.forget(worker)

    def read(self) -> None:
        """Charge what workers have recorded."""
        if self._books is not None:
            self._books.read()

    async def lease(
        self, limiter: Limiter, *, need: int, worker: int, workers: int
    ) -> Grant:
        if limiter.kind == "budget":
            self.read()  # what was spent meanwhile is no longer lent
        now = _wall()
        if self._shared is not None:
            want = slice_of(limiter, need, workers)
            grant = await self._shared.grant(
                limiter, worker=worker, need=need, want=want, now=now
            )
            if grant is not None:
                return grant
        return self._authority.grant(
            limiter, worker=worker, need=need, workers=workers, now=now
        )

    def unused(self, name: str, *, worker: int, amount: int) -> None:
        """Take back a slice that never arrived."""
        self._authority.give_back(name, worker=worker, amount=amount)

    async def give_back(self, name: str, *, worker: int, amount: int) -> None:
        """Take back a slice that nobody needed."""
        self._authority.give_back(name, worker=worker, amount=amount)
        if self._shared is not None and name.endswith((":requests", ":tokens")):
            await self._shared.give_back(name, amount)

    async def publish(self) -> None:
        """Tell the other gateways, for ever, if there may be any."""
        while self._shared is not None:
            await asyncio.sleep(_PUBLISH_S)
            await self._shared.publish(_wall())

    async def close(self) -> None:
        if self._shared is not None:
            await self._shared.publish(_wall())
            await self._shared.close()


def _shared(
    snapshot: Snapshot, authority: Authority, holder: str
) -> SharedLimits | None:
    given = snapshot.listener.shared
    if given is None:
        return None
    # Half a second of a start, for whoever shares.
    from gateway.shared import connect  # noqa: PLC0415
    from gateway.shared_limits import SharedLimits  # noqa: PLC0415

    return SharedLimits(
        connect(snapshot), authority, holder=holder, fails_open=given.failure == "open"
    )


def _wall() -> float:
    return time.time()  # noqa: TID251  this module keeps the clock of limits
