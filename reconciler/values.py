"""The values that travel along the line. Nothing here decides or does I/O.

Documents -> Desired -> Resolved -> Rendered -> Plan -> Outcome
                              Observed ----^
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from schemas.environment import Environment
from schemas.objects import FoundryObject, Ref
from schemas.resolution import Resolution

__all__ = [
    "Action",
    "Change",
    "Commit",
    "Desired",
    "Document",
    "Documents",
    "Health",
    "Key",
    "Live",
    "Outcome",
    "OutcomeKind",
    "Presence",
    "Preview",
    "Rendered",
    "Resolution",
    "Resolved",
    "Unit",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Commit:
    """What was read: a commit, or the work tree on top of one."""

    sha: str
    """The commit's SHA; of a work tree that differs, ``<sha>+<12 hex of its content>``."""
    author: str = ""
    subject: str = ""

    @property
    def short(self) -> str:
        """For people; what differs from the commit still shows."""
        return self.sha[:12] + self.sha[40:]


Position = tuple[int, int]
"""Line and column, from 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """One file as data, with the place of every field."""

    file: str
    content: Mapping[str, Any]
    places: Mapping[str, Position] = field(repr=False)
    """Field path (``spec.nodePools[0].gpu``) -> where its value starts; a mapping
    key that is itself wrong has its place under ``<path>#key``."""
    item: FoundryObject | None = None
    """What the content validates to; None of an overlay, which is partial."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Documents:
    """Everything of one commit that describes state, not yet merged."""

    commit: Commit
    spec: Mapping[Ref, Document]
    environments: Mapping[str, Environment]
    environment_documents: Mapping[str, Document]
    """Where each environment is written, for messages."""
    overlays: Mapping[str, Mapping[Ref, Document]]
    """Environment -> the partial objects that differ there."""
    locks: Mapping[str, Mapping[str, Any]]
    """Environment -> its ``resolved.lock.yaml``, as data."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Desired:
    """What an environment wants: validated, merged, every reference checked."""

    commit: Commit
    environment: Environment
    objects: Mapping[Ref, FoundryObject]
    files: Mapping[Ref, str]
    """Where each object is written, for messages."""
    lock: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolved:
    desired: Desired
    resolutions: Mapping[Ref, Resolution]


@dataclass(frozen=True, slots=True, order=True)
class Key:
    """Which object, at which target. One object can live at several."""

    target: str
    ref: Ref

    def __str__(self) -> str:
        return f"{self.target}:{self.ref}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """What one target shall hold for one object: bytes with a digest."""

    key: Key
    content: bytes = field(repr=False)
    digest: str
    """SHA-256 of ``content``, hex."""
    after: tuple[Key, ...] = ()
    """Units that must be servable first; deletes run the other way round."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rendered:
    units: Mapping[Key, Unit]


class Presence(StrEnum):
    PRESENT = "present"
    ABSENT = "absent"
    UNKNOWN = "unknown"
    """The read failed. Never treated as absent: it stops the step."""


class Health(StrEnum):
    """How far it got; each word includes those before it."""

    PENDING = "pending"
    APPLIED = "applied"
    ROLLED = "rolled"
    SERVABLE = "servable"
    MEETS_SLO = "meets-slo"
    DEGRADED = "degraded"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Live:
    """What a target said about one object."""

    key: Key
    presence: Presence
    digest: str = ""
    """Digest of the unit that lives there; differs from ours when it drifted."""
    uid: str = ""
    """Tells this object from another of the same name, made later."""
    version: str = ""
    """Moves with every change; a write may demand that it did not."""
    health: Health = Health.UNKNOWN
    detail: str = ""
    """Why it is not healthy, why it is unknown, or what drifted."""
    writer: str = ""
    """Who else wrote it last, where the target can tell."""
    says: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """What it tells of itself: a cluster's address, pools, identities. No secret."""


class Action(StrEnum):
    CREATE = "create"
    CHANGE = "change"
    DELETE = "delete"
    ADOPT = "adopt"
    """It lives, as wanted, but the inventory does not know it: record, write nothing."""
    FORGET = "forget"
    """The inventory knows it, and it is confirmed gone: record, write nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One write that a target is asked for."""

    key: Key
    action: Action
    unit: Unit | None
    """None for a delete."""
    uid: str = ""
    version: str = ""
    """The live object this was decided on; a target refuses when it moved."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Preview:
    """What a target says that a change would do, before anybody approves it."""

    summary: str
    changes: tuple[str, ...] = ()
    """Each thing with what becomes of it; names, never values."""
    disruption: tuple[str, ...] = ()
    """What those who use it will notice meanwhile."""
    refused: str = ""
    """Why the target would not do it at all."""

    def document(self, *, why: bool = True) -> dict[str, object]:
        return {
            "summary": self.summary,
            "changes": list(self.changes),
            "disruption": list(self.disruption),
            "refused": self.refused if why else bool(self.refused),
        }


class OutcomeKind(StrEnum):
    CREATED = "created"
    CHANGED = "changed"
    UNCHANGED = "unchanged"
    DELETED = "deleted"
    SKIPPED = "skipped"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of one step."""

    key: Key
    kind: OutcomeKind
    live: Live | None = None
    error: str = ""
    seconds: float = 0.0
