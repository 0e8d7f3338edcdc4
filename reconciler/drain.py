"""Draining: nodes let go of what runs on them, as fast as budgets allow (I/O).

`bud cluster drain` calls it, for whoever has to mend a machine. It cordons, evicts by
the API's own eviction (so that no PodDisruptionBudget is broken), and waits until the
pods are gone. What a DaemonSet keeps there stays. It never deletes a node.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from http import HTTPStatus

from reconciler.targets.kubernetes import Client
from reconciler.targets.kubernetes.manifests import Json
from reconciler.targets.kubernetes.transport import ApiRefusal
from schemas.errors import TemporaryError

__all__ = ["cordon", "drain"]

_LOOK_S = 1.0
_ASK_S = 3.0


async def cordon(client: Client, nodes: Collection[str], *, on: bool) -> None:
    """Let no new pod onto ``nodes``; with ``on`` False, let them again."""
    for name in nodes:
        await client.request(
            "PATCH",
            f"/api/v1/nodes/{name}",
            body={"spec": {"unschedulable": on}},
            content_type="application/merge-patch+json",
        )


async def drain(
    client: Client,
    nodes: Collection[str],
    tell: Callable[[str], None],
    *,
    timeout_s: float,
) -> None:
    """Cordon ``nodes`` and evict what runs there.

    Raises:
        TemporaryError: a budget did not allow it in time, or a pod does not end. The
            nodes stay cordoned.
    """
    await cordon(client, nodes, on=True)
    waits = ""
    try:
        async with asyncio.timeout(timeout_s):
            while left := await _evictable(client, nodes):
                said = await asyncio.gather(*(_evict(client, pod) for pod in left))
                waits = "; ".join(said[:5])
                tell(f"{len(left)} pods left: {waits}")
                await asyncio.sleep(_LOOK_S)
    except TimeoutError as error:
        raise TemporaryError(
            f"cannot drain {', '.join(sorted(nodes))}: not done in {timeout_s:.0f} s "
            f"({waits})",
            hint="the nodes stay cordoned; drain again, or uncordon them",
        ) from error


async def _evictable(client: Client, nodes: Collection[str]) -> list[Json]:
    pods, _ = await client.list("/api/v1/pods")
    return [pod for pod in pods if pod["spec"].get("nodeName") in nodes and _runs(pod)]


def _runs(pod: Json) -> bool:
    owners = pod["metadata"].get("ownerReferences") or ()
    kept = any(owner["kind"] in ("DaemonSet", "Node") for owner in owners)
    done = pod.get("status", {}).get("phase") in ("Succeeded", "Failed")
    return not kept and not done


async def _evict(client: Client, pod: Json) -> str:
    """Ask for one pod to go; what it waits for."""
    metadata = pod["metadata"]
    name, where = metadata["name"], metadata["namespace"]
    if metadata.get("deletionTimestamp"):
        return f"{name} is ending"
    try:
        async with asyncio.timeout(_ASK_S):
            await client.request(
                "POST",
                f"/api/v1/namespaces/{where}/pods/{name}/eviction",
                body={
                    "apiVersion": "policy/v1",
                    "kind": "Eviction",
                    "metadata": {"name": name, "namespace": where},
                    "deleteOptions": {"preconditions": {"uid": metadata["uid"]}},
                },
            )
    except ApiRefusal as refusal:
        if refusal.status in (HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT):
            return f"{name} is gone"
        if refusal.status == HTTPStatus.FORBIDDEN and "terminated" in str(refusal):
            return f"{name} ends with its namespace"
        raise
    except (TemporaryError, TimeoutError):
        # A budget answers 429 with a pause that the client keeps; so do we.
        return f"{name} is held by its disruption budget"
    return f"{name} is asked to go"
