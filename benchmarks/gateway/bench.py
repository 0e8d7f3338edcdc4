"""The gateway beside bare proxies and its peers, on the wire, one core, in one run.

usage: python benchmarks/gateway/bench.py [--rounds N] [--peers [DIR]] [--only NAME ...]
                                          [--kinds WORD ...] [--awake]
                                          [--requests N] [--streams SECONDS]

Starts the native mock on one core and all proxies on the other, where those that
are not asked cost nothing. A round is one short burst for each proxy, one after
the other, of one kind of load; processor time is read from the kernel for the
proxy's own processes, so that waiting costs nothing. A neighbour that is busy, or a
clock that slows down, meets all of a round, so each is set against nginx *of its
round*, and the median of these ratios is given with the least and the largest.
At saturation each goes as fast as it can; the kinds with a rate are one load for all.

``--peers`` measures those that `proxies.py` installed as well. ``--awake`` keeps both
cores from halting, which on a virtual machine costs more to end than a request does,
by loops that give way to everybody (SCHED_IDLE): for latency at low rates.
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
from statistics import median
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.gateway.proxies import (
    HOME,
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
    Telemetry,
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


SECONDS = 0.7
"""Of a burst; one of a proxy that is slow takes longer, for enough answers."""
ANSWERS, LONGEST_S = 10, 10.0
"""Of each client in a burst at least, unless it would take too long: what is on its
way at the end was paid for and is not counted."""


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
            telemetry=(
                Telemetry(endpoint=f"http://127.0.0.1:{upstream}") if full else None
            ),
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
    with running(*command, core=0, cwd=HERE.parents[1]) as supervisor:
        listening(admin)
        status: dict[str, Any] = {"ready": False}
        while not status["ready"]:
            with urllib.request.urlopen(f"http://127.0.0.1:{admin}/status") as answer:
                status = json.load(answer)
            time.sleep(0.05)
        worker = status["workers"][0]["pid"]
        pin(worker, 0)
        # It reads the records, counts money and makes the spans.
        yield Proxy(port, worker, others=(supervisor,))


@contextmanager
def awake() -> Iterator[None]:
    with ExitStack() as stack:
        for core in (0, 1):
            loop = stack.enter_context(
                running(sys.executable, "-c", "while True: pass", core=core)
            )
            os.sched_setscheduler(loop, os.SCHED_IDLE, os.sched_param(0))
        yield


def cpu_ns(proxy: Proxy) -> int:
    total = 0
    for pid in (proxy.pid, *proxy.others):
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


def burst(load: Path, proxy: Proxy, kind: Kind, folder: Path, *, pace: float) -> Burst:
    """Load a proxy for a moment; ``pace``: what it can do in a second, 0: unknown."""
    wanted = ANSWERS * kind.clients / pace if pace and not kind.rate else 0.0
    begin = cpu_ns(proxy)
    seen = loaded(
        load, proxy, kind, folder, seconds=min(max(SECONDS, wanted), LONGEST_S)
    )
    used = cpu_ns(proxy) - begin
    units = seen["chunks"] or seen["done"] or 1
    return Burst(
        seen["done"] / seen["seconds"],
        used / units / 1e3,
        seen["latency_p50_ms"],
        seen["latency_p99_ms"],
        seen["first_p50_ms"],
        seen["failed"],
    )


KINDS = {
    "saturated, 64 clients": Kind(PLAIN, 64, 0),
    "one client": Kind(PLAIN, 1, 0),
    "200 requests/s": Kind(PLAIN, 64, 200),
    "500 requests/s": Kind(PLAIN, 64, 500),
    "1,000 requests/s": Kind(PLAIN, 64, 1000),
    "5,000 requests/s": Kind(PLAIN, 64, 5000),
    "100 streams/s": Kind(stream(50, apart_ms=5), 256, 100),
    "256 streams": Kind(stream(50, apart_ms=5), 256, 0),
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peers", type=Path, nargs="?", const=HOME)
    parser.add_argument("--only", nargs="*")
    parser.add_argument("--kinds", nargs="*", default=[""])
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
        if given.requests or given.streams:
            soak(load, folder, upstream, given.requests, given.streams)
            return
        starts: dict[str, Start] = {
            "direct": direct,
            "gateway": lambda f, u: gateway(f, u, full=False),
            "gateway, all on": lambda f, u: gateway(f, u, full=True),
            **startable(given.peers),
        }
        proxies: dict[str, Proxy] = {}
        for name, start in starts.items():
            if given.only is None or name in given.only:
                try:
                    proxies[name] = stack.enter_context(start(folder, upstream))
                except (OSError, AssertionError) as error:
                    print(f"{name} is left out: {error!r}")
        if given.awake:
            stack.enter_context(awake())
        for name, kind in KINDS.items():
            if any(word in name for word in given.kinds):
                report(name, rounds(proxies, load, kind, folder, given.rounds))


def rounds(
    proxies: dict[str, Proxy], load: Path, kind: Kind, folder: Path, count: int
) -> dict[str, list[Burst]]:
    """Measure all by turns; the first round only warms up and finds their paces."""
    bursts: dict[str, list[Burst]] = {name: [] for name in proxies}
    paces = dict.fromkeys(proxies, 0.0)
    for turn in range(count + 1):
        for name, proxy in proxies.items():
            one = burst(load, proxy, kind, folder, pace=paces[name])
            if turn:
                bursts[name].append(one)
            else:
                paces[name] = one.rate or 1.0
    return bursts


def report(kind: str, bursts: dict[str, list[Burst]]) -> None:
    print(f"\n{kind}, load average {os.getloadavg()[0]:.1f}")
    base, direct_ = bursts.get("nginx"), bursts.get("direct")
    for name, seen in bursts.items():
        cpu = ""
        if name != "direct":
            cpu = f"{median(b.cpu_us for b in seen):8.1f} us"
        if base and name != "direct":
            ratios = [b.cpu_us / n.cpu_us for b, n in zip(seen, base, strict=True)]
            cpu += f" {median(ratios):6.2f}x ({min(ratios):.2f}-{max(ratios):.2f})"
        line = f"  {name:16}{median(b.rate for b in seen):8.0f}/s {cpu:34}"
        for field in ("p50_ms", "p99_ms", "first_ms"):
            took = [getattr(b, field) for b in seen]
            line += f" {field[:-3]} {median(took):8.3f}"
            if direct_ and name != "direct":
                beside = [getattr(b, field) for b in direct_]
                added = (t - d for t, d in zip(took, beside, strict=True))
                line += f" ({median(added):+8.3f})"
        print(line + f" ms  failed {sum(b.failed for b in seen)}", flush=True)


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
