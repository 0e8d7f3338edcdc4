"""Fifty clusters and two hundred endpoints through the whole line, one of them silent.

    python benchmarks/kubernetes/fleet.py [CLUSTERS=50] [ENDPOINTS=200]

One API server stands for all: each cluster is a target with a client, an owner and a
namespace of its own on it. The store, the ledger and the pipeline are the real ones. The
silent cluster is a port that takes connections and says nothing. The floor, in the same
run, is the same objects as plain server-side applies.
"""

import asyncio
import resource
import socket
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import orjson

from reconciler.pipeline import Pipeline
from reconciler.plan import Plan
from reconciler.store import Store, open_store
from reconciler.targets.base import Target
from reconciler.targets.kubernetes.discovery import Discovery
from reconciler.targets.kubernetes.helm import Renderer
from reconciler.targets.kubernetes.manifests import identify
from reconciler.targets.kubernetes.sandbox import find_helm
from reconciler.targets.kubernetes.target import KubernetesTarget
from reconciler.values import Commit, Key, Rendered, Unit
from renderers.kubernetes import render_endpoint
from schemas.catalog import catalog
from schemas.environment import EnvironmentSpec
from tests.reconciler.targets.kubernetes.foundry import (
    Probe,
    claim,
    client_of,
    credentials,
    furnish,
    silent,
    unit_of,
)
from tests.reconciler.targets.kubernetes.plane import Plane, plane
from tests.renderers.kubernetes_cases import cluster, endpoint, model, resolution

SETTINGS = EnvironmentSpec.model_validate_json(orjson.dumps({"take": ["Endpoint/*"]}))


async def timed(label: str, call: Callable[[], Awaitable[object]]) -> float:
    wall, cpu = time.monotonic(), time.process_time()
    await call()
    wall, cpu = time.monotonic() - wall, time.process_time() - cpu
    print(f"  {label:<38} {wall:8.2f} s wall {cpu:8.2f} s CPU", flush=True)
    return wall


class Fleet:
    def __init__(self, running: Plane, store: Store) -> None:
        self.running, self.renderer = running, Renderer(find_helm())
        self.targets: dict[str, Target] = {}
        self.kubernetes: list[KubernetesTarget] = []
        self.units: dict[Key, Unit] = {}
        self.line = Pipeline(
            environment="fleet",
            catalog=catalog(),
            targets=self.targets,
            store=store,
            clock=lambda: datetime.now(UTC),
        )

    async def add(self, name: str, endpoints: int, server: str | None = None) -> None:
        client = await client_of(self.running, server)
        target = KubernetesTarget(
            f"kubernetes/default/{name}",
            client,
            self.renderer,
            owner=name,
            credentials=credentials,
            probe=Probe(),
        )
        self.kubernetes.append(target)
        self.targets[target.name] = target
        if server is None:
            claim(self.running, f"bud-workloads-{name}")
        for number in range(endpoints):
            item = endpoint(f"e{number}", name)
            content = render_endpoint(
                item, model(name), cluster(), resolution(replicas=0)
            )
            made = unit_of(item, content)
            key = Key(target.name, item.ref)
            self.units[key] = Unit(key=key, content=content, digest=made.digest)

    async def plan(self) -> Plan:
        made, _ = await self.line.compare(
            Commit(sha="0" * 40), SETTINGS, Rendered(units=self.units), {}
        )
        return made

    async def apply(self) -> None:
        with self.line.store.lead("benchmark") as journal:
            outcomes = await self.line.execute(
                await self.plan(), journal, actor="benchmark", progress=silent
            )
        failed = [outcome.error for outcome in outcomes if outcome.error]
        assert not failed, failed[0]

    async def floor(self) -> None:
        client = await client_of(self.running)
        discovery = Discovery(client)
        claim(self.running, "floor")
        rendered = await asyncio.gather(
            *(self.renderer.render(unit.content) for unit in self.units.values())
        )
        async with asyncio.TaskGroup() as tasks:
            for number, manifests in enumerate(rendered):
                for manifest in manifests:
                    place = {"namespace": "floor"}
                    place["name"] = f"{manifest['metadata']['name']}-{number}"
                    made = {**manifest, "metadata": {**manifest["metadata"], **place}}
                    path = await discovery.path(identify(made))
                    tasks.create_task(
                        client.apply(path, made, force=False, dry_run=False)
                    )
        await client.__aexit__(None, None, None)


async def measure(fleet: Fleet, clusters: int, endpoints: int) -> None:
    for number in range(clusters):
        share = endpoints // clusters + (number < endpoints % clusters)
        await fleet.add(f"c{number}", share)
    floor = await timed(f"floor: plain applies of {endpoints} endpoints", fleet.floor)
    whole = await timed("line: first apply, to servable", fleet.apply)
    print(f"  {'':<38} {whole / floor:8.2f} x the floor")
    writes = sum(target.writes for target in fleet.kubernetes)
    for label in ("idle look, first", "idle look, again"):
        await timed(label, fleet.plan)
    made = await fleet.plan()
    more = sum(target.writes for target in fleet.kubernetes) - writes
    print(
        f"  idle looks: {more} writes, {len(made.steps)} steps, {made.unchanged} same"
    )
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        await fleet.add("deaf", 1, f"http://127.0.0.1:{deaf.getsockname()[1]}")
        for label in ("one cluster silent: first look", "and the next", "and the next"):
            await timed(label, fleet.plan)
    rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(f"  memory of this process: {rss} MiB at most")


async def main(clusters: int, endpoints: int) -> None:
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bud-")))
        (folder / "plane").mkdir()
        running = stack.enter_context(plane(folder / "plane"))
        furnish(running)
        store = stack.enter_context(
            open_store(
                f"sqlite:///{folder / 'state.db'}",
                key=folder / "ledger.key",
                origin="bud/fleet",
                clock=lambda: datetime.now(UTC),
            )
        )
        fleet = Fleet(running, store)
        print(f"{clusters} clusters, {endpoints} endpoints")
        await measure(fleet, clusters, endpoints)
        for target in fleet.kubernetes:
            await target.close()


if __name__ == "__main__":
    given = [int(text) for text in sys.argv[1:]]
    asyncio.run(main(*(given or [50, 200])))
