"""One worker process: the data path on one core (I/O).

Started by the supervisor with two file descriptors, the socket it accepts from
and the one it is told things through. Lends clock, randomness and connections
to the exchanges. It reads no file: the snapshot is brought to it.
"""

from __future__ import annotations

import asyncio
import functools
import gc
import os
import random
import signal
import socket
import ssl
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import uvloop

from gateway.accounts import (
    NO_PRICE,
    amounts,
    charge,
    estimate_input,
    record_line,
)
from gateway.admission import Admission
from gateway.cold import ColdSide
from gateway.control import read_message, write_message
from gateway.edge import Downstream
from gateway.exchange import Exchange
from gateway.files import Bundle, compile_bundle
from gateway.health import Health, RetryBudget
from gateway.metrics import Metrics
from gateway.ports import Settled
from gateway.snapshot import Address, Snapshot
from gateway.spool import InFlight, Records
from gateway.upstream import Pool

__all__ = ["Worker", "main"]

_SWEEP_S = 0.25
"""Timeouts are kept to this: one sweep over all is cheaper than a timer each."""
_IDLE_UPSTREAM_S = 60.0
"""Below the 75 s after which common servers close an idle connection."""
_BACKLOG = 4096
_SWEEPS_A_LEASE = 8
"""A slice that nothing needed for 2 s goes back to where others can have it."""


class Worker:
    """What exchanges and client connections run on."""

    def __init__(
        self,
        snapshot: Snapshot,
        loop: asyncio.AbstractEventLoop,
        *,
        seed: int,
        tell: Callable[[dict[str, Any]], None],
        spool: tuple[Path, str] | None = None,
    ) -> None:
        self.snapshot = snapshot
        self.metrics = Metrics()
        self.draining = False
        self._loop = loop
        self.now = loop.time
        self.random = random.Random(seed).random  # noqa: S311  shares load, no secret
        self._pools: dict[str, Pool] = {}
        self._healths: dict[str, Health] = {}
        self.retries = RetryBudget()
        self._exchanges: set[Exchange] = set()
        self._connections: set[Downstream] = set()
        self._waiting: dict[Exchange, asyncio.TimerHandle | None] = {}
        self._admission = Admission(tell, self._begin)
        self._records = Records(*spool) if spool is not None else None
        self._in_flight = InFlight(*spool) if spool is not None else None
        self._sweeps = 0
        self._tls = ssl.create_default_context()
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
        self._count(exchange, outcome)
        price = NO_PRICE if outcome.upstream is None else outcome.upstream.price
        self._admission.settle(exchange, amounts(outcome.usage, price, running=False))
        if exchange.slot is not None:
            self._record(exchange, outcome, exchange.slot)
        if self.draining and not self._exchanges:
            self._quiet.set()

    def _record(self, exchange: Exchange, outcome: Settled, slot: int) -> None:
        """Put it on disk before the client sees the end of its answer."""
        assert self._records is not None
        assert self._in_flight is not None
        upstream, usage = outcome.upstream, outcome.usage
        price = NO_PRICE if upstream is None else upstream.price
        record = exchange.identity | {
            "upstream": upstream.name if upstream is not None else None,
            "status": outcome.status,
            "stream": outcome.chunks > 0,
            "tries": exchange.tries,
            **usage._asdict(),
            "estimated": outcome.estimated,
            "cost_nano_usd": charge(usage, price),
            "seconds": round(outcome.seconds, 6),
        }
        if outcome.first_seconds is not None:
            record["first_seconds"] = round(outcome.first_seconds, 6)
        self._records.write(record_line(record))
        self._in_flight.end(slot)

    def _identity(self, exchange: Exchange) -> dict[str, Any]:
        request = exchange.request
        return {
            "at": round(self.wall(), 3),
            "id": exchange.request_id.decode("ascii"),
            "key": exchange.key.name,
            "route": exchange.route.name,
            "model": request.model,
            "operation": request.op,
        }

    def _count(self, exchange: Exchange, outcome: Settled) -> None:
        route, operation = exchange.route.name, exchange.request.op
        add, observe, usage = self.metrics.add, self.metrics.observe, outcome.usage
        add("bud_gateway_requests_total", route, operation, str(outcome.status))
        observe(
            outcome.seconds, "bud_gateway_request_duration_seconds", route, operation
        )
        if usage.input:
            add("bud_gateway_tokens_total", route, "input", n=usage.input)
            add("bud_gateway_tokens_total", route, "output", n=usage.output)
        if outcome.chunks and outcome.first_seconds is not None:
            first = outcome.first_seconds
            observe(first, "bud_gateway_time_to_first_chunk_seconds", route)
            if outcome.chunks > 1:
                mean = (outcome.seconds - first) / (outcome.chunks - 1)
                observe(mean, "bud_gateway_time_per_output_chunk_seconds", route)

    # For the client connections.

    def wall(self) -> float:
        return time.time()  # noqa: TID251  this is the module that reads the clock

    def new_request_id(self) -> bytes:
        self._id_count += 1
        return b"req-%b%x" % (self._id_prefix, self._id_count)

    def admit(self, exchange: Exchange) -> None:
        self._exchanges.add(exchange)
        self.retries.earn()
        self._admission.admit(exchange)

    def _begin(self, exchange: Exchange) -> None:
        if self._in_flight is not None:
            price = exchange.route.price
            exchange.identity = self._identity(exchange)
            exchange.slot = self._in_flight.begin(
                exchange.identity
                | {
                    "input": estimate_input(exchange.request.raw),
                    "price": (price.input, price.output),
                }
            )
        exchange.start()

    def joined(self, connection: Downstream) -> bool:
        if len(self._connections) >= self.snapshot.listener.max_connections:
            return False
        self._connections.add(connection)
        return True

    def left(self, connection: Downstream) -> None:
        self._connections.discard(connection)

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
            if exchange.slot is not None and self._in_flight is not None:
                self._in_flight.passed(exchange.slot, exchange.chunks)
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
        return self.metrics

    async def drain(self) -> None:
        """Take no more, finish what is in flight, bounded by the config."""
        self.draining = True
        for connection in list(self._connections):
            connection.close_if_idle()
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
        if self._in_flight is not None and not self._exchanges:
            self._in_flight.close()
        await self._cold.close()


