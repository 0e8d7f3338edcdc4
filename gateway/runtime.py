"""What the exchanges and client connections of one worker run on (I/O).

Lends them the clock, randomness, connections and the snapshot of the moment,
keeps their timeouts, and counts what they did. Made by the worker process.
"""

from __future__ import annotations

import asyncio
import os
import random
import ssl
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gateway.accounts import amounts
from gateway.admission import Admission
from gateway.answer import Framing
from gateway.cold.app import ColdSide
from gateway.cold.call import Call
from gateway.edge import Downstream
from gateway.entry import request_id_of, route_of, trace_lines
from gateway.exchange import Exchange
from gateway.health import Health, RetryBudget
from gateway.metrics import Metrics
from gateway.openai import Request
from gateway.ports import Settled
from gateway.recorder import Recorder, count
from gateway.snapshot import Address, Key, Route, Snapshot
from gateway.upstream import Pool

if TYPE_CHECKING:
    from gateway.store import Store

__all__ = ["Worker"]

_SWEEP_S = 0.25
"""Timeouts are kept to this: one sweep over all is cheaper than a timer each."""
_IDLE_UPSTREAM_S = 60.0
"""Below the 75 s after which common servers close an idle connection."""
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
        self.draining = False
        self._loop = loop
        self.now = loop.time
        self.random = random.Random(seed).random  # noqa: S311  shares load, no secret
        self._pools: dict[str, Pool] = {}
        self._healths: dict[str, Health] = {}
        self._retries: dict[tuple[str, int], RetryBudget] = {}
        self._exchanges: set[Exchange] = set()
        self._connections: set[Downstream] = set()
        self._waiting: dict[Exchange, asyncio.TimerHandle | None] = {}
        self._admission = Admission(tell, self._begin)
        self._recorder = Recorder(*spool) if spool is not None else None
        self._sweeps = 0
        self._tls = ssl.create_default_context()
        self.store = store
        self._cold = ColdSide(self)
        self._id_prefix = os.urandom(8).hex().encode()
        self._id_count = 0
        self._sweeper = loop.call_later(_SWEEP_S, self._sweep)
        self._quiet = asyncio.Event()

    async def start(self) -> None:
        await self._cold.start()

    # For the exchanges.

    @property
    def healths(self) -> Mapping[str, Health]:
        return self._healths

    def retries(self, route: Route) -> RetryBudget:
        given = route.name, route.retry_percent
        budget = self._retries.get(given)
        if budget is None:
            budget = self._retries[given] = RetryBudget(route.retry_percent)
        return budget

    def health(self, url: str) -> Health:
        health = self._healths.get(url)
        if health is None:
            health = self._healths[url] = Health()
        return health

    def connect(self, address: Address, exchange: Exchange, *, fresh: bool) -> None:
        pool = self._pools.get(address.url)
        if pool is None:
            pool = Pool(address, self._loop, self._tls, wanted=self._is_wanted)
            self._pools[address.url] = pool
        pool.lend(exchange, fresh=fresh, limit_s=exchange.route.timeouts.connect)

    def _is_wanted(self, url: str) -> bool:
        return url in self.snapshot.urls and not self.draining

    def wait(self, exchange: Exchange, seconds: float | None) -> None:
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
        timer = self._waiting.pop(exchange, None)
        if timer is not None:
            timer.cancel()
        count(self.metrics, exchange, outcome)
        if exchange.limiters:
            tokens = outcome.usage.input + outcome.usage.output
            used = amounts(tokens, outcome.cost, running=0)
            self._admission.settle(exchange, used)
        if self._recorder is not None:
            self._recorder.settled(exchange, outcome)
        if self.draining and not self._exchanges:
            self._quiet.set()

    # For the client connections.

    def wall(self) -> float:
        return time.time()  # noqa: TID251  this is the module that reads the clock

    def new_request_id(self) -> bytes:
        self._id_count += 1
        return b"req-%b%x" % (self._id_prefix, self._id_count)

    def admit(self, exchange: Exchange) -> None:
        self._exchanges.add(exchange)
        self.retries(exchange.route).earn()
        self._admission.admit(exchange)

    def _begin(self, exchange: Exchange) -> None:
        if self._recorder is not None:
            self._recorder.began(exchange, at=self.wall())
        exchange.start()

    def joined(self, connection: Downstream) -> bool:
        if len(self._connections) >= self.snapshot.listener.max_connections:
            return False
        self._connections.add(connection)
        return True

    def left(self, connection: Downstream) -> None:
        self._connections.discard(connection)

    def call(self, key: Key, request: Request, fields: Mapping[bytes, bytes]) -> Call:
        """Begin an exchange whose client is a coroutine of this process.

        Raises:
            BadRequest: the key may not, or nothing can.
        """
        call, request_id = Call(), request_id_of(fields) or self.new_request_id()
        lines = b"x-request-id: %b\r\n" % request_id
        call.exchange = Exchange(
            self,
            call,
            key=key,
            route=route_of(key, request.model, request.op),
            request=request,
            request_id=request_id,
            framing=Framing(lines, keep_alive=True, chunked=False),
            trace=trace_lines(fields),
        )
        self.admit(call.exchange)
        return call

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
        for url, pool in self._pools.items():
            if url not in snapshot.urls:
                pool.close_idle()
        for exchange in list(self._waiting):
            self._wake(exchange)

    def _sweep(self) -> None:
        now = self.now()
        for exchange in list(self._exchanges):
            exchange.sweep(now)
            if self._recorder is not None:
                self._recorder.passed(exchange)
        if self._recorder is not None:
            self._recorder.flush()
        self._sweeps += 1
        if self._sweeps % _SWEEPS_A_LEASE == 0:
            self._admission.give_back()
        for connection in list(self._connections):
            connection.sweep(now)
        for url, pool in list(self._pools.items()):
            pool.close_idle(before=now - _IDLE_UPSTREAM_S)
            if pool.empty and not self._is_wanted(url):
                del self._pools[url]
                self._healths.pop(url, None)
        self._sweeper = self._loop.call_later(_SWEEP_S, self._sweep)

    def granted(self, message: dict[str, Any]) -> None:
        self._admission.granted(
            message["id"], message["amount"], message["retry_after_s"]
        )

    def numbers(self) -> Metrics:
        self.metrics.set("bud_gateway_in_flight", to=len(self._exchanges))
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
        if self._exchanges:
            try:
                async with asyncio.timeout(self.snapshot.listener.drain.seconds):
                    await self._quiet.wait()
            except TimeoutError:
                pass  # what is left is cut off with the process

    async def close(self) -> None:
        self._sweeper.cancel()
        for connection in list(self._connections):
            connection.cut()
        for pool in self._pools.values():
            pool.abort()
        if self._recorder is not None and not self._exchanges:
            self._recorder.close()
        await self._cold.close()
