"""A team's repository, and `bud` run on it as its user would."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from textwrap import dedent
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
DEADLINE_S = 90

CLUSTER = """
    apiVersion: foundry.bud/v1
    kind: Cluster
    metadata: {name: here}
    spec:
      provider: local
      nodePools: [{name: gpus, gpu: h100-sxm-80gb, gpusPerNode: 8, count: 4}]
    """
MODEL = """
    apiVersion: foundry.bud/v1
    kind: Model
    metadata: {name: llama}
    spec:
      source: {path: {path: /nowhere}}
      architecture: meta-llama/Llama-3.1-8B
      precision: bf16
      licence: {id: llama3.1, accepted: true}
      scan: "off"
    """
ENDPOINT = """
    apiVersion: foundry.bud/v1
    kind: Endpoint
    metadata: {name: NAME}
    spec:
      model: llama
      cluster: here
      engine: {name: simulator, rehearses: vllm}
      workload: {inputTokens: 64, outputTokens: 16, concurrency: 8}
      parallelism: {tensor: 1, pipeline: 1, data: 1, expert: 1}
      maxBatch: 8
      context: 1024
      replicas: 1
    """
ROUTE = """
    apiVersion: foundry.bud/v1
    kind: Route
    metadata: {name: NAME}
    spec:
      models: [NAME]
      targets: [{endpoint: NAME}]
    """
ENVIRONMENT = """
    apiVersion: foundry.bud/v1
    kind: Environment
    metadata: {name: local}
    spec:
      take: ["Cluster/*", "Model/*", "Endpoint/*", "Route/*"]
      gateway: {port: PORT, adminPort: ADMIN, localKey: true}
      reconcile: {interval: 2s}
    """


def free_ports(count: int) -> list[int]:
    """Ports that nobody has now; held together so that they differ."""
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in held]
    for one in held:
        one.close()
    return ports


@contextmanager
def down_at_the_end(root: Path) -> Iterator[Team]:
    """A team whose every process is ended."""
    root.mkdir(exist_ok=True)
    made = Team(root)
    yield made
    if made.home.exists():
        made.bud("down")
    assert made.engines() == {}


class Team:
    """A checkout with `bud` beside it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.port, self.admin = free_ports(2)
        self.git("init", "-q", "-b", "main")
        (root / ".gitignore").write_text(".bud/\n")

    @property
    def home(self) -> Path:
        return self.root / ".bud" / "local"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    @property
    def key(self) -> str:
        return (self.home / "gateway" / "local.key").read_text()

    def git(self, *args: str) -> None:
        who = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
        subprocess.run(
            ["git", *who, *args], cwd=self.root, check=True, capture_output=True
        )

    def write(self, path: str, text: str) -> None:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        name = file.stem
        text = dedent(text).replace("NAME", name)
        text = text.replace("PORT", str(self.port)).replace("ADMIN", str(self.admin))
        file.write_text(text.lstrip())

    def write_all(self, *names: str) -> None:
        """A cluster, a model, and an endpoint with its route for each name."""
        self.write("spec/cluster/here.yaml", CLUSTER)
        self.write("spec/model/llama.yaml", MODEL)
        self.write("environments/local/environment.yaml", ENVIRONMENT)
        for name in names:
            self.write(f"spec/endpoint/{name}.yaml", ENDPOINT)
            self.write(f"spec/route/{name}.yaml", ROUTE)

    def commit(self, subject: str) -> None:
        self.git("add", "-A")
        self.git("commit", "-q", "-m", subject)

    def bud(self, *args: str, code: int = 0, **env: str) -> str:
        done = subprocess.run(
            self.argv(*args),
            env=os.environ | env,
            capture_output=True,
            text=True,
            timeout=DEADLINE_S * 3,
            check=False,
        )
        assert done.returncode == code, f"{args}: {done.stdout}\n{done.stderr}"
        return done.stdout

    def argv(self, *args: str) -> list[str]:
        return [
            sys.executable,
            str(ROOT / "bud_foundry.py"),
            "--repo",
            str(self.root),
            *args,
        ]

    def data(self, *args: str, code: int = 0) -> Any:
        return json.loads(self.bud("--json", "-q", *args, code=code))

    def daemon_says(self) -> dict[str, Any] | None:
        """The daemon's own status; None while none answers."""
        try:
            url = json.loads((self.home / "daemon.json").read_text())["url"]
            with urllib.request.urlopen(f"{url}/status", timeout=2) as answer:
                said: dict[str, Any] = json.load(answer)
                return said
        except OSError:
            return None

    def addresses(self, name: str) -> list[str]:
        try:
            text = (self.home / "local" / "addresses.json").read_text()
        except FileNotFoundError:
            return []
        found: list[str] = json.loads(text)["upstreams"].get(f"default/{name}", [])
        return found

    def engines(self) -> dict[int, str]:
        """pid -> command line of every engine of this checkout that runs now."""
        mark = f"BUD_HOME={self.home / 'local'}".encode()
        found = {}
        for folder in Path("/proc").iterdir():
            try:
                if folder.name.isdigit() and mark in (
                    folder / "environ"
                ).read_bytes().split(b"\0"):
                    line = (
                        (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                    )
                    if line:
                        found[int(folder.name)] = line
            except OSError:
                continue
        return found

    def until(
        self, what: str, true: Callable[[], bool], deadline_s: float = DEADLINE_S
    ) -> None:
        end = time.monotonic() + deadline_s
        while not true():
            assert time.monotonic() < end, (
                f"not in {deadline_s} s: {what}\n{self.log()}"
            )
            time.sleep(0.05)

    def log(self) -> str:
        files = [self.home / "daemon.log", self.home / "gateway" / "gateway.log"]
        return "\n".join(f.read_text()[-4000:] for f in files if f.exists())
