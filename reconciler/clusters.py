"""The Kubernetes clusters of an environment, each a target while it is needed (I/O).

The pipeline asks for them once a look. A cluster is a target when it is declared,
and stays one as long as we own anything there: deleting needs no desired state, so
its declaration (which holds no secret, only where one is) is kept beside the store.
One that cannot be reached is unknown, and delays nobody else.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Collection
from pathlib import Path

from reconciler.render import cluster_target
from reconciler.targets.base import Target
from reconciler.targets.kubernetes import (
    KubernetesTarget,
    Renderer,
    connect,
    find_helm,
)
from reconciler.values import Desired, Key
from schemas.cluster import Cluster
from schemas.errors import PermanentError
from schemas.objects import Credential

__all__ = ["Clusters"]


class Clusters:
    """``close`` them at the end."""

    def __init__(
        self, memory: Path, *, owner: str, read: Callable[[Credential], str]
    ) -> None:
        """``memory`` is a file of ours; ``owner`` marks our objects in a cluster;
        ``read`` opens a credential, in memory."""
        self._memory, self._owner, self._open_credential = memory, owner, read
        self._open: dict[str, tuple[str, KubernetesTarget]] = {}
        self._renderer: Renderer | None = None

    async def follow(
        self, desired: Desired, owned: Collection[Key], targets: dict[str, Target]
    ) -> None:
        """Let ``targets`` hold one for each cluster that is declared or holds
        something of ours, and none for any other."""
        wanted = self._remember(desired, {key.target for key in owned})
        for name in self._open.keys() - wanted.keys():
            await self._close(name)
            del targets[name]
        for name, declared in wanted.items():
            known = self._open.get(name)
            if known is not None and known[0] == declared:
                continue
            await self._close(name)
            cluster = Cluster.model_validate_json(declared)
            if self._renderer is None:
                self._renderer = Renderer(_helm())
            target = connect(
                cluster,
                owner=self._owner,
                renderer=self._renderer,
                credentials=self._read,
            )
            self._open[name] = declared, target
            targets[name] = target

    async def close(self) -> None:
        for name in [*self._open]:
            await self._close(name)

    def _remember(self, desired: Desired, used: Collection[str]) -> dict[str, str]:
        """Target -> its Cluster, as JSON."""
        known: dict[str, str] = {}
        if self._memory.exists():
            known = json.loads(self._memory.read_text())
        declared = {
            cluster_target(item): item.model_dump_json()
            for item in desired.objects.values()
            if isinstance(item, Cluster) and item.spec.provider != "local"
        }
        kept = {n: c for n, c in known.items() if n in used and n not in declared}
        wanted = declared | kept
        if wanted != known:
            part = self._memory.with_suffix(".part")
            part.write_text(json.dumps(wanted))
            part.replace(self._memory)
        return wanted

    async def _read(self, credential: Credential) -> str:
        return await asyncio.to_thread(self._open_credential, credential)

    async def _close(self, name: str) -> None:
        if (known := self._open.pop(name, None)) is not None:
            await known[1].close()


def _helm() -> str:
    """Without Helm a cluster is still observed; what has to be rendered then fails."""
    try:
        return find_helm()
    except PermanentError:
        return "helm"
