"""What is measured beside the gateway: bare proxies, and its peers where installed.

usage: python benchmarks/gateway/proxies.py [DIR]

Installs the peers, each in an environment of its own in DIR (by default under the
user's cache directory): never into the project's. `bench.py` starts what it finds.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias
from urllib.parse import urlsplit

CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
HOME = CACHE / "bud-foundry" / "peers"
WHEELS = {
    "vllm-router": "vllm-router==0.1.17",
    "sglang-router": "sglang-router==0.3.2",
    "tensorzero": "tensorzero==2026.6.0",
    "litellm": "litellm[proxy]==1.100.0",
}
# With its newest dependencies every stream of it fails with "immutable".
PORTKEY = {
    "private": True,
    "dependencies": {"@portkey-ai/gateway": "1.15.2"},
    "overrides": {"hono": "4.9.7", "@hono/node-server": "1.13.8"},
}
CHAT = "/v1/chat/completions"


class Proxy(NamedTuple):
    port: int
    pid: int
    path: str = CHAT
    model: str = "smol"
    fields: str = ""
    others: tuple[int, ...] = ()
    """More processes whose work is a request's."""


Start: TypeAlias = Callable[[Path, int], AbstractContextManager[Proxy]]
StartPeer: TypeAlias = Callable[[Path, Path, int], AbstractContextManager[Proxy]]
"""Where it is installed, where it may write, and the upstream's port."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def pin(pid: int, core: int) -> None:
    for task in Path(f"/proc/{pid}/task").iterdir():
        os.sched_setaffinity(int(task.name), {core % (os.cpu_count() or 1)})


def listening(port: int, *, within_s: float = 90) -> None:
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise TimeoutError(f"nothing listens on {port}")


@contextmanager
def running(*command: str, core: int, **options: Any) -> Iterator[int]:
    options = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, **options}
    process = subprocess.Popen(command, **options)
    pin(process.pid, core)
    try:
        yield process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


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


@contextmanager
def vllm_router(home: Path, _: Path, upstream: int) -> Iterator[Proxy]:
    with _router(home / "bin" / "vllm-router", [], upstream) as proxy:
        yield proxy


@contextmanager
def sglang_router(home: Path, _: Path, upstream: int) -> Iterator[Proxy]:
    with _router(home / "bin" / "sglang-router", ["launch"], upstream) as proxy:
        yield proxy


@contextmanager
def _router(program: Path, verb: list[str], upstream: int) -> Iterator[Proxy]:
    port, metrics = free_port(), free_port()
    command = [
        str(program),
        *verb,
        *("--worker-urls", f"http://127.0.0.1:{upstream}"),
        *("--host", "127.0.0.1", "--port", str(port)),
        *("--policy", "round_robin", "--prometheus-port", str(metrics)),
        *("--log-level", "error"),
    ]
    with running(*command, core=0) as pid:
        listening(port)
        time.sleep(3)  # it looks for its worker first, and has no word for ready
        pin(pid, 0)
        yield Proxy(port, pid)


@contextmanager
def litellm(home: Path, folder: Path, upstream: int) -> Iterator[Proxy]:
    port = free_port()
    model = {
        "model": "openai/mock",
        "api_base": f"http://127.0.0.1:{upstream}/v1",
        "api_key": "k",
    }
    config = {
        "model_list": [{"model_name": "smol", "litellm_params": model}],
        "general_settings": {"master_key": "k"},
        "litellm_settings": {"telemetry": False},
    }
    (folder / "litellm.json").write_text(json.dumps(config))
    command = [
        str(home / "bin" / "litellm"),
        *("--config", str(folder / "litellm.json")),
        *("--host", "127.0.0.1", "--port", str(port)),
    ]
    with running(*command, core=0, cwd=folder) as pid:
        listening(port, within_s=240)  # half a minute of work, on a quiet machine
        yield Proxy(port, pid)


@contextmanager
def tensorzero(home: Path, folder: Path, upstream: int) -> Iterator[Proxy]:
    config = folder / "tensorzero.toml"
    config.write_text(
        "[gateway]\nobservability.enabled = false\n"
        "[models.smol]\nrouting = ['mock']\n"
        "[models.smol.providers.mock]\ntype = 'openai'\nmodel_name = 'mock'\n"
        f"api_base = 'http://127.0.0.1:{upstream}/v1/'\napi_key_location = 'none'\n"
    )
    script = (
        "import tensorzero, time\n"
        f"g = tensorzero._start_http_gateway(config_file={str(config)!r},"
        "clickhouse_url=None, postgres_url=None, valkey_url=None, async_setup=False)\n"
        "print(g.base_url, flush=True)\ntime.sleep(10**6)\n"
    )
    python, log = (
        str(home / "bin" / "python"),
        folder / "tensorzero.log",
    )
    # It logs to the same place; a pipe that nobody reads would stop it.
    with (
        log.open("wb") as out,
        running(python, "-c", script, core=0, stdout=out) as pid,
    ):
        deadline = time.monotonic() + 90
        while not (found := re.search(r"^(http\S+)", log.read_text(), re.MULTILINE)):
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
        port = urlsplit(found[1]).port
        assert port is not None
        pin(pid, 0)
        model = "tensorzero::model_name::smol"
        yield Proxy(port, pid, "/openai/v1/chat/completions", model)


@contextmanager
def portkey(home: Path, _: Path, upstream: int) -> Iterator[Proxy]:
    port = free_port()
    script = "node_modules/@portkey-ai/gateway/build/start-server.js"
    command = ["node", script, "--headless", f"--port={port}"]
    with running(*command, core=0, cwd=home) as pid:
        listening(port)
        fields = (
            "x-portkey-provider: openai\r\n"
            f"x-portkey-custom-host: http://127.0.0.1:{upstream}/v1\r\n"
        )
        yield Proxy(port, pid, fields=fields)


PEERS: dict[str, StartPeer] = {
    "vllm-router": vllm_router,
    "sglang-router": sglang_router,
    "tensorzero": tensorzero,
    "portkey": portkey,
    "litellm": litellm,
}


def startable(peers: Path | None) -> dict[str, Start]:
    """Give what can be started here, and say what cannot."""
    found: dict[str, Start] = {}
    for name, bare in (("nginx", nginx), ("haproxy", haproxy)):
        if shutil.which(name):
            found[name] = bare
        else:
            print(f"{name} is left out: it is not installed")
    for name, peer in PEERS.items() if peers is not None else ():
        assert peers is not None
        if (peers / name).is_dir():
            found[name] = partial(peer, peers / name)
        else:
            print(f"{name} is left out: it is not in {peers}; proxies.py installs it")
    return found


def install(peers: Path) -> None:
    peers.mkdir(parents=True, exist_ok=True)
    uv = str(Path(sys.executable).with_name("uv"))
    for name, wheel in WHEELS.items():
        python = peers / name / "bin" / "python"
        if not python.exists():
            subprocess.run([uv, "venv", "-q", str(peers / name)], check=True)
        target = ["--python", str(python)]
        subprocess.run([uv, "pip", "install", "-q", *target, wheel], check=True)
    if shutil.which("npm"):
        home = peers / "portkey"
        home.mkdir(exist_ok=True)
        (home / "package.json").write_text(json.dumps(PORTKEY))
        subprocess.run(["npm", "install", "--ignore-scripts"], check=True, cwd=home)


if __name__ == "__main__":
    install(Path(sys.argv[1]) if len(sys.argv) > 1 else HOME)
