"""Outages that somebody had, each by name, on a real API server."""

import asyncio
import base64
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from reconciler.plan import plan
from reconciler.store import Owned, Ownership
from reconciler.targets.kubernetes.record import record_id
from reconciler.targets.kubernetes.rehearsal import ADOPT
from reconciler.values import (
    Action,
    Change,
    Commit,
    Health,
    Key,
    Live,
    Presence,
    Unit,
)
from schemas.environment import EnvironmentSpec
from schemas.errors import PermanentError, TemporaryError
from schemas.objects import Ref
from tests.reconciler.targets.kubernetes.foundry import (
    CANARY,
    NODES,
    World,
    silent,
    target_of,
    world_of,
)
from tests.reconciler.targets.kubernetes.plane import Plane
from tests.reconciler.targets.kubernetes.proxy import proxy_to
from tests.renderers.kubernetes_cases import ADAPTERS

SCALED = {"scaling": {"min": 1, "max": 8, "queueDepth": 5}}


async def until(world: World, key: Key, health: Health) -> Live:
    async with asyncio.timeout(20):
        while (live := await world.look(key)).health is not health:
            await asyncio.sleep(0.05)
    return live


@contextmanager
def no_node_takes_a_pod(plane: Plane) -> Iterator[None]:
    def cordon(*, on: bool | None) -> None:
        for number in range(NODES):
            plane.call(
                "PATCH",
                f"/api/v1/nodes/gpu-{number}",
                {"spec": {"unschedulable": on}},
                "application/merge-patch+json",
            )

    cordon(on=True)
    try:
        yield
    finally:
        cordon(on=None)


async def scale(world: World, name: str, replicas: int, manager: str) -> None:
    await world.client.request(
        "PATCH",
        f"/apis/apps/v1/namespaces/{world.namespace}/deployments/{name}/scale",
        query={"fieldManager": manager},
        body={"spec": {"replicas": replicas}},
        content_type="application/merge-patch+json",
    )


async def test_production_stack_891_an_autoscalers_replicas_are_never_written(
    world: World,
) -> None:
    """Also kuberay#4149: a hundred loops beside a writer of replicas."""
    unit = world.render("a", SCALED, replicas=None)
    live = await world.create(unit)
    writes = world.writes
    for loop in range(100):
        await scale(world, "a", 1 + loop % 3, "kube-controller-manager")
        seen = await world.look(unit.key)
        assert (seen.digest, seen.version) == (unit.digest, live.version)
    assert world.writes == writes


async def test_a_fleet_handed_to_its_autoscaler_keeps_its_replicas(
    world: World,
) -> None:
    before = await world.create(world.render("a", {}, replicas=3))
    await world.change(world.render("a", SCALED, replicas=None), before)
    assert (await world.deployment("a"))["spec"]["replicas"] == 3


async def test_a_scaler_that_nobody_declared_keeps_what_it_wrote(world: World) -> None:
    """Left out of what we send, and said; a hand that scales is overruled."""
    unit = world.render("a", {}, replicas=1)
    await world.create(unit)
    await scale(world, "a", 2, "kube-controller-manager")
    await world.change(unit, await world.look(unit.key))
    assert (await world.deployment("a"))["spec"]["replicas"] == 2
    assert (await world.look(unit.key)).digest == unit.digest


async def test_a_hand_that_scales_is_overruled(world: World) -> None:
    unit = world.render("a", {}, replicas=1)
    await world.create(unit)
    await scale(world, "a", 2, "kubectl")
    live = await world.look(unit.key)
    assert live.writer == "kubectl"
    await world.change(unit, live)
    assert (await world.deployment("a"))["spec"]["replicas"] == 1


async def test_a_field_that_another_tool_declares_is_a_named_conflict(
    world: World,
) -> None:
    live = await world.create(world.unit("a"))
    await world.client.request(
        "PATCH",
        f"/apis/apps/v1/namespaces/{world.namespace}/deployments/a",
        query={"fieldManager": "argocd-controller", "force": "true"},
        body={
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": "a", "namespace": world.namespace},
            "spec": {"revisionHistoryLimit": 9},
        },
        content_type="application/apply-patch+yaml",
    )
    live = await world.look(live.key)
    assert live.writer == "argocd-controller"
    writes = world.writes
    with pytest.raises(
        PermanentError, match=r"argocd-controller declares \.spec\.revisionHistoryLimit"
    ):
        await world.change(world.unit("a", 1), live)
    assert world.writes == writes


