"""Why a rollout does not get there, in the words of the pods. (I/O: reads pods)

The target asks when it gives up. Being without room is told apart from being broken:
the first passes by itself when nodes come, the second does not.
"""

from __future__ import annotations

from collections.abc import Iterator

from reconciler.targets.kubernetes.client import Client
from reconciler.targets.kubernetes.holding import Holding
from reconciler.targets.kubernetes.manifests import Json
from schemas.errors import FoundryError

__all__ = ["explain", "reasons"]


async def explain(client: Client, holding: Holding) -> tuple[str, bool]:
    """Say why the pods of a unit are not ready, and whether they only lack room."""
    for live in holding.objects.values():
        selector = ((live or {}).get("spec", {}).get("selector") or {}).get(
            "matchLabels"
        )
        if live is None or not selector:
            continue
        path = f"/api/v1/namespaces/{live['metadata']['namespace']}/pods"
        text = ",".join(f"{name}={value}" for name, value in sorted(selector.items()))
        try:
            pods, _ = await client.list(path, selector=text)
        except FoundryError:
            return "", False  # the caller has the workload's own words
        found = [said for pod in pods for said in reasons(pod)]
        if found:
            no_room = all(said.startswith("unschedulable") for said in found)
            return "; ".join(sorted(set(found))[:3]), no_room
    return "", False


def reasons(pod: Json) -> Iterator[str]:
    """Say what keeps one pod from being ready."""
    status = pod.get("status", {})
    for condition in status.get("conditions") or ():
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            yield f"unschedulable: {condition.get('message', '')}"
    for container in (
        *(status.get("initContainerStatuses") or ()),
        *(status.get("containerStatuses") or ()),
    ):
        waiting = container.get("state", {}).get("waiting")
        if waiting and waiting.get("reason") not in (
            "ContainerCreating",
            "PodInitializing",
        ):
            yield f"{container['name']}: {waiting.get('reason')} {waiting.get('message', '')}".strip()
