"""Rows to values and back. Pure."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import Row

from reconciler.ledger import Entry, Replay, parse
from reconciler.store.values import Frozen, Owned, Ownership, Suspension
from reconciler.values import Key, Unit
from schemas.errors import ChainBrokenError
from schemas.objects import Ref

__all__ = [
    "check_row",
    "of_entry",
    "of_frozen",
    "of_key",
    "of_owned",
    "of_suspension",
    "of_unit",
    "to_entry",
    "to_frozen",
    "to_owned",
    "to_suspension",
    "to_unit",
]


def to_entry(seq: int, line: bytes) -> Entry:
    try:
        return parse(line)
    except ValueError as error:
        raise ChainBrokenError(f"cannot read entry {seq}: {error}", seq=seq) from error


def check_row(row: Row[Any], replay: Replay) -> None:
    """What is kept beside a line for speed must be what the line says."""
    fields = replay.fields
    expected = (
        fields["seq"],
        replay.hash,
        b"".join(replay.nodes),
        fields["plan"],
        fields["target"],
    )
    found = (row.seq, row.hash, row.nodes, row.plan, row.target)
    if found != expected:
        seq = fields["seq"]
        raise ChainBrokenError(
            f"cannot verify entry {seq}: its row says something else than its line",
            seq=seq,
            expected=str(expected),
            found=str(found),
        )


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


def of_unit(unit: Unit) -> dict[str, object]:
    return {
        "target": unit.key.target,
        "kind": unit.key.ref.kind,
        "project": unit.key.ref.project,
        "name": unit.key.ref.name,
        "digest": unit.digest,
        "unit": unit.content,
        "depends": [
            [key.target, key.ref.kind, key.ref.project, key.ref.name]
            for key in unit.after
        ],
    }


def to_unit(row: Row[Any], digest: str) -> Unit:
    return Unit(
        key=Key(row.target, Ref(row.kind, row.project, row.name)),
        content=row.unit,
        digest=digest,
        after=tuple(Key(target, Ref(*ref)) for target, *ref in row.depends),
    )


def of_owned(owned: Owned, at: datetime) -> dict[str, object]:
    return of_unit(owned.unit) | {
        "uid": owned.uid,
        "version": owned.version,
        "state": str(owned.state),
        "updated_at": at,
    }


def to_owned(row: Row[Any]) -> Owned:
    return Owned(
        unit=to_unit(row, row.digest),
        state=Ownership(row.state),
        uid=row.uid,
        version=row.version,
        updated_at=row.updated_at,
    )


def of_frozen(frozen: Frozen) -> dict[str, object]:
    row: dict[str, object] = dict.fromkeys(_STAND_IN)
    if frozen.stand_in is not None:
        row |= of_unit(frozen.stand_in) | {"stand_in": frozen.stand_in.digest}
    return row | {"digest": frozen.digest, "reason": frozen.reason, "at": frozen.at}


_STAND_IN = ("target", "kind", "project", "name", "stand_in", "unit", "depends")


def to_frozen(row: Row[Any]) -> Frozen:
    return Frozen(
        digest=row.digest,
        reason=row.reason,
        at=row.at,
        stand_in=to_unit(row, row.stand_in) if row.stand_in else None,
    )


def of_suspension(suspension: Suspension) -> dict[str, object]:
    return {
        "kind": suspension.ref.kind,
        "project": suspension.ref.project,
        "name": suspension.ref.name,
        "reason": suspension.reason,
        "actor": suspension.actor,
        "expires_at": suspension.expires_at,
    }


def to_suspension(row: Row[Any]) -> Suspension:
    return Suspension(
        ref=Ref(row.kind, row.project, row.name),
        reason=row.reason,
        actor=row.actor,
        expires_at=row.expires_at,
    )
