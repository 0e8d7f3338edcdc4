"""The process that the operator starts: owns the port, the files, the workers (I/O).

It holds the listening sockets itself, so that a connection which waits for a
worker that died is served by its replacement. It watches the files and brings
each valid state of them to every worker; it never touches a request.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Coroutine, Mapping
from typing import TYPE_CHECKING, Any

import structlog

from gateway.engines import Engines
from gateway.files import Bundle, Files, compile_bundle
from gateway.health import Reported
from gateway.lender import Lender
from gateway.limits import Limiter
from gateway.metrics import Metrics
from gateway.slot import Slot, bind
from gateway.snapshot import Snapshot
from schemas.errors import FoundryError
from schemas.gateway import Listener

if TYPE_CHECKING:
    from gateway.telemetry import Telemetry

__all__ = ["Supervisor"]

_POLL_S = 0.1
_NUMBERS_S = 2.0
_ENGINES_S = 1.0
"""Between two looks at the engines: they schedule many times a second, but their
queues move more slowly."""
_MAX_RESTART_S = 5.0
_log = structlog.get_logger("gateway")


class Supervisor:
    """Keeps the workers running and on what the files say."""

    def __init__(self, files: Files, bundle: Bundle, listener: Listener) -> None:
        self._files, self._bundle = files, bundle
        self.generation = 1
        self.rejected = 0
        self.error: str | None = None
        """What is wrong with the files, if their newest state is not in force."""
        self._digests = {1: bundle.digests}
        count = listener.workers or os.cpu_count() or 1
        first = bind(listener.listen, shared=True)
        host = listener.listen.rpartition(":")[0]
        self.listen = f"{host}:{first.getsockname()[1]}"
        rest = [bind(self.listen, shared=True) for _ in range(count - 1)]
        self.slots = [Slot(listening) for listening in (first, *rest)]
        self._retired = Metrics()
        self._telemetry: Telemetry | None = None
        self._snapshot = bundle, compile_bundle(bundle)
        usage = hear = None
        if listener.usage is not None:
            usage = files.config.parent / listener.usage
            self._telemetry = _telemetry(self._snapshot[1], bundle.secrets)
            hear = self._telemetry.record if self._telemetry is not None else None
        self._lender = Lender(self._snapshot[1], usage, hear)
        self._asking: set[asyncio.Task[None]] = set()
        self._queued: dict[str, dict[Slot, Limiter]] = {}
        """Workers in which requests wait for a place, by limiter."""
        self._engines = Engines(self._tell_loads)
        self._hired = 0
        folder = files.config.parent
        self._tls = (
            None
            if listener.tls is None
            else {
                name: None if path is None else str(folder / path)
                for name, path in listener.tls.model_dump().items()
            }
        )
        self._store: dict[str, Any] | None = None
        if listener.store is not None:
            url = bundle.secrets.get("gateway.store.database")
            self._store = {"folder": str(folder / listener.store.folder), "url": url}
            from gateway.store import open_store  # noqa: PLC0415  see `documents`

            store = open_store(**self._store)
            store.create()  # once, before any worker looks
            store.close()
        self._stopping = False

    # What the admin side shows.

    @property
    def ready(self) -> bool:
        return not self._stopping and all(slot.applied for slot in self.slots)

    @property
    def in_force(self) -> int:
        """The generation that every worker has reached."""
        return min(slot.applied for slot in self.slots)

    def status(self) -> dict[str, Any]:
        config, addresses = self._digests.get(self.in_force, (None, None))
        return {
            "ready": self.ready,
            "listen": self.listen,
            "generation": self.in_force,
            "config": config,
            "addresses": addresses,
            "error": self.error,
            "workers": [
                {
                    "pid": slot.pid,
                    "generation": slot.applied,
                    "restarts": slot.restarts,
                }
                for slot in self.slots
            ],
        }

    async def numbers(self) -> Metrics:
        """Ask every worker, and add up."""
        asked = [slot.ask_numbers() for slot in self.slots]
        waits = [answer for answer in asked if answer is not None]
        if waits:
            await asyncio.wait(waits, timeout=_NUMBERS_S)
        total = Metrics()
        total.merge(self._retired.dump(), gauges=False)
        for slot in self.slots:
            if slot.numbers is not None:
                total.merge(slot.numbers.dump(), gauges=True)
        total.set(
            "bud_gateway_workers", to=sum(1 for slot in self.slots if slot.applied)
        )
        total.add(
            "bud_gateway_worker_restarts_total",
            n=sum(slot.restarts for slot in self.slots),
        )
        if (up := self._lender.shared_up) is not None:
            total.set("bud_gateway_shared_up", to=int(up))
        total.set("bud_gateway_config_generation", to=self.in_force)
        total.add("bud_gateway_config_rejected_total", n=self.rejected)
        valid = self.error is None and self.in_force == self.generation
        total.set("bud_gateway_config_valid", to=int(valid))
        for digest in self._digests.get(self.in_force, ()):
            total.set("bud_gateway_config_info", digest, to=1)
        return total

    # Running.

    async def run(self, stop: asyncio.Event) -> None:
        """Serve until ``stop``, then drain and reap every worker."""
        async with asyncio.TaskGroup() as tasks:
            keepers = [tasks.create_task(self._keep(slot)) for slot in self.slots]
            watcher = tasks.create_task(self._watch())
            publisher = tasks.create_task(_aside("limits", self._lender.publish()))
            engines = tasks.create_task(
                _aside("engines", self._engines.run(self._compiled, _ENGINES_S))
            )
            if self._telemetry is not None:
                exporter = tasks.create_task(
                    _aside("telemetry", self._telemetry.run(self.numbers))
                )
            await stop.wait()
            self._stopping = True
            watcher.cancel()
            engines.cancel()
            for slot in self.slots:
                slot.terminate()
            for keeper in keepers:
                if not await self._finished(keeper):
                    keeper.cancel()
            publisher.cancel()
            if self._telemetry is not None:
                exporter.cancel()
                await asyncio.to_thread(self._telemetry.close)
        await self._lender.close()

    async def _finished(self, keeper: asyncio.Task[None]) -> bool:
        done, _ = await asyncio.wait({keeper}, timeout=_MAX_RESTART_S + self._drain_s)
        return bool(done)

    @property
    def _drain_s(self) -> float:
        return compile_bundle(self._bundle).listener.drain.seconds

    async def _keep(self, slot: Slot) -> None:
        """Run one worker, and another when it dies."""
        pause = 0.0
        try:
            while not self._stopping:
                lived = await self._live(slot)
                if self._stopping:
                    return
                slot.restarts += 1
                # At once when it had served; slower and slower when it dies
                # before it does.
                pause = 0.0 if lived else min(pause * 2 or 0.1, _MAX_RESTART_S)
                await asyncio.sleep(pause)
        finally:
            slot.kill()

    async def _live(self, slot: Slot) -> bool:
        """Start a worker and stay with it to its end; true if it had served."""
        reader = await slot.hire()
        self._hired += 1
        slot.id = self._hired
        slot.spool = self._lender.employ(slot.id)
        self._send(slot)
        async for message in slot.messages(reader):
            self._heard(slot, message)
        served = bool(slot.applied)
        code = await slot.part()
        self._lender.bury(slot.id, slot.spool)
        slot.wanted.clear()
        for waits in self._queued.values():
            waits.pop(slot, None)
        if slot.numbers is not None:
            self._retired.merge(slot.numbers.dump(), gauges=False)
            slot.numbers = None
        if not self._stopping:
            _log.error("worker died", pid=slot.pid, code=code)
        return served

    def _send(self, slot: Slot) -> None:
        slot.tell(
            {
                "op": "snapshot",
                "generation": self.generation,
                "bundle": self._bundle.to_json(),
                "spool": slot.spool,
                "tls": self._tls,
                "store": self._store,
            }
        )

    def _heard(self, slot: Slot, message: dict[str, Any]) -> None:
        if message["op"] == "applied":
            slot.applied = message["generation"]
            for old in [g for g in self._digests if g < self.in_force]:
                del self._digests[old]
        elif message["op"] == "lease":
            limiter, queued = Limiter(*message["limiter"]), "queued" in message
            self._later(self._lease(slot, limiter, message["need"], queued=queued))
        elif message["op"] == "return":
            name, amount = message["id"], message["amount"]
            self._later(self._take_back(slot, name, amount))

    def _later(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._asking.add(task)
        task.add_done_callback(self._asking.discard)

    async def _take_back(self, slot: Slot, name: str, amount: int) -> None:
        await self._lender.give_back(name, worker=slot.id, amount=amount)
        waits = self._queued.get(name)
        if waits:
            # The one that has waited longest; when that has enough, the next.
            first = next(iter(waits))
            await self._lease(first, waits[first], 1, queued=True)

    def _note_queue(self, slot: Slot, limiter: Limiter, *, waits: bool) -> None:
        """Have others return their places while a worker waits for one."""
        slots = self._queued.setdefault(limiter.id, {})
        slots.pop(slot, None)
        if waits:
            slots[slot] = limiter
        for other in self.slots:
            by_others = bool(slots.keys() - {other})
            if (limiter.id in other.wanted) != by_others:
                (other.wanted.add if by_others else other.wanted.discard)(limiter.id)
                other.tell({"op": "wanted", "id": limiter.id, "by_others": by_others})

    async def _lease(
        self, slot: Slot, limiter: Limiter, need: int, *, queued: bool
    ) -> None:
        worker = slot.id
        grant = await self._lender.lease(
            limiter, need=need, worker=worker, workers=len(self.slots)
        )
        if queued:
            self._note_queue(slot, limiter, waits=not grant.amount)
        granted = {"op": "granted", "id": limiter.id, **grant._asdict()}
        if slot.id != worker or not slot.tell(granted):
            # It died while it waited.
            self._lender.unused(limiter.id, worker=worker, amount=grant.amount)

    def _compiled(self) -> Snapshot:
        if self._snapshot[0] is not self._bundle:
            self._snapshot = self._bundle, compile_bundle(self._bundle)
        return self._snapshot[1]

    def _tell_loads(self, loads: dict[str, Reported]) -> None:
        plain = {url: tuple(load) for url, load in loads.items()}
        for slot in self.slots:
            slot.tell({"op": "loads", "loads": plain})

    async def _watch(self) -> None:
        """Bring each new valid state of the files to the workers."""
        while True:
            await asyncio.sleep(_POLL_S)
            self._lender.read()
            if self._files.changed():
                self.reload()

    def reload(self) -> None:
        """Read the files; invalid ones leave what is in force as it is."""
        try:
            bundle = self._files.read()
            compile_bundle(bundle, file=str(self._files.config))
        except FoundryError as error:
            self.rejected += 1
            self.error = str(error)
            _log.error("config rejected", error=self.error)
            return
        self.error = None
        if bundle == self._bundle:
            return
        self._bundle = bundle
        self.generation += 1
        self._digests[self.generation] = bundle.digests
        for slot in self.slots:
            self._send(slot)
        _log.info("config sent", generation=self.generation, digests=bundle.digests)


async def _aside(name: str, work: Coroutine[Any, Any, None]) -> None:
    """Do what requests do not need; whatever goes wrong there must not stop them."""
    try:
        await work
    except Exception:  # noqa: BLE001
        _log.exception("stopped", task=name)


def _telemetry(snapshot: Snapshot, secrets: Mapping[str, str]) -> Telemetry | None:
    given = snapshot.listener.telemetry
    if given is None:
        return None
    # It brings 40 MB of libraries, for whoever wants it.
    from gateway.telemetry import Telemetry  # noqa: PLC0415

    return Telemetry(
        given.endpoint,
        interval_s=given.interval.seconds,
        authorization=secrets.get("gateway.telemetry.authorization"),
        dialects={name: u.dialect for name, u in snapshot.upstreams.items()},
    )
