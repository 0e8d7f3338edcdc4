"""Kubernetes as a target: one cluster, many objects for each of ours. (I/O)

The engine calls it as it calls every target. A unit is a release (``renderers.helm``);
what lives of it is a record and the objects that the record lists. Reads are in
``reader``, writes in ``writer``, what is seen in ``holding``; this module puts them in
the order that the contract asks for, and waits.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial

from reconciler.targets.base import Progress
from reconciler.targets.kubernetes.capacity import Way, in_place
from reconciler.targets.kubernetes.client import Client
from reconciler.targets.kubernetes.credentials import Credentials, fill
from reconciler.targets.kubernetes.diff import (
    UnitDiff,
    compare,
    compare_objects,
    secrets_of,
)
from reconciler.targets.kubernetes.discovery import Discovery
from reconciler.targets.kubernetes.helm import Renderer
from reconciler.targets.kubernetes.holding import Holding, describe
from reconciler.targets.kubernetes.manifests import (
    OWNER_LABEL,
    SCALERS,
    Json,
    ObjectId,
    identify,
    mark,
    part_of,
)
from reconciler.targets.kubernetes.pods import explain
from reconciler.targets.kubernetes.probe import Probe, serves_model
from reconciler.targets.kubernetes.reader import WATCHED, Reader, every
from reconciler.targets.kubernetes.record import record_id
from reconciler.targets.kubernetes.rehearsal import Rehearsal, rehearse
from reconciler.targets.kubernetes.room import Room
from reconciler.targets.kubernetes.watches import Watches
from reconciler.targets.kubernetes.writer import Writer
from reconciler.targets.precondition import check_precondition
from reconciler.values import Action, Change, Health, Key, Live, Presence, Preview, Unit
from renderers.helm import read_release
from renderers.kubernetes import namespace_of
from schemas.errors import FoundryError, PermanentError, TemporaryError

__all__ = ["KubernetesTarget"]

# Between two looks at a rollout when no event comes: a watch may be down, or, in a
# command that runs once, there is none. A thousand rollouts that take long are not to
# be a thousand reads every two seconds.
_LOOK_S = (1.0, 15.0)
_READY_S = 600.0
_WRITING = 32
"""Units written at once: what a crash may leave half done."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rehearsed:
    digest: str
    version: str
    """Of the live unit that it was rehearsed on."""
    objects: Mapping[ObjectId, Rehearsal]