async def test_what_somebody_else_made_is_not_taken_over(world: World) -> None:
    path = f"/api/v1/namespaces/{world.namespace}/serviceaccounts"
    body = {
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": {"name": "a", "labels": {"theirs": "yes"}},
    }
    await world.client.request("POST", path, body=body, query={"fieldManager": "helm"})
    with pytest.raises(TemporaryError, match=r"ServiceAccount .*lives there.* helm"):
        await world.create(world.unit("a"))
    assert (await world.look(world.key("a"))).presence is Presence.ABSENT


async def test_what_somebody_hands_over_is_adopted_as_the_object_that_it_is(
    world: World,
) -> None:
    """With its UID, and what of it we do not declare; no other environment gets it."""
    path = f"/api/v1/namespaces/{world.namespace}/services"
    theirs = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "a", "labels": {"team": "search"}},
        "spec": {"selector": {"app": "old"}, "ports": [{"port": 8000, "name": "api"}]},
    }
    made = await world.client.apply(
        f"{path}/a", theirs, force=False, dry_run=False, manager="helm-of-search"
    )
    for owner in ("", "another-environment"):
        if owner:
            await world.edit(f"{path}/a", {"metadata": {"annotations": {ADOPT: owner}}})
        with pytest.raises(TemporaryError, match="one already lives there"):
            await world.create(world.unit("a"))
    await world.edit(f"{path}/a", {"metadata": {"annotations": {ADOPT: world.project}}})
    said: list[str] = []
    unit = world.unit("a")
    live = await world.target.apply(
        Change(key=unit.key, action=Action.CREATE, unit=unit),
        lambda _, doing: said.append(doing),
    )
    assert live.health is Health.SERVABLE
    assert any("adopting Service" in s and "helm-of-search" in s for s in said)
    after = await world.client.get(f"{path}/a")
    assert after is not None
    assert after["metadata"]["uid"] == made["metadata"]["uid"]
    assert after["metadata"]["labels"]["team"] == "search"
    assert after["spec"]["selector"].get("app.kubernetes.io/name") == "a"
    assert (await world.look(unit.key)).digest == unit.digest


async def test_dstack_4186_a_revision_without_room_leaves_the_old_one_serving(
    world: World,
) -> None:
    """Also skypilot#4312. The cluster has no node of 16 GPUs."""
    before = await world.create(world.render("a", {}, replicas=2))
    impatient = {"rollout": {"readyTimeout": "2s"}}
    huge = world.render(
        "a", {**impatient, "engine": {"name": "vllm"}}, tensor=8, replicas=40
    )
    with pytest.raises(TemporaryError, match=r"unschedulable: .*nvidia\.com/gpu"):
        await world.change(huge, before)
    status = (await world.deployment("a"))["status"]
    assert status["availableReplicas"] >= 2


async def test_dynamo_3567_old_pods_do_not_make_a_new_revision_rolled(
    world: World,
) -> None:
    before = await world.create(world.render("a", {}, replicas=2))
    stuck = world.render(
        "a", {"rollout": {"readyTimeout": "2s"}}, replicas=2, max_batch=7
    )
    with no_node_takes_a_pod(world.plane):
        with pytest.raises(TemporaryError, match="unschedulable"):
            await world.change(stuck, before)
        live = await world.look(before.key)
        assert live.health is Health.APPLIED
        assert "of the new revision" in live.detail
        status = (await world.deployment("a"))["status"]
        assert status["availableReplicas"] == 2
    assert (await until(world, before.key, Health.SERVABLE)).digest == stuck.digest


