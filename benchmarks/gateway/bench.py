"""The gateway beside bare proxies and its peers, on the wire, one core, in one run.

usage: python benchmarks/gateway/bench.py [--rounds N] [--peers] [--only NAME ...]
                                          [--awake] [--requests N] [--streams SECONDS]

Starts the native mock on one core and each proxy on the other, one at a time,
alternating, and loads them for short bursts. Processor time is read from the
kernel for the proxy's own process, so that waiting costs nothing; the smallest
burst counts, because a busy neighbour can only add. ``--awake`` keeps both cores
from halting, which on a virtual machine costs more to end than a request does, by
loops that give way to everybody (SCHED_IDLE): for latency at low rates.
``--requests`` only sends so many to the gateway and shows its memory before and
after; ``--streams`` keeps 1,000 streams open for so long and counts pieces that
were lost or out of order.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.gateway.proxies import (
    Proxy,
    Start,
    direct,
    free_port,
    listening,
    pin,
    running,
    startable,
)
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

HERE = Path(__file__).resolve().parent
MESSAGES = [
    {"role": "system", "content": "You are a helpful assistant that is brief."},
    {"role": "user", "content": "Tell me about the fox and the dog and the way home."},
]
PLAIN = {"model": "smol", "messages": MESSAGES, "max_tokens": 128, "user": "u-1"}


def stream(chunks: int, *, apart_ms: int) -> dict[str, Any]:
    return {
        "model": "smol",
        "messages": [{"role": "user", "content": f"[[d={apart_ms},c={chunks}]] Tell."}],
        "stream": True,
        "stream_options": {"include_usage": True},
    }


SECONDS = 1.5


class Kind(NamedTuple):
    """One way to load a proxy."""

    document: dict[str, Any]
    clients: int
    rate: int
    """Requests a second; 0: each client asks as soon as it is answered."""
    pieces: int = 0
    """Of each stream, to be looked for."""


class Burst(NamedTuple):
    rate: float
    cpu_us: float
    """Of the proxy, for each request or chunk."""
    p50_ms: float
    p99_ms: float
    first_ms: float
    failed: int


def build(folder: Path, name: str) -> Path:
    binary = folder / name
    source = HERE / f"{name}.c"
    flags = ["-O2", "-D_GNU_SOURCE", "-o", str(binary), str(source), "-lm"]
    subprocess.run(["cc", *flags], check=True)
    return binary


@contextmanager
def gateway(folder: Path, upstream: int, *, full: bool) -> Iterator[Proxy]:
    port, admin = free_port(), free_port()
    plenty = Limits(
        requests_per_minute=10**9,
        tokens_per_minute=10**12,
        concurrent=10**5,
        budget=Money("1000000USD"),
    )
    price = Price(input=Money("1USD"), output=Money("2USD"))
    config = GatewayConfig(
        gateway=Listener(
            listen=f"127.0.0.1:{port}",
            admin=f"127.0.0.1:{admin}",
            usage="usage" if full else None,
        ),
        keys={"team/ci": Key(hash=hash_key("k"), limits=plenty if full else Limits())},
        upstreams={
            "team/mock": Upstream(
                urls=(f"http://127.0.0.1:{upstream}",),
                model="mock",
                price=price if full else None,
            )
        },
        routes={
            "team/chat": Route(
                models=("smol",), targets=(Target(upstream="team/mock"),)
            )
        },
    )
    home = folder / ("full" if full else "lean")
    home.mkdir(exist_ok=True)
    (home / "gateway.toml").write_text(dump(config))
    command = (sys.executable, "-m", "gateway", "--config", str(home / "gateway.toml"))
    with running(*command, core=0, cwd=HERE.parents[1], stdout=subprocess.DEVNULL):
        listening(admin)
        status: dict[str, Any] = {"ready": False}
        while not status["ready"]:
            with urllib.request.urlopen(f"http://127.0.0.1:{admin}/status") as answer:
                status = json.load(answer)
            time.sleep(0.05)
        worker = status["workers"][0]["pid"]
        pin(worker, 0)
        yield Proxy(port, worker)


@contextmanager
def awake() -> Iterator[None]:
    with ExitStack() as stack:
        for core in (0, 1):
            loop = stack.enter_context(
                running(sys.executable, "-c", "while True: pass", core=core)
            )
            os.sched_setscheduler(loop, os.SCHED_IDLE, os.sched_param(0))
        yield


def cpu_ns(pid: int) -> int:
    total = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        total += int((task / "schedstat").read_text().split()[0])
    return total


def loaded(
    load: Path, proxy: Proxy, kind: Kind, folder: Path, *, seconds: float
) -> dict[str, Any]:
    """Load a proxy, and give what the generator saw."""
    document = {**kind.document, "model": proxy.model}
    body = folder / "body.json"
    body.write_text(json.dumps(document, separators=(",", ":")))
    numbers = str(proxy.port), str(seconds), str(kind.clients), str(kind.rate)
    done = subprocess.run(
        [
            *("taskset", "-c", str(1 % (os.cpu_count() or 1)), str(load), *numbers),
            *(proxy.path, "k", str(body), str(kind.pieces), proxy.fields),
        ],
        check=True,
        capture_output=True,
    )
    seen: dict[str, Any] = json.loads(done.stdout)
    return seen


def burst(load: Path, proxy: Proxy, kind: Kind, folder: Path) -> Burst:
    begin = cpu_ns(proxy.pid)
    seen = loaded(load, proxy, kind, folder, seconds=SECONDS)
    used = cpu_ns(proxy.pid) - begin
    units = seen["chunks"] or seen["done"] or 1
    return Burst(
        seen["done"] / seen["seconds"],
        used / units / 1e3,
        seen["latency_p50_ms"],
        seen["latency_p99_ms"],
        seen["first_p50_ms"],
        seen["failed"],
    )


def best(bursts: list[Burst]) -> Burst:
    return Burst(
        max(b.rate for b in bursts),
        min(b.cpu_us for b in bursts),
        min(b.p50_ms for b in bursts),
        min(b.p99_ms for b in bursts),
        min(b.first_ms for b in bursts),
        sum(b.failed for b in bursts),
    )


KINDS = {
    "saturated, 64 clients": Kind(PLAIN, 64, 0),
    "one client": Kind(PLAIN, 1, 0),
    "200 requests/s": Kind(PLAIN, 64, 200),
    "500 requests/s": Kind(PLAIN, 64, 500),
    "1,000 requests/s": Kind(PLAIN, 64, 1000),
    "100 streams/s": Kind(stream(50, apart_ms=5), 256, 100),
    "256 streams": Kind(stream(50, apart_ms=5), 256, 0),
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peers", action="store_true")
    parser.add_argument("--only", nargs="*")
    parser.add_argument("--awake", action="store_true")
    parser.add_argument("--requests", type=int, default=0)
    parser.add_argument("--streams", type=float, default=0)
    given = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        mock, load = build(folder, "mock"), build(folder, "load")
        upstream = free_port()
        stack.enter_context(running(str(mock), str(upstream), core=1))
        listening(upstream)
        if given.awake:
            stack.enter_context(awake())
        proxies: dict[str, Start] = {
            "direct": direct,
            "gateway": lambda f, u: gateway(f, u, full=False),
            "gateway, limits + records": lambda f, u: gateway(f, u, full=True),
            **startable(peers=given.peers),
        }
        if given.only is not None:
            proxies = {k: v for k, v in proxies.items() if k in given.only}
        if given.requests or given.streams:
            soak(load, folder, upstream, given.requests, given.streams)
        else:
            report(measured(proxies, load, folder, upstream, given.rounds), proxies)


def measured(
    proxies: dict[str, Start], load: Path, folder: Path, upstream: int, rounds: int
) -> dict[tuple[str, str], list[Burst]]:
    bursts: dict[tuple[str, str], list[Burst]] = {}
    for _ in range(rounds):
        for name, start in list(proxies.items()):
            try:
                with start(folder, upstream) as proxy:
                    for kind, how in KINDS.items():
                        one = burst(load, proxy, how, folder)
                        bursts.setdefault((kind, name), []).append(one)
            except (OSError, subprocess.CalledProcessError) as error:
                print(f"{name} is left out: {error!r}")
                del proxies[name]
    return bursts


def report(
    bursts: dict[tuple[str, str], list[Burst]], proxies: dict[str, Start]
) -> None:
    print(f"load average {os.getloadavg()[0]:.1f}")
    for kind in KINDS:
        print(f"\n{kind}")
        base = best(bursts[kind, "nginx"]).cpu_us if "nginx" in proxies else 0.0
        for name in proxies:
            got = best(bursts[kind, name])
            ratio = f"{got.cpu_us / base:6.2f}x nginx" if base else ""
            cpu = f"{got.cpu_us:8.1f} us {ratio}" if name != "direct" else " " * 24
            print(
                f"  {name:26} {got.rate:8.0f}/s  {cpu:24}  p50 {got.p50_ms:7.3f} ms"
                f"  p99 {got.p99_ms:7.3f} ms  first {got.first_ms:7.3f} ms"
                f"  failed {got.failed}"
            )


def memory_mib(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise ProcessLookupError(pid)


def soak(
    load: Path, folder: Path, upstream: int, requests: int, streams_s: float
) -> None:
    with gateway(folder, upstream, full=True) as proxy:
        plain = KINDS["saturated, 64 clients"]
        loaded(load, proxy, plain, folder, seconds=2)
        before, sent = memory_mib(proxy.pid), 0
        while sent < requests:
            seen = loaded(load, proxy, plain, folder, seconds=10)
            sent += seen["done"]
            assert not seen["failed"], seen
        if sent:
            after = memory_mib(proxy.pid)
            print(f"{sent} requests: {before:.1f} MiB before, {after:.1f} MiB after")
        if streams_s:
            # Each as long as all of it, twenty pieces a second.
            count = int(streams_s * 20)
            kind = Kind(stream(count, apart_ms=50), 1000, 0, count)
            seen = loaded(load, proxy, kind, folder, seconds=streams_s * 1.2 + 5)
            after = memory_mib(proxy.pid)
            print(
                f"1000 streams of {count} pieces: {seen['done']} whole, "
                f"{seen['failed']} failed, {seen['lost']} pieces lost or out of order, "
                f"{before:.1f} MiB before, {after:.1f} MiB after"
            )


if __name__ == "__main__":
    main()
