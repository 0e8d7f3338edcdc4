"""Writes of one unit, in the order that survives a crash. (I/O)

The record first, with every object that is about to be ours; then an autoscaler that is
no longer wanted goes, for it would write against us; then the objects, a wave at a
time; then the rest that is not wanted goes, in reverse; last the record is told what is
confirmed gone. Killed after any line, the record knows at least all that lives. The
target calls it; it decides nothing.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping
from http import HTTPStatus

from reconciler.faults import point
from reconciler.targets.base import Progress
from reconciler.targets.kubernetes.client import Client
from reconciler.targets.kubernetes.discovery import Discovery
from reconciler.targets.kubernetes.holding import Holding
from reconciler.targets.kubernetes.manifests import (
    SCALERS,
    Json,
    ObjectId,
    waves,
)
from reconciler.targets.kubernetes.ownership import fingerprint
from reconciler.targets.kubernetes.reader import every
from reconciler.targets.kubernetes.record import Member, Record, read_record
from reconciler.targets.kubernetes.rehearsal import Rehearsal
from reconciler.targets.kubernetes.transport import ApiRefusal
from reconciler.values import Key, Unit
from schemas.errors import PermanentError, TemporaryError

__all__ = ["Writer"]

_HANDOVER = "bud-foundry-handover"
# One that goes meanwhile fails the write, and the next look asks again.
_THERE_S = 5.0


class Writer:
    def __init__(
        self, client: Client, discovery: Discovery, *, owner: str, gone_s: float
    ) -> None:
        self._client, self._discovery, self._owner = client, discovery, owner
        self._gone_s = gone_s
        self._asking = asyncio.Lock()
        self._there: dict[str, tuple[float, bool]] = {}
        """Namespace -> until when the answer is good, and the answer."""

    async def has_namespace(self, name: str) -> bool:
        """Whether it is there, or was a moment ago: a thousand units share a few."""
        async with self._asking:
            until, there = self._there.get(name, (0.0, False))
            if time.monotonic() >= until:
                found = await self._client.get(f"/api/v1/namespaces/{name}")
                there = found is not None
                self._there[name] = time.monotonic() + _THERE_S, there
            return there

    async def ensure_namespace(self, name: str) -> None:
        """Make the namespace if there is none; one that is there is never touched,
        and none is ever deleted (flux2#1366)."""
        if await self.has_namespace(name):
            return
        labels = {
            "app.kubernetes.io/managed-by": "bud-foundry",
            "pod-security.kubernetes.io/enforce": "restricted",
        }
        manifest = {
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": {"name": name, "labels": labels},
        }
        path = f"/api/v1/namespaces/{name}"
        async with self._asking:
            if await self._client.get(path) is None:  # it may have come since
                await self._client.apply(path, manifest, force=False, dry_run=False)
            self._there[name] = time.monotonic() + _THERE_S, True

    async def write(
        self,
        unit: Unit,
        holding: Holding,
        rehearsals: Mapping[ObjectId, Rehearsal],
        progress: Progress,
    ) -> Holding:
        """Make ``unit`` live where ``holding`` does; what the server said lives now."""
        wanted = {w: Member(fingerprint=r.fingerprint) for w, r in rehearsals.items()}
        old = set(holding.record.members if holding.record else ())
        old |= {which for which, live in holding.objects.items() if live is not None}
        leaving = {which: Member(leaving=True) for which in old - set(wanted)}
        record = Record(
            ref=unit.key.ref,
            owner=self._owner,
            digest=unit.digest,
            content=unit.content,
            members={**leaving, **wanted},
        )
        record_live = await self.record(record, new=holding.record is None)
        for which, rehearsal in rehearsals.items():
            if rehearsal.adopted:
                progress(unit.key, f"adopting {which}, made by {rehearsal.adopted}")
        scalers = [which for which in leaving if which.kind in SCALERS]
        await self._remove(unit.key, scalers, holding.objects, progress)
        written, lives = dict(wanted), {w: holding.objects.get(w) for w in wanted}
        for wave in waves(rehearsals):
            progress(unit.key, f"writing {', '.join(w.kind for w in wave)}")
            moved = [w for w in wave if not rehearsals[w].unchanged]
            results = await every(self._apply(w, rehearsals[w]) for w in moved)
            for which, live in zip(moved, results, strict=True):
                written[which] = Member(fingerprint=fingerprint(live))
                lives[which] = live
        rest = leaving.keys() - set(scalers)
        await self._remove(unit.key, rest, holding.objects, progress)
        if leaving or written != wanted:
            # A webhook may answer a dry run otherwise than a write: what is promised
            # is what was written.
            record = Record(
                ref=record.ref,
                owner=record.owner,
                digest=record.digest,
                content=record.content,
                members=written,
            )
            record_live = await self.record(record)
        return Holding(record=record, record_live=record_live, objects=lives)

    async def remove(self, key: Key, holding: Holding, progress: Progress) -> None:
        """Delete all of a unit, then its record."""
        there = [which for which, live in holding.objects.items() if live is not None]
        await self._remove(key, there, holding.objects, progress)
        if holding.record is not None and holding.record_live is not None:
            where = holding.record.where
            await self.delete(where, holding.record_live)

    async def record(self, record: Record, *, new: bool = False) -> Json:
        """Write a record, before and after what it lists; ``new`` where none was."""
        point("kubernetes.record.before")
        path = await self._discovery.path(record.where)
        live = await (
            self._first(path, record)
            if new
            else self._client.apply(path, record.manifest(), force=True, dry_run=False)
        )
        point("kubernetes.record.after")
        return live

    async def _first(self, path: str, record: Record) -> Json:
        """Create a record: one that came meanwhile is never written over."""
        try:
            return await self._client.create(path.rpartition("/")[0], record.manifest())
        except ApiRefusal as refusal:
            if refusal.status != HTTPStatus.CONFLICT:
                raise
            # The answer to an attempt of ours may have been lost on its way.
            live = await self._client.get(path)
            if live is not None and read_record(live) == record:
                return live
            raise TemporaryError(
                f"cannot create {record.ref}: it has come meanwhile",
                hint="look again: the next plan starts from what lives now",
            ) from refusal

    async def _apply(self, which: ObjectId, rehearsal: Rehearsal) -> Json:
        path = await self._discovery.path(which)
        if rehearsal.handover is not None:
            await self._client.apply(
                path,
                rehearsal.handover,
                force=True,
                dry_run=False,
                manager=_HANDOVER,
            )
        point("kubernetes.apply.before")
        try:
            live = await self._client.apply(
                path, rehearsal.manifest, force=rehearsal.force, dry_run=False
            )
        except ApiRefusal as refusal:
            if (
                refusal.status == HTTPStatus.CONFLICT
            ):  # somebody wrote since the rehearsal
                raise TemporaryError(
                    f"cannot apply {which}: {'; '.join(refusal.causes[:3])}"
                ) from refusal
            raise
        point("kubernetes.apply.after")
        return live

    async def _remove(
        self,
        key: Key,
        doomed: Iterable[ObjectId],
        lives: Mapping[ObjectId, Json | None],
        progress: Progress,
    ) -> None:
        """Delete in reverse waves; a wave waits until the one before is really gone."""
        for wave in reversed(waves(doomed)):
            there = [(which, live) for which in wave if (live := lives.get(which))]
            if there:
                progress(key, f"deleting {', '.join(w.kind for w, _ in there)}")
                await every(self.delete(which, live) for which, live in there)

    async def delete(self, which: ObjectId, live: Json) -> None:
        """Delete what was just read, and return once it is gone."""
        path, uid = await self._discovery.path(which), live["metadata"]["uid"]
        point("kubernetes.delete.before")
        try:
            await self._client.delete(path, uid=uid)
        except ApiRefusal as refusal:
            if refusal.status != HTTPStatus.CONFLICT:
                raise PermanentError(f"cannot delete {which}: {refusal}") from refusal
            return  # another object has the name now: ours is gone
        point("kubernetes.delete.after")
        await self._gone(which, path, uid)

    async def _gone(self, which: ObjectId, path: str, uid: str) -> None:
        deadline, pause = time.monotonic() + self._gone_s, 0.05
        while True:
            live = await self._client.get(path)
            if live is None or live["metadata"]["uid"] != uid:
                return
            if time.monotonic() > deadline:
                held = ", ".join(live["metadata"].get("finalizers") or ("nothing",))
                raise TemporaryError(
                    f"cannot confirm that {which} is gone after {self._gone_s:.0f} s: "
                    f"held by {held}",
                    hint="whoever owns that finalizer has not finished its work",
                )
            await asyncio.sleep(pause)
            pause = min(2 * pause, 2.0)
