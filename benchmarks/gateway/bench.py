"""The gateway beside bare proxies, on the wire, one core, in one run.

usage: python benchmarks/gateway/bench.py [ROUNDS]

Starts the native mock on one core and each proxy on the other, one at a time,
alternating, and loads them for short bursts. Processor time is read from the
kernel for the proxy's own process, so that waiting costs nothing; the smallest
burst counts, because a busy neighbour can only add. nginx and HAProxy are used
when they are installed.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

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
STREAM = {
    "model": "smol",
    "messages": [{"role": "user", "content": "[[d=5,c=50]] Tell me."}],
    "stream": True,
    "stream_options": {"include_usage": True},
}
SECONDS = 1.5


class Proxy(NamedTuple):
    port: int
    pid: int


class Burst(NamedTuple):
    rate: float
    cpu_us: float
    """Of the proxy, for each request or chunk."""
    p50_ms: float
    p99_ms: float
    first_ms: float
    failed: int


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def build(folder: Path, name: str) -> Path:
    binary = folder / name
    source = HERE / f"{name}.c"
    flags = ["-O2", "-D_GNU_SOURCE", "-o", str(binary), str(source), "-lm"]
    subprocess.run(["cc", *flags], check=True)
    return binary


def pin(pid: int, core: int) -> None:
    os.sched_setaffinity(pid, {core % (os.cpu_count() or 1)})


def listening(port: int) -> None:
    for _ in range(400):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise TimeoutError(f"nothing listens on {port}")


@contextmanager
def running(*command: str, core: int, **options: Any) -> Iterator[int]:
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, **options)
    pin(process.pid, core)
    try:
        yield process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


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
def nginx(folder: Path, upstream: int) -> Iterator[Proxy]:
    port = free_port()
    home = folder / "nginx"
    home.mkdir(exist_ok=True)
    temporary = " ".join(
        f"{kind}_temp_path {home}/{kind};"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (home / "nginx.conf").write_text(
        f"worker_processes 1; daemon off; master_process off; pid {home}/pid;"
        f"error_log {home}/error.log; events {{ worker_connections 4096; }}"
        f"http {{ access_log off; {temporary} client_body_buffer_size 64k;"
        f"upstream m {{ server 127.0.0.1:{upstream}; keepalive 512;"
        "keepalive_requests 100000000; }"
        f"server {{ listen 127.0.0.1:{port}; keepalive_requests 100000000;"
        "location / { proxy_pass http://m; proxy_http_version 1.1;"
        'proxy_set_header Connection ""; proxy_buffering off; } } }'
    )
    with running("nginx", "-c", str(home / "nginx.conf"), core=0) as pid:
        listening(port)
        yield Proxy(port, pid)


@contextmanager
def haproxy(folder: Path, upstream: int) -> Iterator[Proxy]:
    port = free_port()
    config = folder / "haproxy.cfg"
    config.write_text(
        "global\n nbthread 1\n maxconn 4000\ndefaults\n mode http\n"
        " option http-no-delay\n timeout client 60s\n timeout server 60s\n"
        " timeout connect 5s\n http-reuse always\n"
        f"frontend f\n bind 127.0.0.1:{port}\n default_backend b\n"
        f"backend b\n server m 127.0.0.1:{upstream}\n"
    )
    with running("haproxy", "-db", "-f", str(config), core=0) as pid:
        listening(port)
        yield Proxy(port, pid)


@contextmanager
def direct(_: Path, upstream: int) -> Iterator[Proxy]:
    yield Proxy(upstream, os.getpid())


def cpu_ns(pid: int) -> int:
    total = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        total += int((task / "schedstat").read_text().split()[0])
    return total


def burst(load: Path, proxy: Proxy, body: Path, *, clients: int, rate: int) -> Burst:
    begin = cpu_ns(proxy.pid)
    done = subprocess.run(
        [
            "taskset",
            "-c",
            str(1 % (os.cpu_count() or 1)),
            str(load),
            str(proxy.port),
            str(SECONDS),
            str(clients),
            str(rate),
            "/v1/chat/completions",
            "k",
            str(body),
        ],
        check=True,
        capture_output=True,
    )
    used = cpu_ns(proxy.pid) - begin
    found = json.loads(done.stdout)
    units = found["chunks"] or found["done"] or 1
    return Burst(
        found["done"] / found["seconds"],
        used / units / 1e3,
        found["latency_p50_ms"],
        found["latency_p99_ms"],
        found["first_p50_ms"],
        found["failed"],
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


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        mock, load = build(folder, "mock"), build(folder, "load")
        upstream = free_port()
        stack.enter_context(running(str(mock), str(upstream), core=1))
        listening(upstream)
        proxies: dict[str, Callable[[], Any]] = {
            "direct": lambda: direct(folder, upstream),
            "gateway": lambda: gateway(folder, upstream, full=False),
            "gateway, limits + records": lambda: gateway(folder, upstream, full=True),
        }
        for name, start in (("nginx", nginx), ("haproxy", haproxy)):
            if shutil.which(name):
                proxies[name] = lambda start=start: start(folder, upstream)
        bodies = {"plain": folder / "plain.json", "stream": folder / "stream.json"}
        separators = (",", ":")
        bodies["plain"].write_text(json.dumps(PLAIN, separators=separators))
        bodies["stream"].write_text(json.dumps(STREAM, separators=separators))
        report(proxies, bodies, load, rounds)


def report(
    proxies: dict[str, Callable[[], Any]],
    bodies: dict[str, Path],
    load: Path,
    rounds: int,
) -> None:
    kinds = {
        "saturated, 64 clients": ("plain", 64, 0),
        "one client": ("plain", 1, 0),
        "500 requests/s": ("plain", 64, 500),
        "256 streams": ("stream", 256, 0),
    }
    found: dict[tuple[str, str], list[Burst]] = {}
    for _ in range(rounds):
        for name, start in proxies.items():
            with start() as proxy:
                for kind, (body, clients, rate) in kinds.items():
                    one = burst(load, proxy, bodies[body], clients=clients, rate=rate)
                    found.setdefault((kind, name), []).append(one)
    for kind in kinds:
        print(f"\n{kind}")
        base = best(found[kind, "nginx"]).cpu_us if "nginx" in proxies else 0.0
        for name in proxies:
            got = best(found[kind, name])
            ratio = f"{got.cpu_us / base:5.2f}x nginx" if base else ""
            cpu = f"{got.cpu_us:7.1f} us {ratio}" if name != "direct" else " " * 22
            print(
                f"  {name:26} {got.rate:8.0f}/s  {cpu:22}  p50 {got.p50_ms:7.3f} ms"
                f"  p99 {got.p99_ms:7.3f} ms  first {got.first_ms:7.3f} ms"
                f"  failed {got.failed}"
            )


if __name__ == "__main__":
    main()