async def test_kserve_5443_a_rollout_takes_no_model_from_who_asks_for_it(
    world: World,
) -> None:
    """Not ready is not gone: the Service keeps its addresses, and what leans on the
    endpoint (a route, at another target) has nothing to wait for or to take away."""
    before = await world.create(world.render("a", {}, replicas=2))
    changed = world.render(
        "a", {"rollout": {"readyTimeout": "2s"}}, replicas=2, max_batch=7
    )
    path = f"/api/v1/namespaces/{world.namespace}/endpoints/a"

    async def addresses() -> set[str]:
        found = await world.client.get(path)
        assert found is not None
        subsets = found.get("subsets") or ()
        return {a["ip"] for s in subsets for a in s.get("addresses") or ()}

    async with asyncio.timeout(20):
        while len(serving := await addresses()) < 2:
            await asyncio.sleep(0.05)
    with no_node_takes_a_pod(world.plane):
        rollout = asyncio.ensure_future(world.change(changed, before))
        while not rollout.done():
            assert await addresses() == serving
            await asyncio.sleep(0.1)
        with pytest.raises(TemporaryError, match="unschedulable"):
            rollout.result()
        live = await world.look(before.key)
        assert (live.presence, live.health) == (Presence.PRESENT, Health.APPLIED)
        route = Key("gateway", Ref("Route", world.project, "a"))
        unit = Unit(key=route, content=b"r", digest="d" * 64, after=(before.key,))
        kept = Owned(unit=unit, state=Ownership.LIVE, uid="u")
        answers = Live(key=route, presence=Presence.PRESENT, digest="d" * 64, uid="u")
        made = plan(
            commit=Commit(sha="c" * 40),
            environment="local",
            settings=EnvironmentSpec.model_validate({"take": ("Route/*",)}),
            units={route: unit},
            observed={route: answers, live.key: live},
            owned={route: kept},
            held={},
            inputs={},
        )
        assert (made.steps, made.blocked, made.unchanged) == ((), (), 1)
    assert (await until(world, before.key, Health.SERVABLE)).digest == changed.digest


async def test_dynamo_11250_old_reads_and_lost_events_leave_no_rollout_unfinished(
    control_plane: Plane,
) -> None:
    """A stale cache left a deployment "Deploying" for ever: here no event comes at all,
    and reads after the writes say what was true before them."""
    async with (
        proxy_to(control_plane) as proxy,
        world_of(control_plane, "stale", proxy.url) as world,
    ):
        proxy.drop_events = True
        before = await world.create(world.unit("a"))
        assert before.health is Health.SERVABLE
        path = f"/apis/apps/v1/namespaces/{world.namespace}/deployments/a"
        await world.edit(path, {"metadata": {"annotations": {"seen": "by-a-hand"}}})
        proxy.stale_from, proxy.stale_reads = len(proxy.writes) + 1, 3
        changed = world.unit("a", 1)
        with pytest.raises(TemporaryError, match="changed meanwhile"):
            await world.change(changed, before)
        assert proxy.stale_reads < 3, "nothing old was read: it shows nothing"
        proxy.stale_reads = 0
        live = await world.change(changed, await world.look(before.key))
        assert (live.digest, live.health) == (changed.digest, Health.SERVABLE)


async def test_servable_is_an_answer_and_not_a_ready_pod(world: World) -> None:
    world.probe.deaf.add("a")
    unit = world.unit("a", rollout={"readyTimeout": "2s"})
    with pytest.raises(PermanentError, match="no answer"):
        await world.create(unit)
    assert (await world.look(unit.key)).health is Health.ROLLED
    world.probe.deaf.clear()
    assert (await world.look(unit.key)).health is Health.SERVABLE
    assert (await world.kubernetes.health(unit.key)).health is Health.SERVABLE


async def test_kustomize_controller_1664_a_denied_delete_orphans_nothing(
    world: World,
) -> None:
    unit = world.unit("a")
    live = await world.create(unit)
    deny = await _deny_deletes(world, "services")
    try:
        with pytest.raises(PermanentError, match="not today"):
            await world.kubernetes.dry_run(_delete(live))
        with pytest.raises(PermanentError, match="not today"):
            await world.delete(live)
        left = await world.look(unit.key)
        assert left.presence is Presence.PRESENT
        assert left.uid == live.uid
    finally:
        await deny.lift()
    await world.delete(left)
    assert (await world.look(unit.key)).presence is Presence.ABSENT


