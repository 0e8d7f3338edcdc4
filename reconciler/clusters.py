"""The Kubernetes clusters of an environment, each a target while it is needed (I/O).

The pipeline asks for them once a look. A cluster is opened when it is declared, and
stays open as long as we own anything there: deleting needs no desired state, so
where its kubeconfig is (never the kubeconfig) is remembered beside the store. One
that cannot be opened is a target that knows nothing, and delays nobody else.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import yaml

from reconciler.credentials import read_credential
from reconciler.render import cluster_target
from reconciler.targets.base import Progress, Target
from reconciler.targets.kubernetes import Client, KubernetesTarget, Renderer, find_helm
from reconciler.values import Change, Desired, Key, Live, Presence
from schemas.cluster import Cluster
from schemas.errors import FoundryError, PermanentError, TemporaryError
from schemas.objects import Credential

__all__ = ["Clusters"]


class Clusters:
    """``close`` them at the end."""

    def __init__(self, memory: Path, *, owner: str, checkout: Path) -> None:
        """``memory`` is a file of ours; ``owner`` marks our objects in a cluster."""
        self._memory, self._owner, self._checkout = memory, owner, checkout
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
        for name, reference in wanted.items():
            known = self._open.get(name)
            if known is not None and known[0] == reference:
                continue
            await self._close(name)
            try:
                target = await self._connect(name, reference)
            except FoundryError as error:
                # Tried again at the next look: nothing is kept of it.
                targets[name] = _Unreachable(name, str(error))
            else:
                self._open[name] = reference, target
                targets[name] = target

    async def close(self) -> None:
        for name in [*self._open]:
            await self._close(name)

    def _remember(self, desired: Desired, used: Collection[str]) -> dict[str, str]:
        """Target -> where its kubeconfig is, as JSON."""
        known: dict[str, str] = {}
        if self._memory.exists():
            known = json.loads(self._memory.read_text())
        declared = {
            cluster_target(item): item.spec.credentials.model_dump_json()
            for item in desired.objects.values()
            if isinstance(item, Cluster)
            and item.spec.credentials is not None
            and item.spec.provider != "local"
        }
        kept = {n: r for n, r in known.items() if n in used and n not in declared}
        wanted = declared | kept
        if wanted != known:
            part = self._memory.with_suffix(".part")
            part.write_text(json.dumps(wanted))
            part.replace(self._memory)
        return wanted

    async def _connect(self, name: str, reference: str) -> KubernetesTarget:
        credential = Credential.model_validate_json(reference)
        kubeconfig = _kubeconfig(await self._read(credential))
        if self._renderer is None:
            self._renderer = Renderer(find_helm())
        return KubernetesTarget(
            name,
            await Client.from_kubeconfig(kubeconfig),
            self._renderer,
            owner=self._owner,
            credentials=self._read,
        )

    async def _read(self, credential: Credential) -> str:
        return await asyncio.to_thread(read_credential, credential, self._checkout)

    async def _close(self, name: str) -> None:
        if (known := self._open.pop(name, None)) is not None:
            await known[1].close()


def _kubeconfig(text: str) -> dict[str, Any]:
    try:
        found = yaml.safe_load(text)
    except yaml.YAMLError as error:
        # Without the parser's words: they quote the file, and it holds a key.
        raise PermanentError("cannot read kubeconfig: it is no YAML") from error
    if not isinstance(found, dict):
        raise PermanentError("cannot read kubeconfig: it is no mapping")
    return found


class _Unreachable:
    """A cluster that could not be opened: nothing is known, nothing is written."""

    def __init__(self, name: str, why: str) -> None:
        self.name, self._why = name, why

    async def observe(self, keys: Collection[Key]) -> Mapping[Key, Live]:
        return {key: self._unknown(key) for key in keys}

    async def dry_run(self, _change: Change) -> None:
        raise TemporaryError(f"cannot reach {self.name}: {self._why}")

    async def apply(self, change: Change, _progress: Progress) -> Live:
        raise TemporaryError(f"cannot change {change.key}: {self._why}")

    async def delete(self, change: Change, _progress: Progress) -> None:
        raise TemporaryError(f"cannot delete {change.key}: {self._why}")

    async def health(self, key: Key) -> Live:
        return self._unknown(key)

    def _unknown(self, key: Key) -> Live:
        return Live(key=key, presence=Presence.UNKNOWN, detail=self._why)
