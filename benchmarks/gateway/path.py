"""What one request costs in our own code: the whole path, without a socket.

usage: python benchmarks/gateway/path.py [profile | count]

Drives the edge, the exchange and an upstream connection with bytes through
transports that keep nothing. The smallest of many rounds is printed, which
holds still on a machine that others use too. ``count`` has valgrind count
instructions instead, which hold still whatever the machine does: of so many
requests, less those of half as many.
"""

from __future__ import annotations

import asyncio
import cProfile
import os
import pstats
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from gateway.files import Bundle, compile_bundle
from gateway.limits import Limiter
from gateway.pool import Pool
from gateway.runtime import Worker
from gateway.upstream import UpstreamConnection
from schemas.gateway import (
    GatewayConfig,
    Key,
    Limits,
    Listener,
    Price,
    Route,
    Target,
    Upstream,
    hash_key,
)
from schemas.gateway_toml import dump
from schemas.units import Money

GRANT = {"amount": 10**12, "retry_after_s": 0.0, "reachable": True}
URL = "http://127.0.0.1:1"
BODY = (
    b'{"model":"smol","messages":[{"role":"system","content":"You are a helpful '
    b'assistant that answers in one short paragraph."},{"role":"user","content":'
    b'"Tell me about the fox and the dog and what happened on the way home."}],'
    b'"max_tokens":128,"temperature":0.7,"user":"u-1"%b}'
)
HEAD = (
    b"POST /v1/chat/completions HTTP/1.1\r\nHost: gateway\r\nAccept: application/json"
    b"\r\nContent-Type: application/json\r\nUser-Agent: OpenAI/Python 3.54.0\r\n"
    b"Authorization: Bearer k\r\nX-Stainless-Lang: python\r\nContent-Length: %d\r\n\r\n"
)
DOCUMENT = (
    b'{"id":"chatcmpl-0","object":"chat.completion","created":1,"model":"mock",'
    b'"choices":[{"index":0,"message":{"role":"assistant","content":"%b"},'
    b'"finish_reason":"stop"}],"usage":{"prompt_tokens":40,"total_tokens":90,'
    b'"completion_tokens":50}}' % (b"word " * 80)
)
ANSWER = (
    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b"
    % (len(DOCUMENT), DOCUMENT)
)
EVENT = (
    b'data: {"id":"chatcmpl-0","object":"chat.completion.chunk","created":1,"model":'
    b'"mock","choices":[{"index":0,"delta":{"content":" word"},"finish_reason":null}]}'
    b"\n\n"
)
STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"
    b"transfer-encoding: chunked\r\n\r\n"
)


class Sink:
    """A transport that takes everything and says nothing."""

    def write(self, data: bytes) -> None:
        self.last = data

    def is_closing(self) -> bool:
        return False

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *_: None


PLENTY = Limits(
    requests_per_minute=10**9,
    tokens_per_minute=10**12,
    concurrent=10**5,
    budget=Money("1000000USD"),
)
PRICE = Price(input=Money("1USD"), output=Money("2USD"))


def worker(loop: asyncio.AbstractEventLoop, folder: Path | None) -> Worker:
    full = folder is not None
    config = GatewayConfig(
        gateway=Listener(usage="usage" if full else None),
        keys={"team/ci": Key(hash=hash_key("k"), limits=PLENTY if full else Limits())},
        upstreams={
            "team/mock": Upstream(
                urls=(URL,), model="mock", price=PRICE if full else None
            )
        },
        routes={
            "team/chat": Route(
                models=("smol",), targets=(Target(upstream="team/mock"),)
            )
        },
    )
    bundle = Bundle(dump(config), '{"version": 1}', {})
    made: list[Worker] = []

    def grant(message: dict[str, Any]) -> None:
        if message["op"] == "lease":
            name = Limiter(*message["limiter"]).id
            loop.call_soon(made[0].granted, {"id": name, **GRANT})

    made.append(
        Worker(
            compile_bundle(bundle),
            loop,
            seed=1,
            tell=grant,
            spool=(folder, "bench") if folder is not None else None,
        )
    )
    return made[0]


