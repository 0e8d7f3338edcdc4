"""Secrets that are kept elsewhere, on a real API server with the operator's definition.

The operator itself is played: it would need a store. What it writes here is what its
documentation says: a Secret that its ExternalSecret owns, and the condition Ready.
"""

import asyncio
from typing import Any

import pytest

from reconciler.targets.kubernetes.health import assess
from reconciler.values import Health
from tests.reconciler.targets.kubernetes.foundry import World
from tests.renderers.kubernetes_cases import KEPT_ELSEWHERE

DEADLINE_S = 60.0


def said(status: str, message: str = "") -> dict[str, Any]:
    ready = {"type": "Ready", "status": status, "message": message}
    return {"status": {"conditions": [ready]}}


async def declared(world: World) -> Any:
    """The one ExternalSecret of the world's namespace, once it is there."""
    path = f"/apis/external-secrets.io/v1/namespaces/{world.namespace}/externalsecrets"
    async with asyncio.timeout(DEADLINE_S):
        while not (found := (await world.client.request("GET", path))["items"]):
            await asyncio.sleep(0.05)  # waits for a condition, until the deadline
    (one,) = found
    return f"{path}/{one['metadata']['name']}", one


async def fetch(world: World, path: str, one: Any) -> None:
    """Do as the operator does: the Secret first, then the condition."""
    template = one["spec"]["target"]["template"]
    metadata = {
        "name": one["spec"]["target"]["name"],
        "labels": template["metadata"]["labels"],
        "ownerReferences": [
            {
                "apiVersion": one["apiVersion"],
                "kind": one["kind"],
                "name": one["metadata"]["name"],
                "uid": one["metadata"]["uid"],
                "controller": True,
            }
        ],
    }
    world.plane.call(
        "POST",
        f"/api/v1/namespaces/{world.namespace}/secrets",
        {"metadata": metadata, "type": template["type"], "data": {"value": "aGY="}},
    )
    merge = "application/merge-patch+json"
    world.plane.call("PATCH", f"{path}/status", said("True"), merge)


async def test_pods_use_what_the_operator_fetched_and_bud_never_had_it(
    world: World,
) -> None:
    unit = world.unit("tuned", adapters=KEPT_ELSEWHERE)
    applying = asyncio.ensure_future(world.create(unit))
    path, one = await declared(world)
    assert one["spec"]["secretStoreRef"] == {
        "kind": "ClusterSecretStore",
        "name": "vault",
    }
    (asked,) = one["spec"]["data"]
    assert (asked["remoteRef"]["key"], asked["remoteRef"]["property"]) == (
        "hub",
        "token",
    )

    # Not fetched yet is not done yet, and the reason is the operator's own.
    world.plane.call(
        "PATCH",
        f"{path}/status",
        said("False", "no key hub in vault"),
        "application/merge-patch+json",
    )
    async with asyncio.timeout(DEADLINE_S):
        while "no key hub in vault" not in (await world.look(unit.key)).detail:
            await asyncio.sleep(0.05)  # waits for a condition, until the deadline
    assert not applying.done()

    await fetch(world, path, one)
    made = await applying
    assert (made.health, made.digest) == (Health.SERVABLE, unit.digest)
    pod = (await world.deployment("tuned"))["spec"]["template"]["spec"]
    (variable,) = (
        e for e in pod["initContainers"][0]["env"] if e["name"] == "HF_TOKEN"
    )
    name = one["spec"]["target"]["name"]
    assert variable["valueFrom"]["secretKeyRef"] == {"name": name, "key": "value"}

    # The Secret is the operator's: it is no part of the unit, and no drift.
    assert (await world.look(unit.key)) == made
    secret = await world.client.get(
        f"/api/v1/namespaces/{world.namespace}/secrets/{name}"
    )
    assert secret is not None
    assert secret["metadata"]["labels"] == {
        "app.kubernetes.io/managed-by": "external-secrets"
    }
    await world.delete(made)
    assert await world.client.get(path) is None


@pytest.mark.parametrize(
    ("status", "version", "word"),
    [
        ("True", "2-abc", Health.ROLLED),
        # The store is away: what was fetched for this very spec is still there.
        ("False", "2-abc", Health.ROLLED),
        ("False", "1-abc", Health.APPLIED),
        ("False", "", Health.APPLIED),
    ],
)
def test_a_store_that_is_away_takes_nothing_from_what_was_fetched(
    status: str, version: str, word: Health
) -> None:
    live = {
        "apiVersion": "external-secrets.io/v1",
        "kind": "ExternalSecret",
        "metadata": {"name": "a", "generation": 2},
        **said(status, "the store does not answer"),
    }
    live["status"]["syncedResourceVersion"] = version
    health, detail = assess(live)
    assert health is word
    assert ("does not answer" in detail) == (status == "False")
