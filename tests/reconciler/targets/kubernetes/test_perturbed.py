"""Crashes, old reads and lost events at every write: the same state in the end.

The reference run makes two endpoints, then changes one so that it loses an object,
and deletes the other. Each perturbed run must end in the same state, and over its
whole life create and delete the same objects as often: nothing twice, nothing lost.
"""

import asyncio
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import pytest

from reconciler.targets.kubernetes.record import record_id
from reconciler.targets.kubernetes.target import KubernetesTarget
from reconciler.values import Action, Change, Key, Presence, Unit
from schemas.errors import FoundryError, TemporaryError
from tests.reconciler.targets.kubernetes.foundry import (
    World,
    client_of,
    silent,
    target_of,
    world_of,
)
from tests.reconciler.targets.kubernetes.plane import Plane
from tests.reconciler.targets.kubernetes.proxy import Proxy, proxy_to

KINDS = (
    ("apps/v1", "deployments"),
    ("autoscaling/v2", "horizontalpodautoscalers"),
    ("v1", "services"),
    ("v1", "serviceaccounts"),
    ("v1", "configmaps"),
    ("networking.k8s.io/v1", "networkpolicies"),
    ("policy/v1", "poddisruptionbudgets"),
)
SCALED = {"scaling": {"min": 1, "max": 4, "queueDepth": 5}}
# Writes of the reference run; the test that counts them says when this moves.
WRITES = 23
# Every write takes minutes; `BUD_PERTURB_STRIDE=1` runs them all.
STRIDE = int(os.environ.get("BUD_PERTURB_STRIDE", "4"))

Goals = tuple[Mapping[Key, Unit], ...]
Tally = Counter[tuple[str, str]]


def goals(world: World) -> Goals:
    a, b = world.render("a", SCALED, replicas=None), world.unit("b")
    changed = world.unit("a", 1)
    return {a.key: a, b.key: b}, {changed.key: changed}


async def reconcile(target: KubernetesTarget, desired: Mapping[Key, Unit]) -> None:
    """The engine's loop in small: look, write what differs, until nothing does."""
    for _ in range(20):
        observed = await target.observe(list(desired))
        assert all(live.presence is not Presence.UNKNOWN for live in observed.values())
        todo = False
        for key in sorted(observed):
            live, unit = observed[key], desired.get(key)
            absent = live.presence is Presence.ABSENT
            if unit is None and absent:
                continue
            if unit is not None and live.digest == unit.digest:
                continue
            todo = True
            action = (
                Action.DELETE
                if unit is None
                else Action.CREATE
                if absent
                else Action.CHANGE
            )
            change = Change(
                key=key, action=action, unit=unit, uid=live.uid, version=live.version
            )
            try:
                if unit is None:
                    await target.delete(change, silent)
                else:
                    await target.apply(change, silent)
            except TemporaryError:
                continue  # look again
        if not todo:
            return
    raise AssertionError("it does not converge")


async def run(world: World, proxy: Proxy, wanted: Goals) -> None:
    """One life of a daemon; it ends early when its line is cut."""
    client = await client_of(world.plane, proxy.url)
    target = await target_of(world.plane, world.project, client=client)

    async def live() -> None:
        for desired in wanted:
            await reconcile(target, desired)

    life = asyncio.ensure_future(live())
    crash = asyncio.ensure_future(proxy.dead.wait())
    watch = asyncio.ensure_future(target.watch(_nothing, asyncio.Event()))
    try:
        await asyncio.wait([life, crash], return_when=asyncio.FIRST_COMPLETED)
        if life.done() and not proxy.dead.is_set():
            life.result()
    finally:
        for task in (life, crash, watch):
            task.cancel()
        await asyncio.gather(life, crash, watch, return_exceptions=True)
        await target.close()


def _nothing() -> None:
    """A look is always due here."""


async def state(world: World) -> str:
    """What lives, without what no two runs share."""
    found: dict[str, Any] = {}
    for version, plural in KINDS:
        prefix = f"/apis/{version}" if "/" in version else f"/api/{version}"
        path = f"{prefix}/namespaces/{world.namespace}/{plural}"
        items, _ = await world.client.list(path, selector="foundry.bud/owner")
        for item in items:
            name = f"{plural}/{item['metadata']['name']}"
            if plural == "configmaps":
                found[name] = sorted(item["data"])
            else:
                found[name] = {
                    k: v
                    for k, v in item.get("spec", {}).items()
                    if k not in ("clusterIP", "clusterIPs")
                }
    return repr(found).replace(world.project, "PROJECT")


class Watcher:
    """Counts creations and deletions of our kinds in one namespace, by name."""

    def __init__(self, world: World) -> None:
        self.tally: Tally = Counter()
        self._world = world
        self._uids: dict[str, str] = {}

    async def look(self) -> None:
        for version, plural in KINDS:
            prefix = f"/apis/{version}" if "/" in version else f"/api/{version}"
            path = f"{prefix}/namespaces/{self._world.namespace}/{plural}"
            items, _ = await self._world.client.list(path, selector="foundry.bud/owner")
            for item in items:
                name = f"{plural}/{item['metadata']['name']}"
                self._uids.setdefault(item["metadata"]["uid"], name)

    def created(self) -> Tally:
        return Counter((name, "created") for name in self._uids.values())