async def serve(control: socket.socket, listening: socket.socket) -> None:
    """Run until told to stop, or until the supervisor is gone."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    loop.add_signal_handler(signal.SIGINT, lambda: None)  # the supervisor's to answer
    reader, writer = await asyncio.open_connection(sock=control)
    first = await read_message(reader)
    if first is None:
        return
    spool = first["spool"]
    worker = Worker(
        _compile(first),
        loop,
        seed=int.from_bytes(os.urandom(8)),
        tell=functools.partial(write_message, writer),
        spool=(Path(spool["folder"]), spool["name"]) if spool else None,
    )
    await worker.start()
    server = await loop.create_server(
        worker.downstream, sock=listening, backlog=_BACKLOG, ssl=_tls(first["tls"])
    )
    # What lives now lives for ever: collections need not walk it again.
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)
    write_message(writer, {"op": "applied", "generation": first["generation"]})

    async def obey() -> None:
        while (message := await read_message(reader)) is not None:
            _obey(worker, message, writer)
        stop.set()

    async with asyncio.TaskGroup() as tasks:
        listening_task = tasks.create_task(obey())
        await stop.wait()
        server.close()
        await worker.drain()
        listening_task.cancel()
    await worker.close()


def _tls(given: dict[str, str | None] | None) -> ssl.SSLContext | None:
    """Make the edge's context; 1.3 only: every client library of today speaks it."""
    if given is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    certificate = given["certificate"]
    assert certificate is not None
    context.load_cert_chain(certificate, given["key"])
    if given["client_ca"] is not None:
        context.load_verify_locations(given["client_ca"])
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def _obey(
    worker: Worker, message: dict[str, Any], writer: asyncio.StreamWriter
) -> None:
    if message["op"] == "snapshot":
        worker.swap(_compile(message))
        write_message(writer, {"op": "applied", "generation": message["generation"]})
    elif message["op"] == "granted":
        worker.granted(message)
    elif message["op"] == "numbers":
        numbers = worker.numbers().dump()
        write_message(writer, {"op": "numbers", "numbers": numbers})


def _compile(message: dict[str, Any]) -> Snapshot:
    return compile_bundle(Bundle(**message["bundle"]))


def main() -> None:
    control, listening = (socket.socket(fileno=int(fd)) for fd in sys.argv[1:3])
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(control, listening))


if __name__ == "__main__":
    main()
