from collections.abc import Iterator

import pytest

from reconciler.targets.kubernetes.capacity import (
    Way,
    free_devices,
    in_place,
    rollout,
    surge,
)
from reconciler.values import Action, Change, Health, Unit
from renderers.kubernetes import render_endpoint
from schemas.errors import TemporaryError
from tests.reconciler.targets.kubernetes.foundry import World, unit_of
from tests.reconciler.targets.kubernetes.plane import node as machine
from tests.renderers.kubernetes_cases import (
    H100S,
    cluster,
    endpoint,
    model,
    resolution,
)

GPU = "nvidia.com/gpu"


def node(name: str, gpus: int, *, cordoned: bool = False) -> dict[str, object]:
    return {
        "metadata": {"name": name},
        "spec": {"unschedulable": cordoned},
        "status": {"allocatable": {GPU: str(gpus)}},
    }


def pod(where: str, gpus: int, phase: str = "Running") -> dict[str, object]:
    limits = {GPU: str(gpus)}
    return {
        "spec": {"nodeName": where, "containers": [{"resources": {"limits": limits}}]},
        "status": {"phase": phase},
    }


def test_what_runs_is_not_free_and_what_ended_is() -> None:
    pods = [pod("a", 4), pod("a", 2, "Succeeded"), pod("gone", 8)]
    nodes = [node("a", 8), node("b", 8, cordoned=True), node("c", 0)]
    assert free_devices(nodes, pods, GPU) == {"a": 4, "c": 0}


@pytest.mark.parametrize(
    ("free", "floor", "way", "dip", "why"),
    [
        ({"a": 8}, 2, Way.SURGE, 0, "1 of 1 surge replicas fit"),
        ({"a": 3, "b": 3}, 1, Way.DRAIN, 1, "1 of 2 replicas serve"),
        ({"a": 3, "b": 3}, 2, Way.WAIT, 0, "4 of its device are needed, 6 are free"),
    ],
    ids=["room", "split over nodes is no room", "no room and no slack"],
)
def test_a_rollout_says_what_it_costs(
    free: dict[str, int], floor: int, way: Way, dip: int, why: str
) -> None:
    said = surge(free, devices=4, max_surge=1, replicas=2, floor=floor)
    assert (said.way, said.dip) == (way, dip)
    assert why in said.why


def test_a_group_of_pods_needs_room_for_all_of_them() -> None:
    one = surge({"a": 8}, devices=8, pods=2, max_surge=1, replicas=1, floor=1)
    both = surge({"a": 8, "b": 8}, devices=8, pods=2, max_surge=1, replicas=1, floor=1)
    assert (one.fits, both.fits) == (0, 1)
    assert one.way is Way.WAIT


VALUES = {
    "limits": {GPU: "2"},
    "nodes": 1,
    "nodeSelector": {},
    "replicas": 2,
    "rollout": {"strategy": "RollingUpdate", "maxSurge": 1, "floor": 1},
    "image": "a",
}


@pytest.mark.parametrize(
    ("old", "new", "way", "why"),
    [
        (None, {}, Way.WAIT, "4 of its device are needed, 2 are free"),
        (None, {"replicas": 1}, Way.SURGE, "all 1 new replicas fit"),
        ({}, {"replicas": 3}, Way.SURGE, "all 1 new replicas fit"),
        ({}, {"replicas": 1}, Way.SURGE, "nothing new"),
        ({}, {"image": "b"}, Way.SURGE, "1 of 1 surge"),
        ({}, {"image": "b", "limits": {GPU: "4"}}, Way.DRAIN, "1 of 2 replicas serve"),
        (
            {},
            {"image": "b", "rollout": {**VALUES["rollout"], "strategy": "Recreate"}},
            Way.DRAIN,
            "all 2 replicas stop",
        ),
    ],
    ids=["new", "new and small", "one more", "one less", "other", "larger", "recreate"],
)
def test_what_changes_decides_what_has_to_fit(
    old: dict[str, object] | None, new: dict[str, object], way: Way, why: str
) -> None:
    was = None if old is None else {**VALUES, **old}
    said = rollout(
        was, {**VALUES, **new}, replicas=2, nodes=[node("a", 4)], pods=[pod("a", 2)]
    )
    assert said is not None
    assert said.way is way
    assert why in said.why


def test_what_asks_for_no_device_has_no_rollout_to_place() -> None:
    values = {**VALUES, "limits": {"cpu": "4"}}
    assert rollout(None, values, replicas=1, nodes=[], pods=[]) is None


def test_only_a_workload_that_rolls_is_told_to_go_in_place() -> None:
    recreate = {"kind": "Deployment", "spec": {"strategy": {"type": "Recreate"}}}
    assert in_place(recreate) == recreate
    assert in_place({"kind": "Service", "spec": {}}) == {"kind": "Service", "spec": {}}


@pytest.fixture
def tight(world: World) -> Iterator[str]:
    """The pool of one small machine that no other test's pods may use."""
    name = f"tight-{world.project}"
    made = machine(name, gpus=4, labels={"pool": name})
    world.plane.call("POST", "/api/v1/nodes", made)
    yield name
    world.plane.call("DELETE", f"/api/v1/nodes/{name}")


@pytest.mark.parametrize("floor", [1, None], ids=["a replica may go", "none may"])
async def test_a_change_without_room_drains_in_place_or_waits_as_the_plan_said(
    world: World, tight: str, floor: int | None
) -> None:
    """Two replicas on a machine that they fill."""
    pools = [{**H100S, "labels": {"pool": tight}}]

    def unit(batch: int) -> Unit:
        rollout = {"readyTimeout": "20s" if floor else "2s"}
        rollout |= {} if floor is None else {"floor": floor}
        item = endpoint("a", world.project, rollout=rollout)
        decided = resolution(tensor=2, replicas=2, max_batch=batch)
        content = render_endpoint(
            item, model(world.project), cluster(nodePools=pools), decided
        )
        return unit_of(item, content)

    before = await world.create(unit(1))
    change = Change(
        key=before.key,
        action=Action.CHANGE,
        unit=unit(2),
        uid=before.uid,
        version=before.version,
    )
    said = await world.kubernetes.preview(change)
    assert said is not None
    assert "2 of its device are needed, 0 are free" in said.disruption[0]
    if floor is None:
        assert said.summary == "rollout: wait"
        with pytest.raises(TemporaryError, match="unschedulable"):
            await world.change(unit(2), before)
        status = (await world.deployment("a"))["status"]
        assert status["availableReplicas"] == 2, "the old one goes on serving"
        return
    assert said.summary == "rollout: drain"
    assert "1 of 2 replicas serve while each is replaced" in said.disruption[0]
    after = await world.change(unit(2), before)
    assert (after.digest, after.health) == (unit(2).digest, Health.SERVABLE)
    rolling = (await world.deployment("a"))["spec"]["strategy"]["rollingUpdate"]
    assert rolling == {"maxUnavailable": 1, "maxSurge": 0}
    assert await world.look(world.key("a")) == after
