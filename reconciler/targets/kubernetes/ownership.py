"""Who owns which field, and what our fields hold: managedFields read as values.

Pure. Server-side apply records each manager's fields. A field that somebody else
changed is no longer ours, and one that somebody removed holds nothing, so the
values under our own fields tell drift from what lives alone: no desired state is
needed to see it. Fields that an autoscaler or a webhook added were never ours, and
do not count (production-stack#891, kuberay#4149).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

import orjson

from reconciler.targets.kubernetes.manifests import (
    FIELD_MANAGER,
    PART_OF_LABEL,
    Json,
)

__all__ = [
    "HELMS",
    "OURS",
    "Whose",
    "applied_fields",
    "fingerprint",
    "is_ours",
    "mark_of",
    "others",
    "project",
    "promised",
]

_KEPT = 100_000
_known: dict[tuple[str, str, tuple[str, str]], str] = {}

Fields = Mapping[str, Any]
Whose = tuple[str, str]
OURS: Whose = (FIELD_MANAGER, "Apply")
HELMS: Whose = ("helm", "Update")
"""Helm 3 writes as a client does: what it wrote is known by its name all the same."""


def is_ours(live: Json, *, set_id: str) -> bool:
    """Say whether we made this object: our label and our own managed fields.

    A copy that somebody made of ours has the label, and not the fields.
    """
    labels = live["metadata"].get("labels") or {}
    return labels.get(PART_OF_LABEL) == set_id and applied_fields(live) is not None


def applied_fields(live: Json, whose: Whose = OURS) -> Fields | None:
    entry = _entry(live, whose)
    return None if entry is None else entry.get("fieldsV1") or {}


def mark_of(live: Json, whose: Whose) -> int:
    """Say which fields are whose, and since when, in a number: for this process alone.

    Whoever changes or removes what is under a field takes the field, so this moves
    whenever the fingerprint does, at a tenth of its price. It also moves when the same
    manager applies anew; a status and an autoscaler's number leave it as it was.
    """
    return hash(orjson.dumps(_entry(live, whose)))


def _entry(live: Json, whose: Whose) -> Json | None:
    for entry in live["metadata"].get("managedFields") or ():
        said = entry.get("manager"), entry.get("operation")
        if said == whose and not entry.get("subresource"):
            found: Json = entry
            return found
    return None


def project(value: Any, fields: Fields) -> Any:
    """Keep of ``value`` what ``fields`` names; what is not there is left out."""
    if not fields or (len(fields) == 1 and "." in fields):
        return value
    if isinstance(value, dict):
        return {
            name[2:]: project(value[name[2:]], sub) if sub else value[name[2:]]
            for name, sub in fields.items()
            if name[:2] == "f:" and name[2:] in value
        }
    if isinstance(value, list):
        return list(_items(value, fields))
    return value


def fingerprint(live: Json, whose: Whose = OURS) -> str:
    """Digest of the values under our fields; moves when any of them does.

    Each version of an object is computed once: an event, a look and a write tell of
    the same one. What a dry run answers has the version of what it would replace, and
    is for ``promised``.
    """
    metadata = live["metadata"]
    version = metadata["uid"], metadata["resourceVersion"], whose
    if (known := _known.get(version)) is None:
        if len(_known) >= _KEPT:
            _known.clear()
        known = _known[version] = promised(live, whose)
    return known


def promised(live: Json, whose: Whose = OURS) -> str:
    """The fingerprint of what a dry run answered.

    Of a Secret's data only the names count: a digest of the values would let a guess
    be checked, and a value that somebody changed is no longer under our fields.
    """
    fields = applied_fields(live, whose)
    if fields is None:
        return ""
    kept = project(live, fields)
    if live.get("kind") == "Secret" and "data" in kept:
        kept = {**kept, "data": sorted(kept["data"])}
    return hashlib.sha256(orjson.dumps(kept, option=orjson.OPT_SORT_KEYS)).hexdigest()


def others(live: Json, fields: Fields) -> dict[str, str]:
    """Name the manager of each of ``fields`` that is not ours: path -> manager."""
    ours = applied_fields(live) or {}
    lost = {path for path in _leaves(fields) if path not in set(_leaves(ours))}
    found: dict[str, str] = {}
    for entry in live["metadata"].get("managedFields") or ():
        if entry.get("manager") == FIELD_MANAGER and entry.get("operation") == "Apply":
            continue
        for path in _leaves(entry.get("fieldsV1") or {}):
            if path in lost:
                found[".".join(path)] = entry.get("manager", "unknown")
    return found


def _items(value: list[Any], fields: Fields) -> Iterator[Any]:
    for name, sub in sorted(fields.items()):
        if name.startswith("k:"):
            wanted = _read(name[2:])
            for item in value:
                if isinstance(item, Mapping) and all(
                    item.get(key) == part for key, part in wanted.items()
                ):
                    yield project(item, sub)
        elif name.startswith("v:"):
            if (item := _read(name[2:])) in value:
                yield item
        elif name.startswith("i:") and int(name[2:]) < len(value):
            yield project(value[int(name[2:])], sub)


@lru_cache(maxsize=1024)
def _read(name: str) -> Any:
    """Parse the key of an item: the same few in every object of a kind."""
    return orjson.loads(name)


def _leaves(fields: Fields, above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for name, sub in fields.items():
        if name == ".":
            continue
        path = (*above, name.removeprefix("f:"))
        if sub and set(sub) != {"."}:
            yield from _leaves(sub, path)
        else:
            yield path
