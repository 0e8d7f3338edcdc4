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
from contextlib import suppress
from dataclasses import replace
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from gateway.accounts import amounts
from gateway.admission import Admission
from gateway.answer import Framing
from gateway.attempt import Attempt
from gateway.cache import Cache, MemoryCache
from gateway.cold.app import ColdSide
from gateway.cold.call import Broken, Call
from gateway.edge import Downstream
from gateway.entry import request_id_of, route_of, trace_lines
from gateway.exchange import Exchange
from gateway.gate import Gate, Gated
from gateway.gating import Shadow
from gateway.health import Health, Reported, RetryBudget
from gateway.inspector import Inspector
from gateway.judge import Judge
from gateway.metrics import Metrics
from gateway.openai import Op, Request, request_of
from gateway.pool import Pool
from gateway.ports import Client, Settled
from gateway.recorder import Recorder, count
from gateway.semantic import Neighbours
from gateway.snapshot import Address, Key, Route, Snapshot
from gateway.tracing import traced

if TYPE_CHECKING:
    from gateway.store import Store

__all__ = ["Worker"]

_SWEEP_S = 0.25
"""Timeouts are kept to this: one sweep over all is cheaper than a timer each."""
_IDLE_UPSTREAM_S = 60.0
"""Below the 75 s after which common servers close an idle connection."""
_ANY_MODEL = "omni-moderation-latest"
"""For an upstream that names no model itself: what OpenAI calls its newest."""
_MIRRORS = 256
"""Shadows that one worker talks to at once: one that is slow must not pile up."""
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
        self._mirrors: set[asyncio.Task[None]] = set()
        self._sweeps = 0
        self._tls = ssl.create_default_context()
        self.store = store
        self._inspector = Inspector()
        self._cache = _cache(snapshot)
        self._gate = Gate(
            Judge(self._inspector, self._ask, self.metrics),
            self._cache,
            Neighbours(self._ask),
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

    def connect(
        self, address: Address, attempt: Attempt, *, limit_s: float, fresh: bool
    ) -> None:
        pool = self._pools.get(address.url)
        if pool is None:
            pool = Pool(address, self._loop, self._tls, wanted=self._is_wanted)
            self._pools[address.url] = pool
        pool.lend(attempt, limit_s=limit_s, fresh=fresh)

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
        if isinstance(exchange.client, Gated):
            exchange.client.settled(outcome.status)
        if self.draining and not self._exchanges:
            self._quiet.set()

    # For the client connections.

    def wall(self) -> float:
        return time.time()  # noqa: TID251  this is the module that reads the clock

    def new_request_id(self) -> bytes:
        self._id_count += 1
        return b"req-%b%x" % (self._id_prefix, self._id_count)

    def exchange(
        self,
        client: Client,
        *,
        key: Key,
        route: Route,
        request: Request,
        request_id: bytes,
        framing: Framing,
        trace: bytes,
    ) -> Exchange:
        """Make an exchange, behind the gate if its route has one."""
        gated = None
        if request.op in route.gated:
            client = gated = Gated(self._gate, client, framing)
            framing = Framing(framing.lines, keep_alive=True, chunked=False)
        span, telemetry = None, self.snapshot.listener.telemetry
        if telemetry is not None:
            trace, span = traced(trace, sample=telemetry.sample, random=self.random)
        exchange = Exchange(
            self,
            client,
            key=key,
            route=route,
            request=request,
            request_id=request_id,
            framing=framing,
            trace=trace,
        )
        exchange.span = span
        if gated is not None:
            gated.exchange = exchange
        return exchange

    def admit(self, exchange: Exchange) -> None:
        self._exchanges.add(exchange)
        self.retries(exchange.route).earn()
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
            self._mirror(exchange, shadow)
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
        route = route_of(key, request.model, request.op)
        return self._call(key, route, request, fields)

    def _call(
        self, key: Key, route: Route, request: Request, fields: Mapping[bytes, bytes]
    ) -> Call:
        call, request_id = Call(), request_id_of(fields) or self.new_request_id()
        lines = b"x-request-id: %b\r\n" % request_id
        call.exchange = self.exchange(
            call,
            key=key,
            route=route,
            request=request,
            request_id=request_id,
            framing=Framing(lines, keep_alive=True, chunked=False),
            trace=trace_lines(fields),
        )
        self.admit(call.exchange)
        return call

    def wake_jobs(self) -> None:
        self._cold.wake_jobs()

    def _mirror(self, exchange: Exchange, shadow: Shadow) -> None:
        """Ask somebody else the same, for nobody to see."""
        route = self.snapshot.services.get(shadow.service)
        request, key = exchange.request, exchange.key
        if route is None or request.source is not None or request.op not in route.ops:
            return
        if len(self._mirrors) >= _MIRRORS:
            self.metrics.add("bud_gateway_shadow_skipped_total", exchange.route.name)
            return
        project = key.name.partition("/")[0]
        payer = replace(key, name=f"{project}/shadow", limiters=())
        # Its guardrails change the words of a request in place.
        copy = request._replace(document=orjson.loads(request.raw))
        task = self._loop.create_task(self._listen(self._call(payer, route, copy, {})))
        self._mirrors.add(task)
        task.add_done_callback(self._mirrors.discard)

    async def _listen(self, call: Call) -> None:
        with suppress(Broken):
            await call.reply()
            async for _ in call.body():
                pass

    async def _ask(
        self, exchange: Exchange, upstream: str, op: Op, document: dict[str, Any]
    ) -> bytes | None:
        """Ask what judges or embeds texts, at the cost of whose exchange it is."""
        route = self.snapshot.services.get(upstream)
        if route is None:
            return None  # it has just left the config
        document = {"model": _ANY_MODEL, **document}
        request = request_of(op, orjson.dumps(document), document)
        # Its limits have let the exchange in already.
        call = self._call(replace(exchange.key, limiters=()), route, request, {})
        try:
            reply, answer = await call.reply(), await call.whole()
        except Broken:
            return None
        finally:
            call.close()
        return answer if reply.status == HTTPStatus.OK else None

    def cold(self) -> asyncio.Protocol:
        return self._cold.protocol()

    def downstream(self) -> Downstream:
        return Downstream(self)

    # The snapshot, time, and the end.

    def swap(self, snapshot: Snapshot) -> None:
        """Put a new snapshot in force; what is in flight stays undisturbed."""
        self.snapshot = snapshot
        self._prepare()
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

    def heard(self, loads: Mapping[str, tuple[float, float, float]]) -> None:
        """Take what engines say of themselves."""
        now = self.now()
        for url, load in loads.items():
            self.health(url).hear(Reported(*load), now)

    def granted(self, message: dict[str, Any]) -> None:
        self._admission.granted(
            message["id"],
            message["amount"],
            message["retry_after_s"],
            reachable=message["reachable"],
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
        try:
            async with asyncio.timeout(self.snapshot.listener.drain.seconds):
                if self._exchanges:
                    await self._quiet.wait()
                if self._gate.tasks:
                    await asyncio.wait(self._gate.tasks)
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
        self._inspector.close()
        await self._cache.close()
        await self._cold.close()


def _cache(snapshot: Snapshot) -> Cache:
    if snapshot.listener.shared is None:
        return MemoryCache(snapshot.listener.cache_memory.bytes)
    # Half a second of a start, for whoever shares.
    from gateway.shared import SharedCache, connect  # noqa: PLC0415

    return SharedCache(connect(snapshot))
