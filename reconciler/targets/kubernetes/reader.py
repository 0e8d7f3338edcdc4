"""What lives in one cluster, read. (I/O: reads only)

The target calls ``look`` before each write and ``look_all`` to observe. Every answer
comes from consistent reads, never from a cache: a watch only says when to look. A
read that fails becomes the reason why a unit is unknown, never an absence
(argo-cd#18780).
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from reconciler.targets.kubernetes.client import Client
from reconciler.targets.kubernetes.discovery import Discovery
from reconciler.targets.kubernetes.health import takes_time
from reconciler.targets.kubernetes.holding import Holding
from reconciler.targets.kubernetes.manifests import (
    OWNER_LABEL,
    PART_OF_LABEL,
    Json,
    ObjectId,
    identify,
    part_of,
)
from reconciler.targets.kubernetes.ownership import is_ours
from reconciler.targets.kubernetes.record import (
    RECORD_LABEL,
    UNIT,
    Record,
    read_record,
    record_id,
    unit_key,
)
from reconciler.values import Key
from schemas.errors import FoundryError

__all__ = ["WATCHED", "Found", "Reader", "every"]

Found = Mapping[Key, Holding | FoundryError]
"""A unit's holding, or why nobody can say."""

T = TypeVar("T")
Kind = tuple[str, str]
# The kinds our charts use that every cluster has: searched even where no record
# says so, because a record may have been deleted behind our back.
_ALWAYS: tuple[Kind, ...] = (
    ("apps/v1", "Deployment"),
    ("autoscaling/v2", "HorizontalPodAutoscaler"),
    ("batch/v1", "Job"),
    ("networking.k8s.io/v1", "Ingress"),
    ("networking.k8s.io/v1", "NetworkPolicy"),
    ("policy/v1", "PodDisruptionBudget"),
    ("v1", "PersistentVolumeClaim"),
    ("v1", "Secret"),
    ("v1", "Service"),
    ("v1", "ServiceAccount"),
)


_BROUGHT: tuple[Kind, ...] = (
    ("external-secrets.io/v1", "ExternalSecret"),
    ("gateway.networking.k8s.io/v1", "HTTPRoute"),
    ("keda.sh/v1alpha1", "ScaledObject"),
    ("leaderworkerset.x-k8s.io/v1", "LeaderWorkerSet"),
    ("monitoring.coreos.com/v1", "ServiceMonitor"),
)
WATCHED: frozenset[Kind] = frozenset({*_ALWAYS, *_BROUGHT, ("v1", "ConfigMap")})
"""Kinds whose events tell that something of ours moved."""


class Reader:
    def __init__(
        self, client: Client, discovery: Discovery, *, target: str, owner: str
    ) -> None:
        self._client, self._discovery = client, discovery
        self._target, self._owner = target, owner

    async def look(self, key: Key, *, orphans: bool = True) -> Holding:
        """Read one unit; ``orphans`` also searches for what no record lists.

        Raises:
            FoundryError: some of it cannot be read.
        """
        where = record_id(key.ref)
        live = await self._client.get(await self._discovery.path(where))
        if live is None and not orphans:
            return Holding(record=None, record_live=None, objects={})
        if live is None:
            lists = await self.lists(_ALWAYS, f"{PART_OF_LABEL}={part_of(where)}")
            objects: dict[ObjectId, Json | None] = {}
            for found in lists.values():
                if isinstance(found, FoundryError):
                    raise found
                objects.update(found)
            return Holding(record=None, record_live=None, objects=objects)
        record = read_record(live)
        return Holding(
            record=record, record_live=live, objects=await self._members(record)
        )

    async def refresh(self, holding: Holding) -> Holding:
        """Read again what has a status of its own; the rest is as it was written.

        Raises:
            FoundryError: some of it cannot be read.
        """
        assert holding.record is not None, "what was written has a record"
        slow = [which for which in holding.record.members if takes_time(which)]
        fresh = await self._read(slow, set_id=part_of(holding.record.where))
        return replace(holding, objects={**holding.objects, **fresh})

    async def look_all(self, keys: Iterable[Key]) -> Found:
        """Read every unit of ours, and the ones of ``keys`` that are not there.

        Never raises for one object.
        """
        wanted = set(keys)
        selector = f"{OWNER_LABEL}={self._owner}"
        try:
            path = await self._discovery.collection("v1", "ConfigMap")
            lives, _ = await self._client.list(
                path, selector=f"{selector},{RECORD_LABEL}={UNIT}"
            )
        except FoundryError as error:
            return dict.fromkeys(wanted, error)
        units: dict[Key, tuple[Record, Json] | FoundryError] = {}
        for live in lives:
            try:
                key = unit_key(live, self._target)
            except FoundryError:
                continue  # nobody can say whose it is: its objects come up as orphans
            try:
                units[key] = read_record(live), live
            except FoundryError as error:
                units[key] = error
        lists = await self.lists(_kinds(units.values()), selector)
        return _gather(units, lists, wanted, self._target)

    async def _members(self, record: Record) -> dict[ObjectId, Json | None]:
        return await self._read([*record.members], set_id=part_of(record.where))

    async def _read(
        self, members: Sequence[ObjectId], *, set_id: str
    ) -> dict[ObjectId, Json | None]:
        found = await every(self._member(which) for which in members)
        return {
            which: live if live is not None and is_ours(live, set_id=set_id) else None
            for which, live in zip(members, found, strict=True)
        }

    async def _member(self, which: ObjectId) -> Json | None:
        return await self._client.get(await self._discovery.path(which))

    async def lists(
        self, kinds: Iterable[Kind], selector: str
    ) -> dict[Kind, dict[ObjectId, Json] | FoundryError]:
        """Read all objects of each kind that ``selector`` picks, or why one cannot."""
        asked = sorted(kinds)
        found = await every(self._list(kind, selector) for kind in asked)
        return dict(zip(asked, found, strict=True))

    async def _list(
        self, kind: Kind, selector: str
    ) -> dict[ObjectId, Json] | FoundryError:
        try:
            path = await self._discovery.collection(*kind)
            items, _ = await self._client.list(path, selector=selector)
        except FoundryError as error:
            return error
        api_version, name = kind
        # Items of a list do not say their kind themselves.
        lives: list[Json] = [
            {"apiVersion": api_version, "kind": name, **i} for i in items
        ]
        return {identify(live): live for live in lives}


