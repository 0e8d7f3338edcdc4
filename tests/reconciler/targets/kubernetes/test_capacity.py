import pytest

from reconciler.targets.kubernetes.capacity import free_devices, surge

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
    ("free", "floor", "fits", "dip", "why"),
    [
        ({"a": 8}, 2, 1, 0, "1 of 1 surge replicas fit"),
        ({"a": 3, "b": 3}, 1, 0, 1, "drain in place"),
        ({"a": 3, "b": 3}, 2, 0, 0, "blocked"),
    ],
    ids=["room", "split over nodes is no room", "no room and no slack"],
)
def test_a_rollout_says_what_it_costs(
    free: dict[str, int], floor: int, fits: int, dip: int, why: str
) -> None:
    said = surge(free, devices=4, max_surge=1, replicas=2, floor=floor)
    assert (said.fits, said.dip) == (fits, dip)
    assert why in said.why


def test_a_group_of_pods_needs_room_for_all_of_them() -> None:
    one = surge({"a": 8}, devices=8, pods=2, max_surge=1, replicas=1, floor=1)
    both = surge({"a": 8, "b": 8}, devices=8, pods=2, max_surge=1, replicas=1, floor=1)
    assert (one.fits, both.fits) == (0, 1)
    assert "blocked" in one.why
