"""Does a rollout's surge fit the free GPUs; if not, what it costs to go on. Pure.

A plan says it before anybody approves: with room, new pods start beside the old ones;
without, replicas are drained in place one after another, and for so long there are
fewer of them (dstack#4186, skypilot#4312).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from reconciler.targets.kubernetes.manifests import Json

__all__ = ["Surge", "free_devices", "surge"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Surge:
    """How a new revision gets in."""

    fits: int
    """Replicas that can start beside those that serve."""
    wanted: int
    dip: int
    """Replicas that stop serving before their successor does; 0 with room for one."""
    why: str


def free_devices(
    nodes: Iterable[Json], pods: Iterable[Json], device: str
) -> dict[str, int]:
    """Count what each ready node has left of ``device``."""
    free = {
        node["metadata"]["name"]: int(
            node.get("status", {}).get("allocatable", {}).get(device, "0")
        )
        for node in nodes
        if not node.get("spec", {}).get("unschedulable")
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
    places = sum(left // devices for left in free.values() if left > 0)
    fits = min(max_surge, places // pods)
    if fits or not replicas:
        return Surge(
            fits=fits,
            wanted=max_surge,
            dip=0,
            why=f"{fits} of {max_surge} surge replicas fit the free GPUs",
        )
    need = f"{devices * pods} GPUs are needed and {sum(free.values())} are free"
    if replicas - 1 < floor:
        return Surge(
            fits=0,
            wanted=max_surge,
            dip=0,
            why=f"blocked: {need}, and the floor of {floor} lets no replica go first",
        )
    return Surge(
        fits=0,
        wanted=max_surge,
        dip=1,
        why=f"drain in place: {need}; {replicas - 1} of {replicas} replicas serve "
        "while each is replaced",
    )
