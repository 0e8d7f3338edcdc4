"""One entry of the ledger: its fields, its one byte form, its place in the chain.

The journal seals drafts into entries, `verify` and the command read lines back.
Never does I/O and never reads a clock: the caller says when.

A line is the RFC 8785 canonical JSON of an entry. The chain is

    hash[n] = SHA-256(hash[n-1] || line[n]),  hash[-1] = 32 zero bytes

and ``prev`` inside line n is ``hash[n-1]`` in hex, so an entry cannot be moved.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from operator import attrgetter
from typing import Any

import orjson

__all__ = [
    "DECIDED",
    "FIELDS",
    "GENESIS",
    "INTENDED",
    "MAX_LINE",
    "OUTCOMES",
    "Draft",
    "Entry",
    "link",
    "parse",
    "read_fields",
    "rfc3339",
    "seal",
]

GENESIS = bytes(32)
INTENDED = "intended"
DECIDED = "decided"
"""A person's word about an object; the step says which."""
OUTCOMES = frozenset(
    {INTENDED, DECIDED, "created", "changed", "unchanged", "deleted", "skipped"}
    | {"failed"}
)

MAX_ERROR = 8 * 1024
"""Longer error texts are cut: a stack of 100 MB must not become the ledger."""
MAX_LINE = 64 * 1024
"""Bounds what reading one line can cost; the other fields are names and digests."""
MAX_SEQ = 2**53 - 1
"""RFC 8785 has numbers as IEEE 754 doubles; beyond this they are not exact."""

FIELDS = (
    "actor", "after", "at", "before", "commit", "error", "outcome",
    "plan", "prev", "seq", "step", "target", "uid",
)  # fmt: skip
"""In canonical order. RFC 8785 sorts by UTF-16 code unit: for these, as ASCII does."""
_TYPES = [int if name == "seq" else str for name in FIELDS]
_values = attrgetter(*FIELDS)
_AT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")
_HASH = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """What happened, before the ledger gives it a place."""

    actor: str
    commit: str
    plan: str
    """Digest of the plan."""
    step: str
    target: str
    before: str = ""
    """Digest of what lived before; empty for nothing."""
    after: str = ""
    uid: str = ""
    outcome: str
    """``intended`` before a write, one word of ``OutcomeKind`` after it, ``decided``
    where a person spoke."""
    error: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry(Draft):
    seq: int
    """Counts from 0: the leaf's index in the Merkle tree."""
    at: str
    """RFC 3339, UTC, microseconds."""
    prev: str
    """Hash of the chain before this entry, hex."""

    def line(self) -> bytes:
        """The canonical bytes, without a newline.

        orjson is RFC 8785 for flat objects of text and integers below 2**53 with
        keys in order; the tests hold it to the reference implementation.
        """
        return orjson.dumps(dict(zip(FIELDS, _values(self), strict=True)))


def seal(draft: Draft, *, seq: int, at: datetime, prev: bytes) -> Entry:
    """Give a draft its place.

    Raises:
        ValueError: what it would write could not be read back.
    """
    entry = Entry(
        actor=draft.actor,
        commit=draft.commit,
        plan=draft.plan,
        step=draft.step,
        target=draft.target,
        before=draft.before,
        after=draft.after,
        uid=draft.uid,
        outcome=draft.outcome,
        error=_printable(draft.error),
        seq=seq,
        at=rfc3339(at),
        prev=prev.hex(),
    )
    try:
        return parse(entry.line())
    except (TypeError, ValueError) as error:
        raise ValueError(f"cannot record step {draft.step[:80]!a}: {error}") from error


def _printable(error: str) -> str:
    """An outcome must be recordable whatever a tool printed: bad bytes become ?."""
    return error[:MAX_ERROR].encode("utf-8", "replace").decode()


def rfc3339(at: datetime) -> str:
    if at.tzinfo is None:
        raise ValueError(f"cannot record time: {at} has no zone")
    return f"{at.astimezone(UTC).replace(tzinfo=None).isoformat('T', 'microseconds')}Z"


def link(prev: bytes, line: bytes) -> bytes:
    """The hash of the chain once ``line`` is on it."""
    return sha256(prev + line).digest()


def read_fields(line: bytes) -> dict[str, Any]:
    """The fields of a line that is exactly the canonical form of an entry.

    Raises:
        ValueError: it is not.
    """
    if len(line) > MAX_LINE:
        raise ValueError(f"longer than {MAX_LINE} bytes")
    fields = orjson.loads(line)
    # Writing it again finds every other way to spell the same JSON: white space,
    # repeated keys, escapes, exponents.
    if type(fields) is not dict or orjson.dumps(fields) != line:
        raise ValueError("not in canonical form")
    if tuple(fields) != FIELDS or [*map(type, fields.values())] != _TYPES:
        raise ValueError("not the fields of an entry")
    return fields


def parse(line: bytes) -> Entry:
    """Read one line.

    Raises:
        ValueError: it is not the canonical form of an entry.
    """
    fields = read_fields(line)
    for name, valid in (
        ("seq", 0 <= fields["seq"] <= MAX_SEQ),
        ("outcome", fields["outcome"] in OUTCOMES),
        ("at", _AT.fullmatch(fields["at"])),
        ("prev", _HASH.fullmatch(fields["prev"])),
    ):
        if not valid:
            raise ValueError(f"{name} is {fields[name]!r}")
    return Entry(**fields)
