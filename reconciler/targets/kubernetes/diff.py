"""What a change would change, in three layers. Pure.

Intent is what a person decided (the values of the release), rendered is what Helm
makes of it, live is what the API server says the objects would become, defaults and
webhooks included. A reviewer reads the first, an operator the last; where they say
different things, somebody else writes. Secrets are masked by value: whatever a Secret
holds is taken out of every layer, wherever it turns up.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from reconciler.targets.kubernetes.manifests import Json, identify

__all__ = ["FieldChange", "UnitDiff", "compare", "compare_objects", "secrets_of"]

SECRET = "[secret]"  # noqa: S105 - what is shown in place of one
_ABSENT = object()
# The server's own bookkeeping: it moves with every write and means nothing here.
_BOOKKEEPING = frozenset(
    {
        "creationTimestamp",
        "generation",
        "managedFields",
        "resourceVersion",
        "selfLink",
        "uid",
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldChange:
    """One field; None where it is not there."""

    where: str
    path: str
    before: object
    after: object

    def __str__(self) -> str:
        return f"{self.where} {self.path}: {_say(self.before)} -> {_say(self.after)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitDiff:
    intent: tuple[FieldChange, ...]
    rendered: tuple[FieldChange, ...]
    live: tuple[FieldChange, ...]


def compare(
    before: Any, after: Any, *, where: str, secrets: Iterable[str] = ()
) -> tuple[FieldChange, ...]:
    """List the fields in which two values differ, with ``secrets`` taken out."""
    known = tuple(sorted({s for s in secrets if s}, key=len, reverse=True))
    return tuple(
        FieldChange(
            where=where,
            path=path,
            before=_masked(one, known),
            after=_masked(other, known),
        )
        for path, one, other in _fields(before, after, "")
    )


def compare_objects(
    before: Iterable[Json], after: Iterable[Json], *, secrets: Iterable[str] = ()
) -> tuple[FieldChange, ...]:
    """Compare two sets of objects by identity; one that comes or goes is one change."""
    was, will = ({identify(o): _bare(o) for o in side} for side in (before, after))
    found: list[FieldChange] = []
    for which in sorted(was.keys() | will.keys()):
        if which in was and which in will:
            found += compare(was[which], will[which], where=str(which), secrets=secrets)
            continue
        there = which in was
        found.append(
            FieldChange(
                where=str(which),
                path="",
                before="present" if there else None,
                after=None if there else "present",
            )
        )
    return tuple(found)


def secrets_of(objects: Iterable[Json]) -> set[str]:
    """Every value that Secrets among ``objects`` hold, as it is and encoded."""
    found: set[str] = set()
    for item in objects:
        if item.get("kind") != "Secret":
            continue
        for encoded in (item.get("data") or {}).values():
            found.add(encoded)
            try:
                found.add(base64.b64decode(encoded, validate=True).decode())
            except (binascii.Error, UnicodeDecodeError):
                continue
        found.update((item.get("stringData") or {}).values())
    return found


def _bare(item: Json) -> Json:
    metadata = {k: v for k, v in item["metadata"].items() if k not in _BOOKKEEPING}
    return {k: v for k, v in item.items() if k != "status"} | {"metadata": metadata}


def _fields(one: Any, other: Any, path: str) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        for name in sorted(one.keys() | other.keys()):
            below = f"{path}.{name}" if path else name
            yield from _fields(one.get(name, _ABSENT), other.get(name, _ABSENT), below)
    elif _are_named(one) and _are_named(other):
        was, will = ({item["name"]: item for item in side} for side in (one, other))
        for name in sorted(was.keys() | will.keys()):
            below = f"{path}[{name}]"
            yield from _fields(was.get(name, _ABSENT), will.get(name, _ABSENT), below)
    elif one != other:
        yield path, one, other


def _are_named(value: Any) -> bool:
    return (
        isinstance(value, Sequence)
        and bool(value)
        and all(isinstance(item, Mapping) and "name" in item for item in value)
    )


def _masked(value: Any, secrets: tuple[str, ...]) -> Any:
    if value is _ABSENT:
        return None
    if isinstance(value, str):
        for secret in secrets:
            value = value.replace(secret, SECRET)
        return value
    if isinstance(value, Mapping):
        return {name: _masked(inner, secrets) for name, inner in value.items()}
    if isinstance(value, list):
        return [_masked(inner, secrets) for inner in value]
    return value


def _say(value: object) -> str:
    return "absent" if value is None else str(value)
