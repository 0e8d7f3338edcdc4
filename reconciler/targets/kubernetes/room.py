"""How much room a cluster has, read when a rollout is planned. (I/O: reads only)

The target asks it for each change; many changes of one plan share one reading, because
each is a list of every pod of the cluster.
"""

from __future__ import annotations

import asyncio
import time

from reconciler.targets.kubernetes.capacity import Surge, rollout
from reconciler.targets.kubernetes.client import Client
from reconciler.targets.kubernetes.holding import Holding
from reconciler.targets.kubernetes.manifests import Json
from reconciler.values import Unit
from renderers.helm import read_release

__all__ = ["Room"]

_FRESH_S = 5.0


class Room:
    def __init__(self, client: Client) -> None:
        self._client = client
        self._reading = asyncio.Lock()
        self._read_at = float("-inf")
        self._nodes: list[Json] = []
        self._pods: list[Json] = []

    async def surge(self, unit: Unit, holding: Holding) -> Surge | None:
        """Say how ``unit`` gets in where ``holding`` lives; None where nothing rolls.

        Raises:
            FoundryError: the cluster cannot be read.
        """
        if unit.key.ref.kind != "Endpoint":
            return None
        new = read_release(unit.content).values
        old = None
        if holding.record is not None and holding.record.content:
            old = read_release(holding.record.content).values
        async with self._reading:
            if time.monotonic() - self._read_at > _FRESH_S:
                self._nodes, _ = await self._client.list("/api/v1/nodes")
                self._pods, _ = await self._client.list("/api/v1/pods")
                self._read_at = time.monotonic()
        return rollout(
            old,
            new,
            replicas=_replicas(holding, new["replicas"]),
            nodes=self._nodes,
            pods=self._pods,
        )


def _replicas(holding: Holding, wanted: int | None) -> int:
    """How many live; before any does, how many will at first."""
    found = [
        live["spec"]["replicas"]
        for live in holding.objects.values()
        if live is not None and live["kind"] in ("Deployment", "LeaderWorkerSet")
    ]
    if found:
        return int(found[0])
    return 1 if wanted is None else wanted