class KubernetesTarget:
    """One cluster. ``close`` it at the end."""

    in_hand = 100_000
    """Rollouts that are waited for cost nothing; requests and writing are bounded."""

    def __init__(
        self,
        name: str,
        client: Client,
        renderer: Renderer,
        *,
        looking: Client | None = None,
        owner: str,
        credentials: Credentials,
        probe: Probe | None = None,
        gone_s: float = 120.0,
    ) -> None:
        """``looking`` reads; without it, ``client`` does that too."""
        self.name = name
        self._client, self._renderer, self._owner = client, renderer, owner
        self._credentials = credentials
        self._looking = looking = looking or client
        self._discovery = Discovery(looking)
        self._reader = Reader(looking, self._discovery, target=name, owner=owner)
        self._writer = Writer(client, self._discovery, owner=owner, gone_s=gone_s)
        self._watches = Watches(
            looking, self._discovery, selector=f"{OWNER_LABEL}={owner}"
        )
        self._probe = probe or serves_model(looking)
        self._room = Room(looking)
        self._writing = asyncio.Semaphore(_WRITING)
        self._rehearsed: dict[Key, _Rehearsed] = {}
        self._answered: dict[Key, tuple[str, str]] = {}
        """Key -> UID and version of the unit that answered a request."""

    @property
    def writes(self) -> int:
        """Requests so far that were to change something; a dry run is none."""
        return self._client.writes

    async def close(self) -> None:
        """Close what is open; the next call opens it again."""
        for client in {self._client, self._looking}:
            await client.__aexit__(None, None, None)

    async def watch(self, moved: Callable[[], None], stop: asyncio.Event) -> None:
        """Call ``moved`` when an object of ours is not what it was, until ``stop``."""
        await self._watches.until(stop, WATCHED, moved)

    async def observe(self, keys: Collection[Key]) -> Mapping[Key, Live]:
        found = await self._reader.look_all(keys)
        answers = await every(self._answer(key, found[key]) for key in sorted(found))
        return {live.key: live for live in answers}

    async def dry_run(self, change: Change) -> None:
        if change.action is Action.CREATE and change.unit is not None:
            # Seen to be absent by the plan; should it have come since, the API server
            # says so, and the write looks once more.
            absent = Live(key=change.key, presence=Presence.ABSENT)
            await self._rehearse(change.unit, absent, _NOTHING)
            return
        live, holding = await self._look(change)
        check_precondition(change, live)
        if change.unit is None:
            await self._dry_delete(holding)
        elif live.digest != change.unit.digest:
            await self._rehearse(change.unit, live, holding)

    async def preview(self, change: Change) -> Preview | None:
        """Say how a rollout gets in: beside what serves, in its place, or not yet."""
        if change.unit is None:
            return None
        holding = _NOTHING  # a plan that creates has just seen that there is none
        if change.action is not Action.CREATE:
            _, holding = await self._look(change)
        way = await self._room.surge(change.unit, holding)
        if way is None:
            return None
        told = (way.why,) if way.way is not Way.SURGE else ()
        return Preview(summary=f"rollout: {way.way}", disruption=told)

    async def diff(self, change: Change) -> UnitDiff:
        """Say what ``change`` would change: intended, rendered and live.

        Raises:
            PermanentError: the API server refuses it.
            TemporaryError: what lives is unknown, or moved.
        """
        live, holding = await self._look(change)
        check_precondition(change, live)
        lives = [item for item in holding.objects.values() if item is not None]
        old = holding.record.content if holding.record is not None else b""
        was = await self._rendered(old)
        if change.unit is None:
            gone = compare_objects(lives, [], secrets=secrets_of(lives))
            return UnitDiff(
                intent=compare(_values(old), {}, where=str(change.key.ref)),
                rendered=compare_objects(was, []),
                live=gone,
            )
        self._rehearsed.pop(change.key, None)
        objects = await self._rehearse(change.unit, live, holding)
        predicted = [rehearsal.predicted for rehearsal in objects.values()]
        secrets = secrets_of([*lives, *predicted])
        new = change.unit.content
        return UnitDiff(
            intent=compare(_values(old), _values(new), where=str(change.key.ref)),
            rendered=compare_objects(was, await self._rendered(new)),
            live=compare_objects(lives, predicted, secrets=secrets),
        )

    async def apply(self, change: Change, progress: Progress) -> Live:
        unit = change.unit
        where = part_of(record_id(change.key.ref))
        told = partial(progress, change.key)
        # Listening before the write: a small rollout ends before the write returns.
        with self._watches.listening(where, told) as moved:
            async with self._writing:
                live, holding = await self._look(change)
                check_precondition(change, live)
                assert unit is not None, "checked by check_precondition"
                if live.digest != unit.digest:
                    objects = await self._rehearse(unit, live, holding)
                    self._rehearsed.pop(unit.key, None)
                    await self._writer.ensure_namespace(
                        namespace_of(unit.key.ref.project)
                    )
                    holding = await self._writer.write(unit, holding, objects, progress)
            return await self._until_servable(unit, holding, moved, progress)

    async def delete(self, change: Change, progress: Progress) -> None:
        live, holding = await self._look(change)
        check_precondition(change, live)
        if live.presence is Presence.PRESENT:
            await self._writer.remove(change.key, holding, progress)
        self._answered.pop(change.key, None)

    async def health(self, key: Key) -> Live:
        self._answered.pop(key, None)
        try:
            return await self._answer(key, await self._reader.look(key))
        except FoundryError as error:
            return _unknown(key, error)

    async def _look(self, change: Change) -> tuple[Live, Holding]:
        # What is to be created was just seen to be absent, orphans and all; should one
        # have come since, its dry run finds it, or the create of its record.
        orphans = change.action is not Action.CREATE
        known = self._rehearsed.get(change.key)
        if not orphans and known is not None and not known.version:
            return Live(key=change.key, presence=Presence.ABSENT), _NOTHING
        try:
            holding = await self._reader.look(change.key, orphans=orphans)
        except FoundryError as error:
            return _unknown(change.key, error), _NOTHING
        return describe(change.key, holding), holding

    async def _answer(self, key: Key, found: Holding | FoundryError) -> Live:
        """Describe a unit, and ask it for an answer once it is rolled."""
        if isinstance(found, FoundryError):
            return _unknown(key, found)
        live = describe(key, found)
        if live.health is not Health.ROLLED:
            self._answered.pop(key, None)
            return live
        service = next(
            (w for w, o in found.objects.items() if o and w.kind == "Service"), None
        )
        if service is None or _is_idle(found):
            return replace(live, health=Health.SERVABLE)
        if self._answered.get(key) != (live.uid, live.version):
            try:
                await self._probe(service, key.ref.name)
            except TemporaryError as error:
                return replace(live, detail=str(error))
            self._answered[key] = live.uid, live.version
        return replace(live, health=Health.SERVABLE)

    async def _rehearse(
        self, unit: Unit, live: Live, holding: Holding
    ) -> Mapping[ObjectId, Rehearsal]:
        """Dry-run every object of ``unit``; remembered until something moved."""
        known = self._rehearsed.get(unit.key)
        if known and (known.digest, known.version) == (unit.digest, live.version):
            return known.objects
        where = record_id(unit.key.ref)
        rendered = await self._renderer.render(unit.content)
        manifests = [
            mark(m, key=unit.key, owner=self._owner, set_id=part_of(where))
            for m in rendered
        ]
        manifests = [await fill(m, self._credentials) for m in manifests]
        if await self._drains(unit, live, holding):
            manifests = [in_place(manifest) for manifest in manifests]
        exists = await self._writer.has_namespace(where.namespace)
        wanted = [identify(manifest) for manifest in manifests]
        unscaled = _loses_scaler(holding, wanted)
        rehearsals = await every(
            rehearse(
                self._client,
                self._discovery,
                manifest,
                holding.objects.get(which),
                namespace_exists=exists,
                owner=self._owner,
                unscaled=unscaled,
            )
            for which, manifest in zip(wanted, manifests, strict=True)
        )
        objects = dict(zip(wanted, rehearsals, strict=True))
        # Kept until the write, for a whole plan: without what only a diff shows.
        kept = {which: replace(r, predicted={}) for which, r in objects.items()}
        self._rehearsed[unit.key] = _Rehearsed(
            digest=unit.digest, version=live.version, objects=kept
        )
        return objects

    async def _drains(self, unit: Unit, live: Live, holding: Holding) -> bool:
        if live.presence is not Presence.PRESENT:
            return False
        way = await self._room.surge(unit, holding)
        return way is not None and way.way is Way.DRAIN

    async def _rendered(self, content: bytes) -> list[Json]:
        """Manifests of a release; none of one whose chart this version has no more."""
        if not content:
            return []
        with suppress(PermanentError):
            return [dict(item) for item in await self._renderer.render(content)]
        return []

    async def _dry_delete(self, holding: Holding) -> None:
        doomed = {which: live for which, live in holding.objects.items() if live}
        paths = await every(self._discovery.path(which) for which in doomed)
        await every(
            self._client.delete(path, uid=live["metadata"]["uid"], dry_run=True)
            for path, live in zip(paths, doomed.values(), strict=True)
        )

    async def _until_servable(
        self, unit: Unit, holding: Holding, moved: asyncio.Event, progress: Progress
    ) -> Live:
        """Wait for events and look; what serves meanwhile is the cluster's to keep.

        Raises:
            TemporaryError: no room, or somebody writes against us.
            PermanentError: the new revision does not start.
        """
        key = unit.key
        deadline = time.monotonic() + _patience(unit)
        pause, longest = _LOOK_S
        while True:
            live = await self._answer(key, holding)
            if live.digest != unit.digest:
                raise TemporaryError(
                    f"cannot apply {key}: it was changed meanwhile ({live.detail})"
                )
            if live.health is Health.SERVABLE:
                return live
            left = deadline - time.monotonic()
            if live.health is Health.DEGRADED or left <= 0:
                raise await self._failure(key, holding, live)
            progress(key, live.detail)
            with suppress(TimeoutError):
                async with asyncio.timeout(min(pause, left)):
                    await moved.wait()
            pause = _LOOK_S[0] if moved.is_set() else min(2 * pause, longest)
            moved.clear()
            holding = await self._reader.refresh(holding)

    async def _failure(self, key: Key, holding: Holding, live: Live) -> FoundryError:
        reason, no_room = await explain(self._client, holding)
        message = f"cannot bring {key} to serve: {reason or live.detail}"
        if no_room:
            return TemporaryError(
                message, hint="what served before goes on; free room, or add nodes"
            )
        if not reason and live.health is Health.APPLIED:
            # Nothing says that it is broken: it is slow, or its controller is.
            return TemporaryError(message, hint="what served before goes on serving")
        return PermanentError(message, hint="what served before goes on serving")


_NOTHING = Holding(record=None, record_live=None, objects={})


def _unknown(key: Key, error: FoundryError) -> Live:
    detail = str(error).partition("\n")[0]
    return Live(key=key, presence=Presence.UNKNOWN, detail=detail)


def _values(content: bytes) -> Mapping[str, object]:
    return read_release(content).values if content else {}


def _is_idle(holding: Holding) -> bool:
    """Scaled to zero: there is nobody to ask, and nothing is wrong."""
    workloads = [
        live
        for live in holding.objects.values()
        if live and "replicas" in live.get("spec", {})
    ]
    return bool(workloads) and all(w["spec"]["replicas"] == 0 for w in workloads)


def _loses_scaler(holding: Holding, wanted: Collection[ObjectId]) -> bool:
    """Whether an autoscaler of ours goes, or went before a crash: the record knows."""
    record = holding.record
    old = {*holding.objects, *(record.members if record is not None else ())}
    return any(which.kind in SCALERS for which in old.difference(wanted))


def _patience(unit: Unit) -> float:
    """How long this unit may take to be servable, in seconds."""
    values = read_release(unit.content).values
    with suppress(KeyError):
        return float(values["rollout"]["readySeconds"])
    return float(values.get("deadlineSeconds", _READY_S))