async def every(calls: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Await all calls at once; when some fail, raise the first failure once all ended.

    (A TaskGroup would cancel the others half way, and raise a group of errors.)
    """
    tasks = [asyncio.ensure_future(call) for call in calls]
    try:
        if tasks:
            await asyncio.wait(tasks)
    finally:
        for task in tasks:
            task.cancel()  # only what a cancelled caller leaves behind
    failed = [error for task in tasks if (error := task.exception()) is not None]
    if failed:
        raise failed[0]
    return [task.result() for task in tasks]


def _kinds(units: Iterable[tuple[Record, Json] | FoundryError]) -> set[Kind]:
    kinds = set(_ALWAYS)
    for unit in units:
        if not isinstance(unit, FoundryError):
            kinds |= {(m.api_version, m.kind) for m in unit[0].members}
    return kinds


def _gather(
    units: Mapping[Key, tuple[Record, Json] | FoundryError],
    lists: Mapping[Kind, Mapping[ObjectId, Json] | FoundryError],
    wanted: set[Key],
    target: str,
) -> dict[Key, Holding | FoundryError]:
    marked = _by_unit(lists, target)
    answer: dict[Key, Holding | FoundryError] = {}
    for key in wanted | set(units) | set(marked):
        unit, objects = units.get(key), marked.get(key, {})
        if isinstance(unit, FoundryError):
            answer[key] = unit
        elif unit is None:
            answer[key] = Holding(record=None, record_live=None, objects=objects)
        else:
            answer[key] = _recorded(*unit, lists, objects)
    return answer


def _recorded(
    record: Record,
    live: Json,
    lists: Mapping[Kind, Mapping[ObjectId, Json] | FoundryError],
    objects: Mapping[ObjectId, Json],
) -> Holding | FoundryError:
    for which in record.members:
        found = lists[which.api_version, which.kind]
        if isinstance(found, FoundryError):
            return found
    return Holding(
        record=record,
        record_live=live,
        objects={**dict.fromkeys(record.members), **objects},
    )


def _by_unit(
    lists: Mapping[Kind, Mapping[ObjectId, Json] | FoundryError], target: str
) -> dict[Key, dict[ObjectId, Json]]:
    """Sort what carries our marks by the unit that it is a part of."""
    marked: dict[Key, dict[ObjectId, Json]] = {}
    for found in lists.values():
        if isinstance(found, FoundryError):
            continue
        for which, live in found.items():
            try:
                key = unit_key(live, target)
            except FoundryError:
                continue  # marked by somebody, and nobody's: never ours to delete
            if is_ours(live, set_id=part_of(record_id(key.ref))):
                marked.setdefault(key, {})[which] = live
    return marked
