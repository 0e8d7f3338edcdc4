"""First apply, idle loop, one change, drift: against a real API server, beside a floor.

    python benchmarks/kubernetes/scale.py [ENDPOINTS=100]

The floor is what any client must pay: the same objects, sent as plain server-side
applies with as many requests in flight. One that keeps law 4 sends each twice, first as
a dry run: that is the second floor, in the same run. Deployments have no replicas, as in
Flux's own benchmark, so that nothing but applying is timed. Where other work shares the
machine, seconds of CPU (of this process and the control plane) say more than the clock.
"""

import asyncio
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from reconciler.targets.kubernetes.discovery import Discovery
from reconciler.targets.kubernetes.helm import Renderer
from reconciler.targets.kubernetes.manifests import Json, identify
from reconciler.targets.kubernetes.sandbox import find_helm
from reconciler.values import Action, Change, Key, Live, Presence, Unit
from tests.reconciler.targets.kubernetes.foundry import (
    World,
    furnish,
    silent,
    world_of,
)
from tests.reconciler.targets.kubernetes.plane import plane

DRIFTS = 20


@dataclass(frozen=True, slots=True)
class Cost:
    wall: float
    cpu: float

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(self.wall + other.wall, self.cpu + other.cpu)

    def over(self, floor: "Cost") -> str:
        return f"{self.wall / floor.wall:.2f} (CPU {self.cpu / floor.cpu:.2f})"


async def timed(
    world: World, label: str, call: Callable[[], Awaitable[object]]
) -> Cost:
    wall, ours, theirs = time.monotonic(), time.process_time(), world.plane.cpu_s()
    await call()
    wall, ours = time.monotonic() - wall, time.process_time() - ours
    theirs = world.plane.cpu_s() - theirs
    print(
        f"  {label:<34} {wall:8.2f} s wall {ours:8.2f} s CPU, "
        f"{theirs:8.2f} s of the control plane",
        flush=True,
    )
    return Cost(wall, ours + theirs)


async def all_of(
    changes: list[Change], call: Callable[[Change], Awaitable[object]]
) -> None:
    async with asyncio.TaskGroup() as tasks:
        for change in changes:
            tasks.create_task(_awaited(call(change)))


async def _awaited(call: Awaitable[object]) -> None:
    await call


async def floor(world: World, units: list[Unit]) -> tuple[Cost, Cost]:
    """The same objects in another namespace: a dry run, and an apply."""
    renderer, discovery = Renderer(find_helm()), Discovery(world.client)
    objects: list[tuple[str, Json]] = []
    rendered = await asyncio.gather(*(renderer.render(u.content) for u in units))
    for manifests in rendered:
        for manifest in manifests:
            made = {
                **manifest,
                "metadata": {**manifest["metadata"], "namespace": "floor"},
            }
            objects.append((await discovery.path(identify(made)), made))
    world.plane.call(
        "POST",
        "/api/v1/namespaces",
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "floor"}},
    )

    async def send(*, dry_run: bool) -> None:
        async with asyncio.TaskGroup() as tasks:
            for path, made in objects:
                tasks.create_task(
                    world.client.apply(path, made, force=False, dry_run=dry_run)
                )

    dry = await timed(
        world, f"floor: {len(objects)} plain dry runs", lambda: send(dry_run=True)
    )

    async def until_seen() -> None:
        """As far as the target goes too: each controller has seen its workload."""
        await send(dry_run=False)
        path = "/apis/apps/v1/namespaces/floor/deployments"
        while True:
            items, _ = await world.client.list(path)
            if all(item["status"].get("observedGeneration") for item in items):
                return
            await asyncio.sleep(0.2)

    wet = await timed(world, f"floor: {len(objects)} plain applies, seen", until_seen)
    return dry, wet


async def drifts(world: World, units: list[Unit]) -> None:
    seen: list[float] = []
    healed: list[float] = []
    for unit in units[:DRIFTS]:
        world.moved.clear()
        started = time.monotonic()
        await world.stray(unit.key)
        await world.moved.wait()
        seen.append(time.monotonic() - started)
        live = await world.kubernetes.health(unit.key)
        change = Change(
            key=unit.key,
            action=Action.CHANGE,
            unit=unit,
            uid=live.uid,
            version=live.version,
        )
        await world.kubernetes.apply(change, silent)
        healed.append(time.monotonic() - started)
    for label, times in (("drift seen", seen), ("drift healed", healed)):
        p95 = statistics.quantiles(times, n=20)[18]
        print(
            f"  {label:<34} {statistics.median(times):8.3f} s median {p95:8.3f} s p95"
        )


async def measure(world: World, count: int) -> None:
    units = [world.render(f"e{number}", {}, replicas=0) for number in range(count)]
    keys: list[Key] = [unit.key for unit in units]
    floor_dry, floor_wet = await floor(world, units)
    creates = [Change(key=u.key, action=Action.CREATE, unit=u) for u in units]
    dry = await timed(
        world,
        "target: dry run of all",
        lambda: all_of(creates, world.kubernetes.dry_run),
    )
    wet = await timed(
        world,
        "target: apply until servable",
        lambda: all_of(creates, lambda c: world.kubernetes.apply(c, silent)),
    )
    law, both = floor_dry + floor_wet, dry + wet
    print(
        f"  target: both {both.over(law)} x both floors, {both.over(floor_wet)} x plain "
        f"applies alone, where law 4 by itself costs {law.over(floor_wet)}"
    )
    writes, found = world.writes, dict[Key, Live]()

    async def loop() -> None:
        found.update(await world.kubernetes.observe(keys))

    await timed(world, "idle loop, first", loop)
    await timed(world, "idle loop, again", loop)
    clean = all(found[u.key].digest == u.digest for u in units)
    print(f"  idle loops: {world.writes - writes} writes, all clean: {clean}")
    changed = world.render("e0", {}, replicas=0, max_batch=7)
    live = found[changed.key]
    assert live.presence is Presence.PRESENT
    change = Change(
        key=changed.key,
        action=Action.CHANGE,
        unit=changed,
        uid=live.uid,
        version=live.version,
    )

    async def one() -> None:
        await loop()
        await world.kubernetes.apply(change, silent)

    await timed(world, "one change, with its loop", one)
    print(f"  one change: {world.writes - writes} writes")
    await drifts(world, units[1:])
    rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(
        f"  memory of this process: {rss} MiB at most; {world.plane.memory_mib()} MiB"
    )


async def main(count: int) -> None:
    with (
        tempfile.TemporaryDirectory(prefix="bud-plane-") as folder,
        plane(Path(folder)) as running,
    ):
        furnish(running)
        async with world_of(running, "scale") as world:
            print(f"{count} endpoints")
            await measure(world, count)


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 100))