class Line:
    """One client connection and one upstream connection, kept alive."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, folder: Path | None = None
    ) -> None:
        self.worker = worker(loop, folder)
        address = self.worker.snapshot.upstreams["team/mock"].addresses[0]
        pool = Pool(address, loop, None, wanted=lambda _: True)
        self.worker._book._pools[URL] = pool
        self.upstream = UpstreamConnection(pool)
        self.upstream.connection_made(Sink())  # type: ignore[arg-type]
        pool.give_back(self.upstream)
        self.client = self.worker.downstream()
        self.out: Any = Sink()
        self.client.connection_made(self.out)

    def plain(self) -> None:
        body = BODY % b""
        self.client.data_received(HEAD % len(body) + body)
        self.upstream.data_received(ANSWER)

    def begin_stream(self) -> None:
        body = BODY % b',"stream":true'
        self.client.data_received(HEAD % len(body) + body)
        self.upstream.data_received(STREAM_HEAD)
        self.chunk()

    def chunk(self) -> None:
        self.upstream.data_received(b"%x\r\n%b\r\n" % (len(EVENT), EVENT))


def smallest(what: Callable[[], None], *, count: int, rounds: int = 30) -> float:
    best = float("inf")
    for _ in range(rounds):
        begin = time.process_time_ns()
        for _ in range(count):
            what()
        best = min(best, (time.process_time_ns() - begin) / count)
    return best / 1e3


NAMES = ("lean", "limits + records")
COUNTED = 400


def lines(loop: asyncio.AbstractEventLoop, folder: Path) -> Iterator[tuple[str, Line]]:
    """Give both, ready for a request."""
    lean, full = Line(loop), Line(loop, folder)
    # The first request waits for each of its leases once.
    body = BODY % b""
    full.client.data_received(HEAD % len(body) + body)
    for _ in range(8):
        loop.run_until_complete(asyncio.sleep(0))
    full.upstream.data_received(ANSWER)
    for name, line in zip(NAMES, (lean, full), strict=True):
        line.plain()
        assert line.out.last.endswith(DOCUMENT), line.out.last
        yield name, line


def main() -> None:
    given = sys.argv[1:]
    if given == ["count"]:
        for name in NAMES:
            plain, chunk = instructions(name, "plain"), instructions(name, "chunk")
            print(f"{name:18} request {plain:9,.0f}   streamed chunk {chunk:9,.0f}")
        return
    with tempfile.TemporaryDirectory() as folder:
        loop = asyncio.new_event_loop()
        for name, line in lines(loop, Path(folder)):
            if given[:1] != ["run"]:
                measure(name, line)
            elif given[1] == name:
                repeat(line, given[2], int(given[3]))
        loop.close()


def repeat(line: Line, what: str, count: int) -> None:
    if what == "chunk":
        line.begin_stream()
    for _ in range(count):
        getattr(line, what)()


def instructions(name: str, what: str) -> float:
    seen = [under_valgrind(name, what, count) for count in (COUNTED, 2 * COUNTED)]
    return (seen[1] - seen[0]) / COUNTED


def under_valgrind(name: str, what: str, count: int) -> int:
    tool = ["valgrind", "--tool=cachegrind", "--cache-sim=no"]
    done = subprocess.run(
        [
            *(*tool, "--cachegrind-out-file=/dev/null"),
            *(sys.executable, __file__, "run", name, what, str(count)),
        ],
        check=True,
        capture_output=True,
        text=True,
        # Where names are in a dictionary must be the same in both runs.
        env={**os.environ, "PYTHONHASHSEED": "0"},
    )
    found = re.search(r"I\s+refs:\s+([0-9,]+)", done.stderr)
    assert found is not None, done.stderr
    return int(found[1].replace(",", ""))


def measure(name: str, line: Line) -> None:
    if "profile" in sys.argv:
        profile = cProfile.Profile()
        profile.enable()
        for _ in range(20_000):
            line.plain()
        profile.disable()
        pstats.Stats(profile).sort_stats("tottime").print_stats(32)
        return
    plain = smallest(line.plain, count=1000)
    line.begin_stream()
    chunk = smallest(line.chunk, count=3000)
    print(f"{name:18} request {plain:6.1f} us   streamed chunk {chunk:6.1f} us")


if __name__ == "__main__":
    main()
