"""Helm as a target: the add-ons of one cluster, each a real release. (I/O)

The engine calls it as it calls every target. Helm writes; what lives is a record of ours
(written ahead, like the record of any unit) and the objects that the release listed,
each with a fingerprint of the fields that Helm holds. Drift is a fingerprint that no
longer matches or an object that is gone; correcting it is another revision. An add-on
for a device that no node has is recorded as withheld, and installed when one comes.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from typing import Any

from reconciler.faults import point
from reconciler.targets.base import Progress
from reconciler.targets.helm.charts import Charts
from reconciler.targets.helm.command import HelmCommand
from reconciler.targets.helm.definitions import Definitions, kinds_of
from reconciler.targets.helm.reader import MADE_BY_HELM, ReleaseReader, fits, say
from reconciler.targets.helm.release import is_stuck, objects
from reconciler.targets.kubernetes.client import Access, Client
from reconciler.targets.kubernetes.discovery import Discovery
from reconciler.targets.kubernetes.health import assess
from reconciler.targets.kubernetes.holding import Holding
from reconciler.targets.kubernetes.manifests import (
    OWNER_LABEL,
    Json,
    ObjectId,
    identify,
)
from reconciler.targets.kubernetes.ownership import HELMS, fingerprint
from reconciler.targets.kubernetes.reader import every
from reconciler.targets.kubernetes.record import Member, Record, record_id
from reconciler.targets.kubernetes.watches import Watches
from reconciler.targets.kubernetes.writer import Writer
from reconciler.targets.precondition import check_precondition
from reconciler.values import Change, Health, Key, Live, Presence, Unit
from renderers.addons import AddonRelease, read_addon
from schemas.errors import FoundryError, PermanentError, TemporaryError

__all__ = ["HelmTarget"]

_HELM_S = 900.0
"""One run of Helm, with the hooks that it waits for itself."""
_READY_S = 900.0
"""Until everything of an add-on is healthy: drivers are built on the node."""
_LOOK_S = 1.0
_KEPT_REVISIONS = "3"
_SPARE_NAMESPACE = "default"
_WATCHED = (
    ("apps/v1", "DaemonSet"),
    ("apps/v1", "Deployment"),
    ("apps/v1", "StatefulSet"),
    ("v1", "ConfigMap"),
    ("v1", "Service"),
)
"""What an add-on runs as and is told by; the rest is seen at the next look."""


class HelmTarget:
    """The add-ons of one cluster. Whoever opened ``client`` closes it."""

    def __init__(
        self,
        name: str,
        client: Client,
        helm: HelmCommand,
        charts: Charts,
        *,
        looking: Client | None = None,
        access: Access,
        owner: str,
        ready_s: float = _READY_S,
    ) -> None:
        self.name = name
        self._client, self._helm, self._charts = client, helm, charts
        self._access, self._owner, self._ready_s = access, owner, ready_s
        looking = looking or client
        self._discovery = Discovery(looking)
        self._reader = ReleaseReader(looking, self._discovery, target=name, owner=owner)
        self._writer = Writer(client, self._discovery, owner=owner, gone_s=_READY_S)
        self._definitions = Definitions(client, self._discovery, helm)
        self._watches = Watches(
            looking, self._discovery, selector=MADE_BY_HELM, whose=HELMS
        )

    async def watch(self, moved: Callable[[], None], stop: asyncio.Event) -> None:
        """Call ``moved`` when what Helm installed is not what it was, until ``stop``."""
        await self._watches.until(stop, _WATCHED, moved)

    async def observe(self, keys: Collection[Key]) -> Mapping[Key, Live]:
        try:
            found = await self._reader.look_all(keys)
            devices = await self._reader.devices(found.values())
        except FoundryError as error:
            return {key: _unknown(key, error) for key in keys}
        return {
            key: _unknown(key, held)
            if isinstance(held, FoundryError)
            else say(key, held, devices)
            for key, held in found.items()
        }

    async def health(self, key: Key) -> Live:
        return (await self.observe([key]))[key]

    async def dry_run(self, change: Change) -> None:
        live, holding = await self._look(change.key)
        check_precondition(change, live)
        if change.unit is None:
            return
        release = read_addon(change.unit.content)
        self._check_ours(release, holding, await self._reader.revisions(release))
        archive = await self._charts.archive(release)
        rendered = await self._helm.run(
            *("template", release.name, str(archive), "--include-crds"),
            *("--namespace", release.namespace, "--skip-tests"),
            values=release.values,
            what=f"render the add-on {release.name}",
            timeout_s=_HELM_S,
        )
        items = [*objects(rendered)]
        brought = {kind for item in items for kind in kinds_of(item)}
        exists = await self._writer.has_namespace(release.namespace)
        home = release.namespace if exists else _SPARE_NAMESPACE
        await every(
            self._rehearse(release, item, home)
            for item in items
            # What is of a kind that the chart brings can only be asked once it did.
            if (item["apiVersion"], item["kind"]) not in brought
        )

    async def apply(self, change: Change, progress: Progress) -> Live:
        key, unit = change.key, change.unit
        live, holding = await self._look(key)
        check_precondition(change, live)
        assert unit is not None, "checked by check_precondition"
        if live.digest == unit.digest and live.health is Health.SERVABLE:
            return live
        release = read_addon(unit.content)
        if live.digest != unit.digest:
            await self._writer.ensure_namespace(record_id(key.ref).namespace)
            revisions = await self._reader.revisions(release)
            self._check_ours(release, holding, revisions)
            if not revisions and not fits(release, await self._reader.every_device()):
                await self._record(unit, unit.digest, {})
                return await self.health(key)
            archive = await self._charts.archive(release)
            # Ahead, with what an earlier revision left: a deletion needs no more.
            known = holding.record.members if holding.record is not None else {}
            await self._record(unit, "", known)
            if revisions:
                await self._definitions.upgrade(archive)
            await self._upgrade(key, unit, release, str(archive), progress)
        lives = await self._until_healthy(key, release, progress)
        if live.digest != unit.digest:
            members = {
                which: Member(fingerprint=fingerprint(item, HELMS))
                for which, item in lives.items()
            }
            await self._record(unit, unit.digest, members)
        return await self.health(key)

    async def delete(self, change: Change, progress: Progress) -> None:
        live, holding = await self._look(change.key)
        check_precondition(change, live)
        if live.presence is not Presence.PRESENT or holding.record is None:
            return
        release = read_addon(holding.record.content)
        if await self._reader.revisions(release):
            progress(change.key, f"uninstalling {release.name}")
            point("helm.uninstall.before")
            await self._helm.run(
                *("uninstall", release.name, "--namespace", release.namespace),
                *("--ignore-not-found", "--wait", "--timeout", f"{_HELM_S:.0f}s"),
                kubeconfig=await self._kubeconfig(),
                what=f"uninstall the add-on {release.name}",
                timeout_s=_HELM_S,
            )
            point("helm.uninstall.after")
        if holding.record_live is not None:
            await self._writer.delete(holding.record.where, holding.record_live)

    async def _kubeconfig(self) -> Mapping[str, Any]:
        """What Helm needs to write to the cluster, with a token that is good now."""
        self._client.check_may_write()
        config = await self._access.kubeconfig()
        if self._access.token is None or (token := await self._access.token()) is None:
            return config
        users = [{**user, "user": {"token": token}} for user in config["users"]]
        return {**config, "users": users}

    async def _look(self, key: Key) -> tuple[Live, Holding]:
        nothing = Holding(record=None, record_live=None, objects={})
        try:
            held = (await self._reader.look_all([key]))[key]
            devices = await self._reader.devices([held])
        except FoundryError as error:
            return _unknown(key, error), nothing
        if isinstance(held, FoundryError):
            return _unknown(key, held), nothing
        return say(key, held, devices), held

    def _check_ours(
        self, release: AddonRelease, holding: Holding, revisions: list[Json]
    ) -> None:
        """Refuse to take over a release that somebody else installed."""
        theirs = [
            revision
            for revision in revisions
            if revision["metadata"]["labels"].get(OWNER_LABEL) != self._owner
        ]
        # Helm labels a revision as late as it writes it: a record tells before.
        if theirs and holding.record is None:
            raise TemporaryError(
                f"cannot create the add-on {release.name}: a release of that name lives "
                f"in {release.namespace}, installed by somebody else",
                hint="uninstall it first, or take the add-on out of the Cluster",
            )

    async def _rehearse(self, release: AddonRelease, item: Json, home: str) -> None:
        """Ask the API server for one object, as it would be created."""
        which = await self._discovery.placed(identify(item), release.namespace)
        if which.namespace == release.namespace:
            which = replace(which, namespace=home)
        metadata = {**item["metadata"], "namespace": which.namespace}
        if not which.namespace:
            del metadata["namespace"]
        try:
            await self._client.apply(
                await self._discovery.path(which),
                {**item, "metadata": metadata},
                force=True,
                dry_run=True,
            )
        except PermanentError as error:
            raise PermanentError(
                f"cannot install the add-on {release.name}: {error}"
            ) from error

    async def _upgrade(
        self,
        key: Key,
        unit: Unit,
        release: AddonRelease,
        archive: str,
        progress: Progress,
    ) -> None:
        for revision in await self._reader.revisions(release):
            if is_stuck(revision):
                # Helm would refuse for ever: "another operation is in progress"
                # (helm-controller#149). Nobody else runs it: one leader writes, and
                # its Helm dies with it.
                name = revision["metadata"]["name"]
                progress(key, f"taking over {name}, which was cut off")
                await self._client.delete(
                    f"/api/v1/namespaces/{release.namespace}/secrets/{name}",
                    uid=revision["metadata"]["uid"],
                )
        progress(key, f"installing {release.name} {release.version}")
        point("helm.upgrade.before")
        await self._helm.run(
            *("upgrade", release.name, archive, "--install"),
            *("--namespace", release.namespace, "--create-namespace"),
            *("--history-max", _KEPT_REVISIONS, "--timeout", f"{_HELM_S:.0f}s"),
            *("--labels", f"{OWNER_LABEL}={self._owner}"),
            *("--description", f"bud {unit.digest}"),
            values=release.values,
            kubeconfig=await self._kubeconfig(),
            what=f"install the add-on {release.name}",
            timeout_s=_HELM_S,
        )
        point("helm.upgrade.after")

    async def _until_healthy(
        self, key: Key, release: AddonRelease, progress: Progress
    ) -> dict[ObjectId, Json]:
        """Wait until every object of the release is rolled; what lives then.

        Raises:
            TemporaryError: not in time; the next run goes on waiting.
        """
        deadline = time.monotonic() + self._ready_s
        while True:
            lives, waits = {}, ""
            for which, live in (await self._reader.installed(release)).items():
                if live is None:
                    waits = waits or f"{which} is not there"
                    continue
                lives[which] = live
                health, why = assess(live)
                if health is not Health.ROLLED:
                    waits = waits or f"{which}: {why}"
            if not waits:
                return lives
            if time.monotonic() > deadline:
                raise TemporaryError(f"cannot bring {key} to health: {waits}")
            progress(key, waits)
            await asyncio.sleep(_LOOK_S)

    async def _record(
        self, unit: Unit, digest: str, members: Mapping[ObjectId, Member]
    ) -> None:
        record = Record(
            ref=unit.key.ref,
            owner=self._owner,
            digest=digest,
            content=unit.content,
            members=members,
        )
        await self._writer.record(record)


def _unknown(key: Key, error: FoundryError) -> Live:
    detail = str(error).partition("\n")[0]
    return Live(key=key, presence=Presence.UNKNOWN, detail=detail)
