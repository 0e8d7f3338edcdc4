"""A home of its own for each test, and nothing of it left running afterwards."""

import asyncio
import os
import select
import signal
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, suppress
from hashlib import sha256
from pathlib import Path
from random import Random

import orjson
import pytest

from reconciler.targets.local import LocalTarget
from reconciler.targets.local.processes import Process, Processes
from reconciler.targets.local.records import Instance, Records
from reconciler.values import Key, Unit
from schemas.local import (
    EndpointManifest,
    Probe,
    Program,
    Replacement,
    Weights,
    canonical,
)
from schemas.objects import Ref

CHECKOUT = Path(__file__).parents[4]


class LocalWorld:
    """A local target whose endpoints are simulators."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.target = self.restarted()
        self.records = Records(home)
        self.processes = Processes(home, home / "instances")

    def restarted(self) -> LocalTarget:
        """The target as the next run of the daemon makes it: it remembers nothing."""
        self.target = LocalTarget(self.home, checkout=CHECKOUT, jitter=Random(1))
        return self.target

    def key(self, name: str) -> Key:
        return Key("local", Ref("Endpoint", "default", name))

    def unit(self, name: str, variant: int = 0) -> Unit:
        return self.endpoint(name, args=("--seed", str(variant)))

    def impossible(self, name: str) -> Unit:
        return self.endpoint(name, engine="sglang")

    def endpoint(  # a test says what differs, and nothing else
        self,
        name: str,
        *,
        replicas: int = 1,
        args: tuple[str, ...] = (),
        engine: str = "simulator",
        argv: tuple[str, ...] = ("{python}", "-m", "reconciler.engines.simulator"),
        env: Mapping[str, str] = {},
        ready_timeout_s: float = 60,
        drain_timeout_s: float = 5,
        weights: Weights | None = None,
        **replacement: object,
    ) -> Unit:
        program = Program.model_validate(
            {
                "engine": engine,
                "argv": (*argv, "--alias", name, "--port", "{port}", *args),
                "env": env,
                "probe": Probe(task="chat", model=name),
            }
        )
        manifest = EndpointManifest(
            project="default",
            name=name,
            replicas=replicas,
            program=program,
            weights=weights,
            replacement=Replacement.model_validate(
                {
                    "ready_timeout_s": ready_timeout_s,
                    "drain_timeout_s": drain_timeout_s,
                    **replacement,
                }
            ),
        )
        content = canonical(manifest)
        digest = sha256(content).hexdigest()
        return Unit(key=self.key(name), content=content, digest=digest)

    def break_reads(self, key: Key) -> None:
        path = self.home / "endpoints" / f"{key.ref.project}.{key.ref.name}.json"
        path.write_bytes(b"not a record")

    async def stray(self, key: Key) -> None:
        self.kill(key)

    def kill(self, key: Key, which: int = 0) -> Process:
        """End one replica as the kernel would when memory runs out."""
        instance = self.records.instances(key.ref)[which]
        os.kill(instance.pid, signal.SIGKILL)
        wait_until_gone(Process(instance.pid, instance.started))
        return Process(instance.pid, instance.started)

    def addresses(self, name: str) -> list[str]:
        """What the gateway is told, at this moment."""
        try:
            book = orjson.loads((self.home / "addresses.json").read_bytes())
        except FileNotFoundError:
            return []
        found: list[str] = book["upstreams"].get(f"default/{name}", [])
        return found

    def instances(self, name: str) -> list[Instance]:
        return self.records.instances(self.key(name).ref)

    def running(self) -> dict[str, list[Process]]:
        return self.processes.scan()

    def end(self) -> None:
        """Leave nothing running."""
        for group in self.running().values():
            for process in group:
                with suppress(ProcessLookupError):
                    os.kill(process.pid, signal.SIGKILL)
                wait_until_gone(process)


def wait_until_gone(process: Process) -> None:
    """Wait for the very end, without taking the exit code off anybody."""
    with suppress(ProcessLookupError):
        descriptor = os.pidfd_open(process.pid)
        select.select([descriptor], [], [], 10)
        os.close(descriptor)


async def until(true: Callable[[], bool], *, within_s: float = 30) -> None:
    """Wait for a condition; fails when it does not come."""
    async with asyncio.timeout(within_s):
        while not true():
            await asyncio.sleep(0.02)


@asynccontextmanager
async def supervised(target: LocalTarget) -> AsyncIterator[None]:
    """Run the target's supervisor for as long as the block."""
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        group.create_task(target.supervise(stop))
        try:
            yield
        finally:
            stop.set()


@pytest.fixture
def world(tmp_path: Path) -> Iterator[LocalWorld]:
    made = LocalWorld(tmp_path / "home")
    yield made
    made.end()
