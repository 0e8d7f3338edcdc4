"""Nodes emptied on a real API server, whose eviction and budgets are the real ones."""

from typing import Any

import pytest

from reconciler.drain import cordon, drain
from schemas.errors import TemporaryError
from tests.reconciler.targets.kubernetes.foundry import World

pytestmark = pytest.mark.slow

LABELS = {"app": "drained"}


def pod(world: World, name: str, node: str) -> None:
    world.plane.call(
        "POST",
        f"/api/v1/namespaces/{world.namespace}/pods",
        {
            "metadata": {"name": name, "labels": LABELS},
            "spec": {
                "nodeName": node,
                "securityContext": {
                    "runAsNonRoot": True,
                    "seccompProfile": {"type": "RuntimeDefault"},
                },
                "containers": [
                    {
                        "name": "c",
                        "image": "none:1",
                        "securityContext": {
                            "allowPrivilegeEscalation": False,
                            "capabilities": {"drop": ["ALL"]},
                        },
                    }
                ],
            },
        },
    )


def node(world: World, name: str) -> Any:
    return world.plane.call("GET", f"/api/v1/nodes/{name}")


def pods(world: World) -> list[str]:
    found = world.plane.call("GET", f"/api/v1/namespaces/{world.namespace}/pods")
    return [item["metadata"]["name"] for item in found["items"]]


async def test_a_drained_node_is_cordoned_and_empty(world: World) -> None:
    pod(world, "here", "gpu-15")
    pod(world, "elsewhere", "gpu-14")
    said: list[str] = []
    try:
        await drain(world.client, ["gpu-15"], said.append, timeout_s=60)
        assert node(world, "gpu-15")["spec"]["unschedulable"] is True
        assert pods(world) == ["elsewhere"]
        assert "here is asked to go" in said[0]
    finally:
        await cordon(world.client, ["gpu-15"], on=False)
    assert not node(world, "gpu-15")["spec"].get("unschedulable")


async def test_a_budget_holds_a_drain_back_and_is_named(world: World) -> None:
    pod(world, "held", "gpu-15")
    world.plane.call(
        "POST",
        f"/apis/policy/v1/namespaces/{world.namespace}/poddisruptionbudgets",
        {
            "metadata": {"name": "all"},
            "spec": {"minAvailable": 1, "selector": {"matchLabels": LABELS}},
        },
    )
    try:
        with pytest.raises(
            TemporaryError, match="held by its disruption budget"
        ) as caught:
            await drain(world.client, ["gpu-15"], lambda _: None, timeout_s=10)
        assert "stay cordoned" in caught.value.hint
        assert pods(world) == ["held"]
    finally:
        await cordon(world.client, ["gpu-15"], on=False)
