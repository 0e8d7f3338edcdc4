"""Guards that are silent when they are gone: each is taken out, and must be missed.

A scenario that passes with the real code has to fail with each mutant. It is small on
purpose: what it asserts is what the guards are for.
"""

import asyncio
import hashlib
import json
from collections.abc import Callable
from typing import Any

import pytest

from reconciler.targets.kubernetes import (
    health,
    holding,
    reader,
    rehearsal,
    target,
    writer,
)
from reconciler.targets.kubernetes.client import Client
from reconciler.targets.kubernetes.record import record_id
from reconciler.targets.kubernetes.writer import Writer
from reconciler.values import Action, Change, Health, Presence
from schemas.errors import FoundryError
from tests.reconciler.targets.kubernetes.foundry import World, silent, world_of
from tests.reconciler.targets.kubernetes.plane import Plane
from tests.reconciler.targets.kubernetes.proxy import Proxy, proxy_to

Patch = Callable[[pytest.MonkeyPatch], None]


async def scenario(world: World, proxy: Proxy) -> None:
    unit = world.render("a", {}, replicas=1)
    live = await world.create(unit)
    assert live.health is Health.SERVABLE
    records = f"/api/v1/namespaces/{world.namespace}/configmaps"
    assert proxy.writes[0] == f"POST {records}", "not written ahead"
    await _a_stale_change_is_refused(world)
    await _an_unread_cluster_is_unknown(world, proxy)
    await _a_stranger_is_left_alone(world)
    await _an_edit_is_drift(world)
    await _a_namesake_is_not_deleted(world)
    await _what_leaves_is_pruned(world)
    await _a_fleet_keeps_its_replicas(world)
    await _what_lost_its_record_is_found(world)


async def _a_stale_change_is_refused(world: World) -> None:
    old = await world.look(world.key("a"))
    new = await world.change(world.unit("a", 1), old)
    with pytest.raises(FoundryError, match="cannot change"):
        await world.change(world.unit("a", 2), old)
    assert (await world.look(new.key)).digest == new.digest


async def _an_unread_cluster_is_unknown(world: World, proxy: Proxy) -> None:
    proxy.refuse_reads, proxy.refuse_kind = 403, "/deployments"
    seen = await world.look(world.key("a"))
    proxy.refuse_reads = 0
    assert seen.presence is Presence.UNKNOWN


async def _a_stranger_is_left_alone(world: World) -> None:
    path = f"/api/v1/namespaces/{world.namespace}/serviceaccounts"
    metadata = {"name": "b", "labels": {"theirs": "yes"}}
    body = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata}
    await world.client.request("POST", path, body=body)
    with pytest.raises(FoundryError, match="lives there"):
        await world.create(world.unit("b"))


async def _an_edit_is_drift(world: World) -> None:
    before = await world.look(world.key("a"))
    await world.stray(before.key)
    strayed = await world.look(before.key)
    assert (strayed.digest, strayed.version) != (before.digest, before.version)
    unit = world.unit("a", 1)
    await world.change(unit, strayed)
    containers = (await world.deployment("a"))["spec"]["template"]["spec"]["containers"]
    assert containers[0]["image"] != "other:1"


async def _a_namesake_is_not_deleted(world: World) -> None:
    """Ours is gone and somebody made another, with a copy of our labels."""
    path = f"/api/v1/namespaces/{world.namespace}/services/a"
    service = await world.client.get(path)
    assert service is not None
    await world.client.request("DELETE", path)
    spec = {k: v for k, v in service["spec"].items() if not k.startswith("clusterIP")}
    copy = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "a", "labels": service["metadata"]["labels"]},
        "spec": spec,
    }
    await world.client.request("POST", path.removesuffix("/a"), body=copy)
    live = await world.look(world.key("a"))
    gone = Change(
        key=live.key,
        action=Action.DELETE,
        unit=None,
        uid=live.uid,
        version=live.version,
    )
    with pytest.raises(FoundryError, match="cannot delete"):
        await world.target.delete(
            Change(key=live.key, action=Action.DELETE, unit=None, uid="other"), silent
        )
    await world.target.delete(gone, silent)
    assert await world.client.get(path) is not None


async def _what_leaves_is_pruned(world: World) -> None:
    path = f"/api/v1/namespaces/{world.namespace}/services/a"
    await world.client.request("DELETE", path)
    scaled = {"scaling": {"min": 1, "max": 2, "queueDepth": 1}}
    made = await world.create(world.render("a", scaled, replicas=None))
    await world.change(world.unit("a"), made)
    autoscalers = (
        f"/apis/autoscaling/v2/namespaces/{world.namespace}/horizontalpodautoscalers"
    )
    items, _ = await world.client.list(autoscalers)
    assert items == []


