"""What lives of the add-ons of one cluster, read. (I/O: reads only)

The Helm target asks it before each write and to observe. A read that fails is the reason
why an add-on is unknown, never an absence (argo-cd#18780).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace

from reconciler.targets.helm.release import manifest_of, newest, objects, selector
from reconciler.targets.kubernetes.client import Client
from reconciler.targets.kubernetes.discovery import Discovery
from reconciler.targets.kubernetes.holding import Holding, describe
from reconciler.targets.kubernetes.manifests import (
    OWNER_LABEL,
    Json,
    ObjectId,
    identify,
)
from reconciler.targets.kubernetes.ownership import HELMS
from reconciler.targets.kubernetes.reader import Reader, every
from reconciler.targets.kubernetes.record import (
    RECORD_LABEL,
    RELEASE,
    Record,
    read_record,
    unit_key,
)
from reconciler.values import Health, Key, Live, Presence
from renderers.addons import AddonRelease, read_addon
from schemas.errors import FoundryError

__all__ = ["MADE_BY_HELM", "ReleaseReader", "fits", "say"]

MADE_BY_HELM = "app.kubernetes.io/managed-by=Helm"
"""Helm labels whatever it installs, also what others install with it."""
_DEVICE_LABEL = "feature.node.kubernetes.io/pci-"

Found = Mapping[Key, Holding | FoundryError]


class ReleaseReader:
    def __init__(
        self, client: Client, discovery: Discovery, *, target: str, owner: str
    ) -> None:
        self._client, self._discovery = client, discovery
        self._target, self._owner = target, owner
        self._reader = Reader(client, discovery, target=target, owner=owner)

    async def look_all(self, keys: Collection[Key]) -> Found:
        """Read every add-on of ours, and those of ``keys`` that are not there.

        Never raises for one object.
        """
        path = await self._discovery.collection("v1", "ConfigMap")
        lives, _ = await self._client.list(
            path, selector=f"{OWNER_LABEL}={self._owner},{RECORD_LABEL}={RELEASE}"
        )
        found: dict[Key, Holding | FoundryError] = {}
        for item in lives:
            live = {"apiVersion": "v1", "kind": "ConfigMap", **item}
            try:
                key = unit_key(live, self._target)
            except FoundryError:
                continue  # nobody can say whose it is
            try:
                found[key] = _holding(read_record(live), live)
            except FoundryError as error:
                found[key] = error
        for key in keys:
            found.setdefault(key, _ABSENT)
        return await self._filled(found)

    async def _filled(self, found: Found) -> Found:
        """Add the objects, a list for each kind that any record names."""
        held = [h for h in found.values() if isinstance(h, Holding) and h.record]
        kinds = {(w.api_version, w.kind) for h in held for w in h.objects}
        lists = await self._reader.lists(kinds, MADE_BY_HELM)
        filled: dict[Key, Holding | FoundryError] = {}
        for key, holding in found.items():
            if isinstance(holding, FoundryError):
                filled[key] = holding
                continue
            lives: dict[ObjectId, Json | None] = {}
            filled[key] = replace(holding, objects=lives)
            for which in holding.objects:
                some = lists[which.api_version, which.kind]
                if isinstance(some, FoundryError):
                    filled[key] = some
                    break
                lives[which] = some.get(which)
        return filled

    async def devices(self, found: Iterable[Holding | FoundryError]) -> str:
        """The devices of the nodes, where any add-on in ``found`` asks for one."""
        for held in found:
            record = held.record if isinstance(held, Holding) else None
            if record is not None and read_addon(record.content).device:
                return await self.every_device()
        return ""

    async def every_device(self) -> str:
        """The labels of every device that Node Feature Discovery found, in one text."""
        nodes, _ = await self._client.list("/api/v1/nodes")
        return " ".join(
            name
            for node in nodes
            for name, value in (node["metadata"].get("labels") or {}).items()
            if name.startswith(_DEVICE_LABEL) and value == "true"
        )

    async def revisions(self, release: AddonRelease) -> list[Json]:
        path = f"/api/v1/namespaces/{release.namespace}/secrets"
        found, _ = await self._client.list(path, selector=selector(release.name))
        return found

    async def installed(self, release: AddonRelease) -> dict[ObjectId, Json | None]:
        """Every object of the newest revision, None where it is gone.

        Raises:
            FoundryError: some of it cannot be read.
        """
        revision = newest(await self.revisions(release))
        if revision is None:
            return {}
        named = [identify(item) for item in objects(manifest_of(revision))]
        members = await every(
            self._discovery.placed(which, release.namespace) for which in named
        )
        paths = await every(self._discovery.path(which) for which in members)
        lives = await every(self._client.get(path) for path in paths)
        return dict(zip(members, lives, strict=True))


_ABSENT = Holding(record=None, record_live=None, objects={}, whose=HELMS)


def _holding(record: Record, live: Json) -> Holding:
    return Holding(
        record=record,
        record_live=live,
        objects=dict.fromkeys(record.members),
        whose=HELMS,
    )


def say(key: Key, holding: Holding, devices: str) -> Live:
    """Describe an add-on: installed, withheld for want of a device, or neither."""
    live = describe(key, holding)
    record = holding.record
    if live.presence is Presence.ABSENT or record is None:
        return live
    release = read_addon(record.content)
    if not record.digest:
        return replace(live, digest="", detail="its installation did not end")
    if not record.members:
        if fits(release, devices):
            detail = f"withheld until now, and a node has a device of {release.device}"
            return replace(live, digest="", detail=detail)
        detail = f"not installed: no node has a device of PCI vendor {release.device}"
        return replace(live, health=Health.SERVABLE, detail=detail)
    rolled = live.health is Health.ROLLED
    return replace(live, health=Health.SERVABLE) if rolled else live


def fits(release: AddonRelease, devices: str) -> bool:
    return not release.device or release.device in devices
