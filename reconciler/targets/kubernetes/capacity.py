"""Does a rollout's surge fit the free GPUs; if not, what it costs to go on. Pure.

A plan says it before anybody approves: with room, new pods start beside the old ones;
without, replicas are drained in place one after another, and for so long there are
fewer of them (dstack#4186, skypilot#4312). ``Room`` reads the cluster, and the target
asks it to preview a change and once more to make it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from reconciler.targets.kubernetes.manifests import Json

__all__ = ["Surge", "Way", "free_devices", "in_place", "rollout", "surge"]

# What says how many and how, and is no other revision.
_NO_REVISION = ("replicas", "rollout", "scaling")
# A slice of a GPU is counted in percent, a whole one in GPUs.
_DEVICES = (
    "nvidia.com/gpumem-percentage",
    "nvidia.com/gpu",
    "amd.com/gpu",
    "gpu.intel.com/xe",
    "habana.ai/gaudi",
)


class Way(StrEnum):
    SURGE = "surge"
    DRAIN = "drain"
    WAIT = "wait"


@dataclass(frozen=True, slots=True, kw_only=True)
class Surge:
    """How a new revision gets in."""

    way: Way
    fits: int
    """Replicas that can start beside those that serve."""
    dip: int
    """Replicas that stop serving before their successor does."""
    why: str


def rollout(
    old: Mapping[str, Any] | None,
    new: Mapping[str, Any],
    *,
    replicas: int,
    nodes: Iterable[Json],
    pods: Iterable[Json],
) -> Surge | None:
    """Say how the values of an endpoint get in; None where no device is asked for.

    ``old`` are the values that live, None where nothing does; ``replicas`` is how many
    there are or, where an autoscaler says it, will be at first.
    """
    device = next((d for d in _DEVICES if d in new.get("limits", {})), None)
    if device is None:
        return None
    selected = new["nodeSelector"].items()
    some = [n for n in nodes if selected <= (n["metadata"].get("labels") or {}).items()]
    free = free_devices(some, pods, device)
    how, wanted = new["rollout"], new["replicas"]
    kept = {k: v for k, v in new.items() if k not in _NO_REVISION}
    if old is None or kept == {k: v for k, v in old.items() if k not in _NO_REVISION}:
        more = (replicas if wanted is None else wanted) - (replicas if old else 0)
        return _more(free, int(new["limits"][device]), new["nodes"], max(more, 0))
    if how["strategy"] == "Recreate":
        why = f"all {replicas} replicas stop before their successors start"
        return Surge(way=Way.DRAIN, fits=0, dip=replicas, why=why)
    return surge(
        free,
        devices=int(new["limits"][device]),
        pods=new["nodes"],
        max_surge=how["maxSurge"],
        replicas=replicas,
        floor=replicas if how["floor"] is None else how["floor"],
    )


def in_place(manifest: Json) -> Json:
    """Tell a workload to let one replica go before its successor starts."""
    match manifest["kind"]:
        case "Deployment" if manifest["spec"]["strategy"]["type"] != "Recreate":
            rolling = {"maxUnavailable": 1, "maxSurge": 0}
            strategy = {"type": "RollingUpdate", "rollingUpdate": rolling}
            return {**manifest, "spec": {**manifest["spec"], "strategy": strategy}}
        case "LeaderWorkerSet":
            rolling = {"maxUnavailable": 1, "maxSurge": 0}
            strategy = {"type": "RollingUpdate", "rollingUpdateConfiguration": rolling}
            spec = {**manifest["spec"], "rolloutStrategy": strategy}
            return {**manifest, "spec": spec}
        case _:
            return manifest


def free_devices(
    nodes: Iterable[Json], pods: Iterable[Json], device: str
) -> dict[str, int]:
    """Count what each ready node has left of ``device``."""
    free = {
        node["metadata"]["name"]: int(
            node.get("status", {}).get("allocatable", {}).get(device, "0")
        )
        for node in nodes
        if not node.get("spec", {}).get("unschedulable") and _is_ready(node)
    }
    for pod in pods:
        where = pod.get("spec", {}).get("nodeName")
        done = pod.get("status", {}).get("phase") in ("Succeeded", "Failed")
        if where in free and not done:
            free[where] -= sum(
                int(container.get("resources", {}).get("limits", {}).get(device, "0"))
                for container in pod["spec"]["containers"]
            )
    return free


def _is_ready(node: Json) -> bool:
    """A node that says nothing about itself is taken at its word."""
    return all(
        condition.get("status") == "True"
        for condition in node.get("status", {}).get("conditions") or ()
        if condition.get("type") == "Ready"
    )


def surge(
    free: Mapping[str, int],
    *,
    devices: int,
    pods: int = 1,
    max_surge: int,
    replicas: int,
    floor: int,
) -> Surge:
    """Say how a rollout of ``replicas`` goes on nodes with ``free`` devices.

    ``devices`` is what one pod needs, ``pods`` how many make a replica; ``floor`` is
    how many replicas must answer at any time.
    """
    fits = min(max_surge, _places(free, devices) // pods)
    if fits or not replicas:
        why = f"{fits} of {max_surge} surge replicas fit beside what serves"
        return Surge(way=Way.SURGE, fits=fits, dip=0, why=why)
    need = f"{_need(devices * pods)}, {_free(free)}"
    if replicas - 1 < floor:
        why = (
            f"waits for room: {need}, and the floor of {floor} lets no replica go first"
        )
        return Surge(way=Way.WAIT, fits=0, dip=0, why=why)
    left = f"{replicas - 1} of {replicas} replicas serve while each is replaced"
    why = f"drains in place: {need}; {left}"
    return Surge(way=Way.DRAIN, fits=0, dip=1, why=why)


def _more(free: Mapping[str, int], devices: int, pods: int, replicas: int) -> Surge:
    """Replicas that nobody has to make room for."""
    fits = min(replicas, _places(free, devices) // pods)
    if fits == replicas:
        why = f"all {replicas} new replicas fit" if replicas else "nothing new to place"
        return Surge(way=Way.SURGE, fits=fits, dip=0, why=why)
    need = _need(devices * pods * replicas)
    why = f"waits for room: {need}, {_free(free)}"
    return Surge(way=Way.WAIT, fits=fits, dip=0, why=why)


def _places(free: Mapping[str, int], devices: int) -> int:
    return sum(left // devices for left in free.values() if left > 0)


def _need(devices: int) -> str:
    return f"{devices} of its device are needed"


def _free(free: Mapping[str, int]) -> str:
    return f"{sum(free.values())} are free"
