"""Keeps replicas alive between changes: what the daemon runs all day (I/O).

It only tends what records say, through the same code as a change does, and leaves
an endpoint alone while a change holds its lock. It starts nothing that is not
recorded, so what it does needs no plan and no entry in the ledger.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from reconciler.targets.local import files
from reconciler.targets.local.processes import Process
from reconciler.targets.local.records import Instance, Phase, Records, file_name
from reconciler.targets.local.replicas import Replicas
from reconciler.targets.local.requests import Requests
from schemas.errors import TemporaryError
from schemas.objects import Ref

__all__ = ["Supervisor"]

_BUSY_S, _IDLE_S = 0.2, 1.0
"""Between two looks: while a replica is on its way, and while all serve. The end
of a process wakes it at once where the kernel tells."""

log = structlog.get_logger()


@dataclass(slots=True)
class Supervisor:
    records: Records
    replicas: Replicas
    locks: Path
    _ended: asyncio.Event = field(default_factory=asyncio.Event)
    _watched: dict[Process, int] = field(default_factory=dict)

    async def run(self, stop: asyncio.Event) -> None:
        """Tend every endpoint until ``stop`` is set."""
        async with Requests(self.replicas.clock) as requests:
            try:
                while not stop.is_set():
                    self._ended.clear()
                    seen = [
                        instance
                        for ref in self.records.all("Endpoint")
                        for instance in await self._tend(ref, requests)
                    ]
                    self._watch({Process(i.pid, i.started) for i in seen if i.pid})
                    busy = any(i.phase is not Phase.SERVING for i in seen)
                    await self._pause(stop, _BUSY_S if busy else _IDLE_S)
            finally:
                self._watch(())

    async def _tend(self, ref: Ref, requests: Requests) -> list[Instance]:
        def say(text: str) -> None:
            log.info("replica", endpoint=str(ref), event_text=text)

        try:
            async with files.lock(
                self.locks / f"Endpoint.{file_name(ref)}", what=str(ref), patience_s=0
            ):
                record = self.records.read(ref)
                if record is None or record.deleting:
                    return []  # the next plan finds it, and knows what is wanted
                return await self.replicas.tend(ref, requests, say)
        except TemporaryError:
            return []  # it is being changed, or observing will say what is unreadable

    async def _pause(self, stop: asyncio.Event, seconds: float) -> None:
        waits = [asyncio.ensure_future(e.wait()) for e in (stop, self._ended)]
        try:
            await asyncio.wait(
                waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            for wait in waits:
                wait.cancel()

    def _watch(self, wanted: Collection[Process]) -> None:
        """Be woken by the end of exactly these processes."""
        loop = asyncio.get_running_loop()
        for process in set(self._watched) - set(wanted):
            descriptor = self._watched.pop(process)
            loop.remove_reader(descriptor)
            os.close(descriptor)
        for process in set(wanted) - set(self._watched):
            # Gone already, or no descriptor left: the next look finds out anyway.
            with suppress(OSError):
                descriptor = os.pidfd_open(process.pid)
                self._watched[process] = descriptor
                loop.add_reader(descriptor, self._ended.set)