async def perturbed(
    plane: Plane, name: str, proxy: Proxy
) -> tuple[dict[str, Any], Tally]:
    """Run to the end, starting anew after a crash; say what came of it."""
    async with world_of(plane, name) as world:
        watcher = Watcher(world)
        for goal in goals(world):
            for _ in range(3):
                await run(world, proxy, (goal,))
                await watcher.look()
                if not proxy.dead.is_set():
                    break
                proxy.cut_before = proxy.cut_after = 0
                proxy.dead.clear()
        return await state(world), watcher.created()


@dataclass(frozen=True)
class Reference:
    state: str
    made: Tally
    writes: int


@pytest.fixture(scope="session")
def reference(control_plane: Plane) -> Reference:
    async def once() -> Reference:
        async with proxy_to(control_plane) as proxy:
            said, made = await perturbed(control_plane, "reference", proxy)
            return Reference(said, made, len(proxy.writes))

    return asyncio.run(once())


def test_the_reference_run_has_the_writes_that_are_perturbed(
    reference: Reference,
) -> None:
    assert reference.writes == WRITES


async def divergences(
    control_plane: Plane,
    reference: Reference,
    plant: Callable[[Proxy, int], None],
    writes: Iterable[int],
    label: str,
) -> list[str]:
    """Run once for each write, each in a namespace of its own, a few at a time."""
    found: list[str] = []
    room = asyncio.Semaphore(6)

    async def one(write: int) -> None:
        async with room, proxy_to(control_plane) as proxy:
            plant(proxy, write)
            said, made = await perturbed(control_plane, f"{label}{write}", proxy)
        if said != reference.state:
            found.append(f"{label} {write}: another state")
        if made != reference.made:
            found.append(f"{label} {write}: {made - reference.made} too many")

    async with asyncio.TaskGroup() as tasks:
        for write in writes:
            tasks.create_task(one(write))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["before", "after"])
async def test_a_crash_at_any_write_ends_in_the_same_state(
    control_plane: Plane, reference: Reference, moment: str
) -> None:
    def cut(proxy: Proxy, write: int) -> None:
        setattr(proxy, f"cut_{moment}", write)

    every = range(1, WRITES + 1, STRIDE)
    assert await divergences(control_plane, reference, cut, every, moment) == []


@pytest.mark.slow
async def test_older_reads_end_in_the_same_state(
    control_plane: Plane, reference: Reference
) -> None:
    def age(proxy: Proxy, write: int) -> None:
        proxy.stale_from, proxy.stale_reads = write, 12

    every = range(1, WRITES + 1, STRIDE)
    assert await divergences(control_plane, reference, age, every, "stale") == []


async def test_lost_events_end_in_the_same_state(
    control_plane: Plane, reference: Reference
) -> None:
    async with proxy_to(control_plane) as proxy:
        proxy.drop_events = True
        said, made = await perturbed(control_plane, "lost", proxy)
    assert said == reference.state
    assert made == reference.made


@pytest.mark.parametrize("kind", ["configmaps", "deployments", "services"])
async def test_argo_cd_18780_a_read_that_fails_deletes_nothing(
    control_plane: Plane, kind: str
) -> None:
    async with (
        proxy_to(control_plane) as proxy,
        world_of(control_plane, f"unread-{kind}", proxy.url) as world,
    ):
        live = await world.create(world.unit("a"))
        writes = len(proxy.writes)
        proxy.refuse_reads, proxy.refuse_kind = 403, f"/{kind}"
        seen = await world.look(live.key)
        assert seen.presence is Presence.UNKNOWN
        assert "planted" in seen.detail
        with pytest.raises(TemporaryError, match="unknown"):
            await world.delete(live)
        assert len(proxy.writes) == writes
        proxy.refuse_reads = 0
        assert await world.look(live.key) == live


async def test_drift_is_told_within_a_second_or_two(world: World) -> None:
    unit = world.unit("a")
    live = await world.create(unit)
    await asyncio.sleep(0)
    world.moved.clear()
    await world.stray(live.key)
    async with asyncio.timeout(2):
        await world.moved.wait()
    where = record_id(unit.key.ref)
    assert where.namespace == world.namespace


async def test_one_request_at_a_time_is_slow_and_not_a_deadlock(
    control_plane: Plane,
) -> None:
    """Argo CD's second scale experiment: hooks that hold what would end them."""
    async with world_of(control_plane, "narrow") as world:
        client = await client_of(control_plane, in_flight=1)
        target = await target_of(control_plane, "narrow", client=client)
        units = [world.unit(f"n{number}") for number in range(6)]
        try:
            async with asyncio.timeout(60):
                await asyncio.gather(
                    *(
                        target.apply(
                            Change(key=u.key, action=Action.CREATE, unit=u), silent
                        )
                        for u in units
                    )
                )
        except FoundryError as error:
            raise AssertionError(error) from error
        finally:
            await target.close()
