"""The daemon: run the line when something moved, and again after a while (I/O).

`bud reconcile` runs it, and each pass is the `Reconciler`'s. Level-based: an event says
only that a look is due, never what to do. A newer commit cancels the run in hand at
once, and SIGTERM records it (laws 12 and 10). What strays while a rollout takes its
time is healed by another run beside it, for whatever the first is not at. It decides
nothing that `plan` could.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress

from reconciler.reconciler import BESIDE_S, FIRST_RETRY_S, Progress, Reconciler
from reconciler.targets.base import Supervising, Target, Watching
from schemas.errors import FoundryError

__all__ = ["Daemon"]

_END_S = 5.0


class Daemon:
    """One leader's loop: when the next pass is due."""

    def __init__(self, reconciler: Reconciler) -> None:
        self._reconciler = reconciler
        self._pipeline, self._source = reconciler.pipeline, reconciler.source
        self._due = asyncio.Event()
        self._attended: dict[str, tuple[Target, list[asyncio.Task[None]]]] = {}
        self._again = False

    @property
    def progress(self) -> Progress:
        """What it is doing now."""
        return self._reconciler.progress

    def look(self) -> None:
        """Look now, and not only when something moved or the pause is over."""
        self._due.set()

    async def run(self, stop: asyncio.Event) -> None:
        """Reconcile until ``stop``.

        Raises:
            ChainBrokenError: the ledger does not prove what it should.
            PermanentError: the ledger cannot be written, or somebody else leads.
        """
        async with asyncio.TaskGroup() as group:
            following = group.create_task(self._follow(stop))
            self._attend(group, stop)
            try:
                await self._loop(group, stop)
            finally:
                stop.set()
                attended = [t for _, tasks in self._attended.values() for t in tasks]
                # They end by themselves and close what they opened; a cancel in the
                # middle of that would leave connections to the collector.
                await asyncio.wait([following, *attended], timeout=_END_S)
                for task in (following, *attended):
                    task.cancel()

    def _attend(self, group: asyncio.TaskGroup, stop: asyncio.Event) -> None:
        """Supervise and watch each target, for as long as it is one."""
        drives = self._pipeline.share.drives
        targets = {n: t for n, t in self._pipeline.targets.items() if drives(n)}
        for name, (target, tasks) in list(self._attended.items()):
            if targets.get(name) is not target:
                for task in tasks:
                    task.cancel()
                del self._attended[name]
        for name, target in targets.items():
            if name in self._attended:
                continue
            keeping: list[asyncio.Task[None]] = []
            if isinstance(target, Supervising):
                keeping.append(group.create_task(target.supervise(stop)))
            if isinstance(target, Watching):
                watch = target.watch(self._due.set, stop)
                keeping.append(group.create_task(watch))
            self._attended[name] = target, keeping

    async def _follow(self, stop: asyncio.Event) -> None:
        """Look as soon as the source moved."""
        async for _ in self._source.changes(stop):
            self._due.set()

    async def _loop(self, group: asyncio.TaskGroup, stop: asyncio.Event) -> None:
        while not stop.is_set():
            self._due.clear()
            self._again = False
            await self._until_superseded(group, stop)
            if not stop.is_set() and not self._again:
                self.progress.phase = "waiting"
                await self._next_look(stop)

    async def _next_look(self, stop: asyncio.Event) -> None:
        """Wait until something moved, the pause is over, or the end."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self._reconciler.wait_s):
                await _either(self._due, stop)

    async def _until_superseded(
        self, attending: asyncio.TaskGroup, stop: asyncio.Event
    ) -> None:
        """Run, and beside it what moves meanwhile, but stop all of it at once when a
        newer tree or the end arrives."""
        async with asyncio.TaskGroup() as group:
            due = False
            runs = {group.create_task(self._once())}
            while runs:
                limit_s = BESIDE_S if due else FIRST_RETRY_S
                moved = await self._wait(runs, stop, limit_s)
                self._again |= moved  # the last look may have missed it
                self._attend(attending, stop)
                runs = {run for run in runs if not run.done()}
                if stop.is_set() or (runs and await self._is_superseded(moved=moved)):
                    for run in runs:
                        run.cancel()
                    return
                due = True
                if runs and self._reconciler.may_run_beside():
                    due = False
                    runs.add(group.create_task(self._once(beside=True)))

    async def _once(self, *, beside: bool = False) -> None:
        if await self._reconciler.reconcile(beside=beside):
            self._due.set()  # a newer tree cancels both

    async def _wait(
        self, runs: set[asyncio.Task[None]], stop: asyncio.Event, limit_s: float
    ) -> bool:
        """Until a run ended, something moved or the time is over; whether it moved."""
        moving = asyncio.ensure_future(_either(self._due, stop))
        first = asyncio.FIRST_COMPLETED
        await asyncio.wait({*runs, moving}, return_when=first, timeout=limit_s)
        moving.cancel()
        moved = self._due.is_set()
        self._due.clear()
        return moved

    async def _is_superseded(self, *, moved: bool) -> bool:
        if moved and await self._is_newer():
            return True
        # Another replica is to drive it, or may drive it already.
        return not all(
            self._pipeline.share.drives(key.target) for key in self._reconciler.in_hand
        )

    async def _is_newer(self) -> bool:
        try:
            tree = await self._source.newest()
        except FoundryError:
            return False
        return tree.commit.sha != self.progress.commit


async def _either(one: asyncio.Event, other: asyncio.Event) -> None:
    tasks = [asyncio.ensure_future(event.wait()) for event in (one, other)]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