async def test_a_finalizer_that_hangs_is_named_and_the_rest_is_known(
    world: World,
) -> None:
    unit = world.unit("a")
    live = await world.create(unit)
    path = f"/api/v1/namespaces/{world.namespace}/services/a"
    await world.edit(path, {"metadata": {"finalizers": ["example.com/hangs"]}})
    with pytest.raises(TemporaryError, match=r"held by example\.com/hangs"):
        await world.delete(live)
    left = await world.look(unit.key)
    assert left.presence is Presence.PRESENT
    await world.client.request(
        "PATCH",
        path,
        body={"metadata": {"finalizers": None}},
        content_type="application/merge-patch+json",
    )
    await world.delete(left)
    assert (await world.look(unit.key)).presence is Presence.ABSENT


async def test_kro_1318_a_delete_needs_no_desired_state(
    world: World, control_plane: Plane
) -> None:
    """Another process deletes, with no chart and no unit: the record is enough."""
    live = await world.create(world.unit("a", adapters=ADAPTERS[:1]))
    order: list[str] = []

    def note(key: Key, message: str) -> None:
        order.append(message)

    fresh = await target_of(control_plane, world.project)
    await fresh.delete(_delete(live), note)
    await fresh.close()
    assert (await world.look(live.key)).presence is Presence.ABSENT
    kinds = " ".join(order)
    assert kinds.index("Deployment") < kinds.index("Service") < kinds.index("Secret")


async def test_a_record_that_was_deleted_leaves_nothing_behind(world: World) -> None:
    unit = world.unit("a")
    live = await world.create(unit)
    where = record_id(unit.key.ref)
    path = f"/api/v1/namespaces/{where.namespace}/configmaps/{where.name}"
    await world.client.request("DELETE", path)
    orphaned = await world.look(unit.key)
    assert orphaned.presence is Presence.PRESENT
    assert "record is gone" in orphaned.detail
    adopted = await world.change(unit, orphaned)
    assert adopted.digest == unit.digest
    await world.client.request("DELETE", path)
    await world.delete(await world.look(unit.key))
    assert (await world.look(unit.key)).presence is Presence.ABSENT
    assert live.key == unit.key


async def test_flux2_1366_a_namespace_is_made_and_never_deleted(
    control_plane: Plane,
) -> None:
    async with world_of(control_plane, "fresh") as world:
        world.plane.call("DELETE", f"/api/v1/namespaces/{world.namespace}")
        async with asyncio.timeout(20):
            while await world.client.get(f"/api/v1/namespaces/{world.namespace}"):
                await asyncio.sleep(0.1)
        unit = world.render("a", {"rollout": {"readyTimeout": "2s"}})
        await world.kubernetes.dry_run(
            Change(key=unit.key, action=Action.CREATE, unit=unit)
        )
        assert not await world.client.get(f"/api/v1/namespaces/{world.namespace}")
        with pytest.raises(TemporaryError, match="persistentvolumeclaim"):
            await world.create(unit)  # its weights were never brought here
        namespace = await world.client.get(f"/api/v1/namespaces/{world.namespace}")
        assert namespace is not None
        labels = namespace["metadata"]["labels"]
        assert labels["pod-security.kubernetes.io/enforce"] == "restricted"
        await world.delete(await world.look(unit.key))
        assert await world.client.get(f"/api/v1/namespaces/{world.namespace}")


async def test_what_is_no_longer_wanted_is_pruned(world: World) -> None:
    scaled = world.render("a", SCALED, replicas=None)
    live = await world.create(scaled)
    path = (
        f"/apis/autoscaling/v2/namespaces/{world.namespace}/horizontalpodautoscalers/a"
    )
    assert await world.client.get(path)
    await world.change(world.unit("a"), live)
    assert await world.client.get(path) is None


async def test_a_change_that_nobody_can_make_writes_nothing(world: World) -> None:
    live = await world.create(world.unit("a"))
    writes = world.writes
    with pytest.raises(PermanentError, match="A=B"):
        await world.change(world.impossible("a"), live)
    assert world.writes == writes
    assert await world.look(live.key) == live


