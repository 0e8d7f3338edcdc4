"""The clusters of an environment, each a target while it is needed (I/O).

The pipeline asks for them once a look. A cluster is a target when it is declared,
and stays one as long as we own anything there: deleting needs no desired state, so
its declaration (which holds no secret, only where one is) is kept beside the store.
So does whatever makes clusters: Terraform is started for nobody who has none. A
cluster that cannot be reached is unknown, and delays nobody else.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable, Collection, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import orjson

from reconciler.connect import Connected, Tools, connect
from reconciler.render import MAKERS, addon_target, cluster_target, maker_of
from reconciler.secrets import Vault
from reconciler.targets.base import Target
from reconciler.targets.helm import Charts
from reconciler.targets.helm.command import HelmCommand
from reconciler.targets.kubernetes import Access, Renderer, find_helm
from reconciler.targets.kubernetes.transport import MayWrite
from reconciler.values import Desired, Key
from schemas.cluster import Cluster
from schemas.errors import PermanentError, TemporaryError
from schemas.objects import Credential

__all__ = ["Clusters", "Maker"]


class Maker(Target, Protocol):
    """A target whose objects are clusters."""

    async def kubeconfig(self, cluster: Cluster) -> Mapping[str, Any] | None:
        """How ``cluster`` is reached now; None while it is not made.

        Raises:
            TemporaryError, PermanentError: nobody can tell.
        """
        ...

    async def token(self, cluster: Cluster) -> str | None:
        """A token that is good for minutes; None where its kubeconfig holds a key."""
        ...


class Clusters:
    """``close`` them at the end."""

    def __init__(
        self,
        memory: Path,
        *,
        owner: str,
        checkout: Path,
        read: Callable[[Credential], str],
        makers: Mapping[str, Callable[[], Maker]],
        vault: Vault,
        may_write: MayWrite = lambda: None,
    ) -> None:
        """``memory`` is a file of ours; ``owner`` marks our objects in a cluster;
        ``checkout`` holds vendored charts; ``read`` opens a credential, in memory;
        ``makers`` opens what makes clusters, by its name; ``vault`` seals how they are
        reached; ``may_write`` is asked before each write to a cluster."""
        self._may_write = may_write
        self._memory, self._owner, self._open_credential = memory, owner, read
        self._checkout, self._makers, self._vault = checkout, makers, vault
        self._making: dict[str, Maker] = {}
        self._open: dict[str, tuple[str, Connected]] = {}
        self._tools: Tools | None = None

    async def follow(
        self, desired: Desired, owned: Collection[Key], targets: dict[str, Target]
    ) -> None:
        """Let ``targets`` hold one for each cluster that is declared or holds
        something of ours, and none for any other."""
        used = {key.target for key in owned}
        wanted = self._remember(desired, used)
        clusters = {n: Cluster.model_validate_json(c) for n, c in wanted.items()}
        self._follow_makers(clusters.values(), used, targets)
        for name in self._open.keys() - wanted.keys():
            await self._close(name, targets)
        for name, declared in wanted.items():
            known = self._open.get(name)
            if known is not None and known[0] == declared:
                continue
            await self._close(name, targets)
            connected = self._connect(clusters[name])
            self._open[name] = declared, connected
            for target in (connected.objects, connected.addons):
                targets[target.name] = target

    async def close(self) -> None:
        for name in [*self._open]:
            await self._close(name, {})

    def _follow_makers(
        self,
        clusters: Collection[Cluster],
        used: Collection[str],
        targets: dict[str, Target],
    ) -> None:
        needed = {maker_of(cluster) for cluster in clusters} | (MAKERS & {*used})
        for name in self._making.keys() - needed:
            del self._making[name], targets[name]
        for name, make in self._makers.items():
            if name in needed and name not in self._making:
                targets[name] = self._making[name] = make()

    def _connect(self, cluster: Cluster) -> Connected:
        access = None
        if (maker := self._making.get(maker_of(cluster) or "")) is not None:
            access = Access(
                kubeconfig=partial(self._kubeconfig, cluster, maker),
                token=partial(maker.token, cluster),
            )
        return connect(
            cluster,
            owner=self._owner,
            tools=self._shared(),
            credentials=self._read,
            access=access,
            may_write=self._may_write,
        )

    async def _kubeconfig(self, cluster: Cluster, maker: Maker) -> Mapping[str, Any]:
        """As its maker says now; as it said last while that does not answer."""
        sealed = _sealed(cluster_target(cluster))
        try:
            found = await maker.kubeconfig(cluster)
        except TemporaryError:
            if sealed not in self._vault.names():
                raise
            kept: Mapping[str, Any] = orjson.loads(
                await asyncio.to_thread(self._vault.get, sealed)
            )
            return kept
        if found is None:
            raise TemporaryError(
                f"cannot reach {cluster.ref}: it is not made yet",
                hint=f"its {maker.name} step comes first",
            )
        await asyncio.to_thread(self._seal, sealed, orjson.dumps(found))
        return found

    def _seal(self, name: str, content: bytes) -> None:
        self._vault.keys.ensure()
        if name not in self._vault.names() or self._vault.get(name) != content:
            self._vault.put(name, content)

    def _remember(self, desired: Desired, used: set[str]) -> dict[str, str]:
        """Target -> its Cluster, as JSON."""
        known: dict[str, str] = {}
        if self._memory.exists():
            known = json.loads(self._memory.read_text())
        declared = {
            cluster_target(item): item.model_dump_json()
            for item in desired.objects.values()
            if isinstance(item, Cluster) and item.spec.provider != "local"
        }
        kept = {
            name: cluster
            for name, cluster in known.items()
            if name not in declared
            and used & {name, addon_target(Cluster.model_validate_json(cluster))}
        }
        wanted = declared | kept
        for name in known.keys() - wanted.keys():
            self._vault.remove(_sealed(name))
        if wanted != known:
            # Replicas may share the folder: each writes a file of its own, of the same.
            part = self._memory.with_suffix(f".{os.getpid()}.part")
            part.write_text(json.dumps(wanted))
            part.replace(self._memory)
        return wanted

    async def _read(self, credential: Credential) -> str:
        return await asyncio.to_thread(self._open_credential, credential)

    async def _close(self, name: str, targets: dict[str, Target]) -> None:
        if (known := self._open.pop(name, None)) is not None:
            await known[1].close()
            for target in (known[1].objects, known[1].addons):
                targets.pop(target.name, None)

    def _shared(self) -> Tools:
        if self._tools is None:
            command = HelmCommand(binary=_helm())
            self._tools = Tools(
                renderer=Renderer(command.binary),
                helm=command,
                charts=Charts(
                    command,
                    folder=self._memory.with_name("charts"),
                    checkout=self._checkout,
                ),
            )
        return self._tools


def _sealed(target: str) -> str:
    """The name in the vault: ``kubernetes.project.name``, and no name holds a dot."""
    return target.replace("/", ".")


def _helm() -> str:
    """Without Helm a cluster is still observed; what has to be rendered then fails."""
    try:
        return find_helm()
    except PermanentError:
        return "helm"