async def _a_fleet_keeps_its_replicas(world: World) -> None:
    before = await world.look(world.key("a"))
    three = await world.change(world.render("a", {}, replicas=3), before)
    scaled = {"scaling": {"min": 1, "max": 4, "queueDepth": 1}}
    four = await world.change(world.render("a", scaled, replicas=None), three)
    assert (await world.deployment("a"))["spec"]["replicas"] == 3
    path = f"/apis/apps/v1/namespaces/{world.namespace}/deployments/a/scale"
    await world.client.request(
        "PATCH",
        path,
        query={"fieldManager": "kube-controller-manager"},
        body={"spec": {"replicas": 4}},
        content_type="application/merge-patch+json",
    )
    await world.change(world.render("a", {}, replicas=1), four)
    assert (await world.deployment("a"))["spec"]["replicas"] == 1


async def _what_lost_its_record_is_found(world: World) -> None:
    where = record_id(world.key("a").ref)
    path = f"/api/v1/namespaces/{where.namespace}/configmaps/{where.name}"
    await world.client.request("DELETE", path)
    assert (await world.look(world.key("a"))).presence is Presence.PRESENT


def _no_precondition(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(target, "check_precondition", lambda change, live: None)


def _errors_are_absence(patch: pytest.MonkeyPatch) -> None:
    listed = reader.Reader._list

    async def deaf(self: Any, kind: Any, selector: str) -> Any:
        found = await listed(self, kind, selector)
        return {} if isinstance(found, FoundryError) else found

    patch.setattr(reader.Reader, "_list", deaf)


def _always_by_force(patch: pytest.MonkeyPatch) -> None:
    apply = Client.apply

    async def forced(self: Any, path: str, manifest: Any, **how: Any) -> Any:
        return await apply(self, path, manifest, **{**how, "force": True})

    patch.setattr(Client, "apply", forced)
    patch.setattr(rehearsal, "_occupied", lambda *_: _Nothing())


class _Nothing(BaseException):
    """Raised where a guard stood; nobody catches it as a refusal."""


def _drift_is_not_seen(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(holding, "fingerprint", lambda *_: "same")
    patch.setattr(rehearsal, "fingerprint", lambda *_: "same")
    patch.setattr(rehearsal, "promised", lambda *_: "same")


def _labels_are_ownership(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(reader, "is_ours", lambda live, *, set_id: True)


def _never_pruned(patch: pytest.MonkeyPatch) -> None:
    async def keep(self: Any, *_: Any) -> None:
        return None

    patch.setattr(Writer, "_remove", keep)


def _recorded_last(patch: pytest.MonkeyPatch) -> None:
    record, apply = Writer.record, Writer._apply
    late: list[Any] = []

    async def hold(self: Any, what: Any, **_: Any) -> None:
        late.append(what)

    async def then(self: Any, which: Any, how: Any) -> Any:
        live = await apply(self, which, how)
        while late:
            await record(self, late.pop())
        return live

    patch.setattr(Writer, "record", hold)
    patch.setattr(Writer, "_apply", then)


def _anything_is_rolled(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(target, "_is_idle", lambda holding: True)
    patch.setattr(health, "_RULES", {})
    patch.setattr(
        holding,
        "_health",
        lambda held: (Health.PENDING, "") if held.record else ("", ""),
    )


def _everything_is_ours(patch: pytest.MonkeyPatch) -> None:
    def whole(live: Any, whose: Any = None) -> str:
        return hashlib.sha256(json.dumps(live, sort_keys=True).encode()).hexdigest()

    for module in (holding, rehearsal, writer):
        patch.setattr(module, "fingerprint", whole)
    patch.setattr(rehearsal, "promised", whole)


def _replicas_are_dropped(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(rehearsal, "_handover", lambda manifest, live: None)


def _scalers_word_stays(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(target, "_loses_scaler", lambda *_: False)


def _only_records_count(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(reader, "_ALWAYS", ())


MUTANTS: dict[str, Patch] = {
    "skip the precondition": _no_precondition,
    "take a read error for absence": _errors_are_absence,
    "ignore a conflict": _always_by_force,
    "do not see drift": _drift_is_not_seen,
    "trust a label": _labels_are_ownership,
    "never prune": _never_pruned,
    "record after the objects": _recorded_last,
    "never say rolled": _anything_is_rolled,
    "take every field for ours": _everything_is_ours,
    "drop the replicas with the field": _replicas_are_dropped,
    "leave what a gone autoscaler said": _scalers_word_stays,
    "look only where a record says": _only_records_count,
}


async def test_the_scenario_passes_with_every_guard(control_plane: Plane) -> None:
    async with (
        proxy_to(control_plane) as proxy,
        world_of(control_plane, "guarded", proxy.url) as world,
    ):
        await scenario(world, proxy)


@pytest.mark.slow
@pytest.mark.parametrize("mutant", MUTANTS)
async def test_a_guard_that_is_gone_is_missed(
    control_plane: Plane, monkeypatch: pytest.MonkeyPatch, mutant: str
) -> None:
    project = f"mutant-{list(MUTANTS).index(mutant)}"
    async with (
        proxy_to(control_plane) as proxy,
        world_of(control_plane, project, proxy.url) as world,
    ):
        with monkeypatch.context() as patched:
            MUTANTS[mutant](patched)
            with pytest.raises(
                (
                    AssertionError,
                    pytest.fail.Exception,
                    FoundryError,
                    _Nothing,
                    TimeoutError,
                )
            ):
                async with asyncio.timeout(40):
                    await scenario(world, proxy)