async def test_a_secret_is_in_the_secret_and_nowhere_else(world: World) -> None:
    said: list[str] = []
    unit = world.unit("a", adapters=ADAPTERS[:1])
    change = Change(key=unit.key, action=Action.CREATE, unit=unit)
    await world.kubernetes.dry_run(change)
    live = await world.kubernetes.apply(change, lambda _, m: said.append(m))
    where = record_id(unit.key.ref)
    record = await world.client.get(
        f"/api/v1/namespaces/{where.namespace}/configmaps/{where.name}"
    )
    secrets, _ = await world.client.list(
        f"/api/v1/namespaces/{world.namespace}/secrets"
    )
    assert len(secrets) == 1
    assert _decoded(secrets[0]) == CANARY
    encoded = secrets[0]["data"]["value"]
    for text in (repr(unit), unit.content.decode(), repr(live), repr(record), *said):
        assert CANARY not in text
        assert encoded not in text
    path = (
        f"/api/v1/namespaces/{world.namespace}/secrets/{secrets[0]['metadata']['name']}"
    )
    await world.edit(path, {"data": {"value": "c3RvbGVu"}})
    strayed = await world.look(unit.key)
    assert strayed.digest != unit.digest
    await world.change(unit, strayed)
    assert _decoded((await world.client.get(path)) or {}) == CANARY


async def test_two_environments_of_one_cluster_do_not_see_each_other(
    world: World, control_plane: Plane
) -> None:
    live = await world.create(world.unit("a"))
    async with world_of(control_plane, "other") as other:
        assert live.key not in await other.target.observe([])


def _delete(live: Live) -> Change:
    return Change(
        key=live.key,
        action=Action.DELETE,
        unit=None,
        uid=live.uid,
        version=live.version,
    )


def _decoded(secret: dict[str, Any]) -> str:
    return base64.b64decode(secret["data"]["value"]).decode()


class _Denial:
    def __init__(self, world: World, name: str) -> None:
        self._world, self._name = world, name

    async def lift(self) -> None:
        for plural in (
            "validatingadmissionpolicybindings",
            "validatingadmissionpolicies",
        ):
            path = f"/apis/admissionregistration.k8s.io/v1/{plural}/{self._name}"
            await self._world.client.request("DELETE", path)
        await self._settled(denied=False)

    async def _settled(self, *, denied: bool) -> None:
        """Admission learns of a policy by watching: wait until it did."""
        probe = f"/api/v1/namespaces/{self._world.namespace}/services/a"
        found = await self._world.client.get(probe)
        assert found is not None
        async with asyncio.timeout(20):
            while True:
                try:
                    await self._world.client.delete(
                        probe, uid=found["metadata"]["uid"], dry_run=True
                    )
                    now = False
                except PermanentError:
                    now = True
                if now is denied:
                    return
                await asyncio.sleep(0.1)


async def _deny_deletes(world: World, resource: str) -> _Denial:
    name = f"deny-{world.project}"
    group = "admissionregistration.k8s.io/v1"
    scope = {"matchLabels": {"kubernetes.io/metadata.name": world.namespace}}
    await world.client.request(
        "POST",
        f"/apis/{group}/validatingadmissionpolicies",
        body={
            "apiVersion": group,
            "kind": "ValidatingAdmissionPolicy",
            "metadata": {"name": name},
            "spec": {
                "matchConstraints": {
                    "namespaceSelector": scope,
                    "resourceRules": [
                        {
                            "apiGroups": [""],
                            "apiVersions": ["v1"],
                            "operations": ["DELETE"],
                            "resources": [resource],
                        }
                    ],
                },
                "validations": [{"expression": "false", "message": "not today"}],
            },
        },
    )
    await world.client.request(
        "POST",
        f"/apis/{group}/validatingadmissionpolicybindings",
        body={
            "apiVersion": group,
            "kind": "ValidatingAdmissionPolicyBinding",
            "metadata": {"name": name},
            "spec": {"policyName": name, "validationActions": ["Deny"]},
        },
    )
    denial = _Denial(world, name)
    await denial._settled(denied=True)
    return denial


async def test_one_that_came_between_plan_and_write_is_not_written_over(
    world: World, control_plane: Plane
) -> None:
    """Two that plan at once: the record is created, and a create has one winner."""
    unit, theirs = world.unit("late"), world.unit("late", variant=1)
    made = Change(key=unit.key, action=Action.CREATE, unit=unit)
    await world.target.dry_run(made)
    other = await target_of(control_plane, world.project)
    first = Change(key=unit.key, action=Action.CREATE, unit=theirs)
    await other.apply(first, silent)
    await other.close()
    with pytest.raises(TemporaryError, match="come meanwhile"):
        await world.target.apply(made, silent)
    assert (await world.look(unit.key)).digest == theirs.digest
