"""What the exchanges and client connections of one worker run on (I/O).

Lends them the clock, randomness, connections and the snapshot of the moment,
keeps their timeouts, and counts what they did. Made by the worker process.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gateway.accounts import amounts
from gateway.addresses import AddressBook
from gateway.admission import Admission
from gateway.cache import Cache, MemoryCache
from gateway.calls import Calls
from gateway.cold.app import ColdSide
from gateway.edge import Downstream
from gateway.exchange import Exchange
from gateway.gate import Gate, Gated
from gateway.health import RetryBudget
from gateway.inspector import Inspector
from gateway.judge import Judge
from gateway.meters import Meters
from gateway.metrics import Metrics
from gateway.ports import Settled
from gateway.queueing import Places
from gateway.recorder import Recorder
from gateway.semantic import Neighbours
from gateway.snapshot import Route, Snapshot
from gateway.tracing import traced

if TYPE_CHECKING:
    from gateway.store import Store

__all__ = ["Worker"]

_SWEEP_S = 0.25
"""Timeouts are kept to this: one sweep over all is cheaper than a timer each."""
_SWEEPS_A_LEASE = 8
"""A slice that nothing needed for 2 s goes back to where others can have it."""


class Worker:
    """One core's data path."""

    def __init__(
        self,
        snapshot: Snapshot,
        loop: asyncio.AbstractEventLoop,
        *,
        seed: int,
        tell: Callable[[dict[str, Any]], None],
        spool: tuple[Path, str] | None = None,
        store: Store | None = None,
    ) -> None:
        self.snapshot = snapshot
        self.metrics = Metrics()
        self._meters = Meters(self.metrics)
        self.draining = False
        self._loop = loop
        # Finer than the loop's own in uvloop, which counts milliseconds, and cheaper.
        self.now = time.monotonic
        self.random = random.Random(seed).random  # noqa: S311  shares load, no secret
        book = self._book = AddressBook(loop, wanted=self._is_wanted)
        self.healths, self.health = book.healths, book.health
        self.connect, self.tls_of = book.connect, book.tls_of
        self._retries: dict[tuple[str, int], RetryBudget] = {}
        self._exchanges: set[Exchange] = set()
        self._connections: set[Downstream] = set()
        self._waiting: dict[Exchange, asyncio.TimerHandle | None] = {}
        self._places = Places(self.metrics, self.now)
        self._admission = Admission(tell, self._begin, self._places)
        self._recorder = Recorder(*spool) if spool is not None else None
        self._sweeps = 0
        self.store = store
        self._inspector = Inspector()
        self._cache = _cache(snapshot)
        self._calls = Calls(self)
        self.call, self.turn = self._calls.call, self._calls.turn
        self._gate = Gate(
            Judge(self._inspector, self._calls.ask, self.metrics),
            self._cache,
            Neighbours(self._calls.ask),
            self._start,
        )
        self._cold = ColdSide(self)
        self._id_prefix = os.urandom(8).hex().encode()
        self._id_count = 0
        self._sweeper = loop.call_later(_SWEEP_S, self._sweep)
        self._quiet = asyncio.Event()

    async def start(self) -> None:
        self._prepare()
        await self._cold.start()

    def _prepare(self) -> None:
        guards = (g for route in self.snapshot.routes.values() for g in route.guards)
        if any(guard.moderation is None for guard in guards):
            self._inspector.start()

    # For the exchanges.

    def retries(self, route: Route) -> RetryBudget:
        given = route.name, route.retry_percent
        budget = self._retries.get(given)
        if budget is None:
            budget = self._retries[given] = RetryBudget(route.retry_percent)
        return budget

    def _is_wanted(self, url: str) -> bool:
        return url in self.snapshot.urls and not self.draining

    def wait(self, exchange: Exchange, seconds: float | None) -> None:
        timer = self._waiting.pop(exchange, None)
        if timer is not None:
            timer.cancel()  # it waits for something else by now
        timer = None
        if seconds is not None:
            timer = self._loop.call_later(seconds, self._wake, exchange)
        self._waiting[exchange] = timer

    def _wake(self, exchange: Exchange) -> None:
        timer = self._waiting.pop(exchange, None)
        if timer is not None:
            timer.cancel()
        exchange.resume()

    def settled(self, exchange: Exchange, outcome: Settled) -> None:
        self._exchanges.discard(exchange)
        if self._waiting:
            timer = self._waiting.pop(exchange, None)
            if timer is not None:
                timer.cancel()
        self._meters.count(exchange, outcome)
        if exchange.purse:
            tokens = outcome.usage.input + outcome.usage.output
            used = amounts(tokens, outcome.cost, running=0)
            self._admission.settle(exchange, used)
        if self._recorder is not None:
            self._recorder.settled(exchange, outcome)
        if isinstance(exchange.client, Gated):
            exchange.client.settled(outcome.status)
        if self._admission.freed:
            self._admission.go_on()
        if self.draining and not self._exchanges:
            self._quiet.set()

    # For the client connections.

    def wall(self) -> float:
        return time.time()  # noqa: TID251  this is the module that reads the clock

    def new_request_id(self) -> bytes:
        self._id_count += 1
        return b"req-%b%x" % (self._id_prefix, self._id_count)

    def admit(self, exchange: Exchange) -> None:
        route = exchange.route
        if exchange.request.op in route.gated:
            Gated(self._gate, exchange)
        telemetry = self.snapshot.listener.telemetry
        if telemetry is not None:
            exchange.trace, exchange.span = traced(
                exchange.trace, sample=telemetry.sample, random=self.random
            )
        self._exchanges.add(exchange)
        self.retries(route).earn()
        self._admission.admit(exchange)

    def _begin(self, exchange: Exchange) -> None:
        if self._recorder is not None:
            self._recorder.began(exchange, at=self.wall())
        if isinstance(exchange.client, Gated):
            self._gate.begin(exchange.client)
        else:
            self._start(exchange)

    def _start(self, exchange: Exchange) -> None:
        """Ask, whatever stood before it having let it pass."""
        shadow = exchange.route.shadow
        if shadow is not None and self.random() < shadow.share:
            self._calls.mirror(exchange, shadow)
        exchange.start()

    def joined(self, connection: Downstream) -> bool:
        if len(self._connections) >= self.snapshot.listener.max_connections:
            return False
        self._connections.add(connection)
        return True

    def left(self, connection: Downstream) -> None:
        self._connections.discard(connection)

    def wake_jobs(self) -> None:
        self._cold.wake_jobs()

    def cold(self) -> asyncio.Protocol:
        return self._cold.protocol()

    def downstream(self) -> Downstream:
        return Downstream(self)

    # The snapshot, time, and the end.

    def swap(self, snapshot: Snapshot) -> None:
        """Put a new snapshot in force; what is in flight stays undisturbed."""
        self.snapshot = snapshot
        self._admission.forget()
        self._prepare()
        self._book.close_idle()
        for exchange in list(self._waiting):
            self._wake(exchange)

    def _sweep(self) -> None:
        now = self.now()
        for exchange in list(self._exchanges):
            exchange.sweep(now)
            if self._recorder is not None and not exchange.over:
                self._recorder.passed(exchange)
        if self._recorder is not None:
            self._recorder.flush()
        if self._places:
            self._admission.sweep(now)
        self._sweeps += 1
        if self._sweeps % _SWEEPS_A_LEASE == 0:
            self._admission.give_back()
        for connection in list(self._connections):
            connection.sweep(now)
        self._book.sweep(now)
        self._sweeper = self._loop.call_later(_SWEEP_S, self._sweep)

    def heard(self, loads: Mapping[str, tuple[float, float, float]]) -> None:
        """Take what engines say of themselves."""
        self._book.hear(loads, self.now())

    def wanted(self, message: dict[str, Any]) -> None:
        self._admission.wanted(message["id"], by_others=message["by_others"])

    def granted(self, message: dict[str, Any]) -> None:
        self._admission.granted(
            message["id"],
            message["amount"],
            message["retry_after_s"],
            reachable=message["reachable"],
        )

    def numbers(self) -> Metrics:
        self._meters.publish()
        self.metrics.set("bud_gateway_in_flight", to=len(self._exchanges))
        self.metrics.set("bud_gateway_queued", to=len(self._places))
        self.metrics.set("bud_gateway_connections", to=len(self._connections))
        if self._recorder is not None:
            dropped = self._recorder.dropped
            self.metrics.set("bud_gateway_records_dropped_total", to=dropped)
        return self.metrics

    async def drain(self) -> None:
        """Take no more, finish what is in flight, bounded by the config."""
        self.draining = True
        for connection in list(self._connections):
            connection.close_if_idle()
        await self._cold.hand_on()
        try:
            async with asyncio.timeout(self.snapshot.listener.drain.seconds):
                while self._exchanges:
                    self._quiet.clear()  # a session goes from one to the next
                    await self._quiet.wait()
                if self._gate.tasks:
                    await asyncio.wait(self._gate.tasks)
        except TimeoutError:
            pass  # what is left is cut off with the process

    async def close(self) -> None:
        self._sweeper.cancel()
        for connection in list(self._connections):
            connection.cut()
        self._book.abort()
        if self._recorder is not None and not self._exchanges:
            self._recorder.close()
        self._inspector.close()
        await self._cache.close()
        await self._cold.close()


def _cache(snapshot: Snapshot) -> Cache:
    if snapshot.listener.shared is None:
        return MemoryCache(snapshot.listener.cache_memory.bytes)
    # Half a second of a start, for whoever shares.
    from gateway.shared import SharedCache, connect  # noqa: PLC0415

    return SharedCache(connect(snapshot))
