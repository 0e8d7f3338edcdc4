"""Rows to values and back. Pure."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import Row

from reconciler.ledger import Entry
from reconciler.store.values import Owned, Ownership, Suspension
from reconciler.values import Key, Unit
from schemas.objects import Ref

__all__ = [
    "of_entry",
    "of_key",
    "of_owned",
    "to_owned",
    "to_suspension",
]


def of_entry(
    entry: Entry, line: bytes, head: bytes, nodes: tuple[bytes, ...]
) -> dict[str, object]:
    return {
        "seq": entry.seq,
        "line": line,
        "hash": head,
        "nodes": b"".join(nodes),
        "plan": entry.plan,
        "target": entry.target,
    }


def of_key(key: Key) -> dict[str, str]:
    """As parameters of a condition."""
    return {
        "of_target": key.target,
        "of_kind": key.ref.kind,
        "of_project": key.ref.project,
        "of_name": key.ref.name,
    }


def of_owned(owned: Owned, at: datetime) -> dict[str, object]:
    return {
        "target": owned.key.target,
        "kind": owned.key.ref.kind,
        "project": owned.key.ref.project,
        "name": owned.key.ref.name,
        "uid": owned.uid,
        "version": owned.version,
        "state": str(owned.state),
        "digest": owned.unit.digest,
        "unit": owned.unit.content,
        "depends": [
            [key.target, key.ref.kind, key.ref.project, key.ref.name]
            for key in owned.unit.after
        ],
        "updated_at": at,
    }


def to_owned(row: Row[Any]) -> Owned:
    return Owned(
        unit=Unit(
            key=Key(row.target, Ref(row.kind, row.project, row.name)),
            content=row.unit,
            digest=row.digest,
            after=tuple(Key(target, Ref(*ref)) for target, *ref in row.depends),
        ),
        state=Ownership(row.state),
        uid=row.uid,
        version=row.version,
        updated_at=row.updated_at,
    )


def to_suspension(row: Row[Any]) -> Suspension:
    return Suspension(
        ref=Ref(row.kind, row.project, row.name),
        reason=row.reason,
        actor=row.actor,
        expires_at=row.expires_at,
    )
