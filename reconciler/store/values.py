"""What the store keeps, as values. Rows become these and nothing else leaves it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from reconciler.ledger import rfc3339
from reconciler.values import Key, Unit
from schemas.errors import TemporaryError
from schemas.objects import Ref

__all__ = [
    "Decision",
    "Fenced",
    "Frozen",
    "Holder",
    "Leader",
    "Owned",
    "Ownership",
    "Run",
    "SavedPlan",
    "Suspension",
]


class Ownership(StrEnum):
    PENDING = "pending"
    """A write was intended; whether it happened is found out by observing."""
    LIVE = "live"
    DELETING = "deleting"
    """A delete was intended; the row leaves when the object is confirmed gone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Owned:
    """One object of ours, with all it takes to delete it without any spec."""

    unit: Unit
    """What was last applied or intended there."""
    state: Ownership
    uid: str = ""
    version: str = ""
    """As the target last said; empty until it did."""
    updated_at: datetime | None = None
    """Set by the store."""

    @property
    def key(self) -> Key:
        return self.unit.key


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedPlan:
    digest: str
    document: bytes = field(repr=False)
    created_at: datetime
    used_at: datetime | None = None
    used_by: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One pass of the line, from start to result."""

    id: str
    environment: str
    commit: str
    plan: str
    started_at: datetime
    ended_at: datetime | None = None
    """None while it runs, or when it was killed."""
    result: str | None = None
    error: str = ""
    summary: Mapping[str, int] = field(default_factory=dict)
    """Outcome -> how many."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Suspension:
    ref: Ref
    reason: str
    actor: str
    expires_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Frozen:
    """A digest that failed and must not be applied again by itself."""

    digest: str
    reason: str
    at: datetime
    stand_in: Unit | None = None
    """What lives in its place until git declares another; None: whatever lives."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What a person decided about an object, on its way into the ledger."""

    id: int = 0
    """Set by the store."""
    at: datetime
    actor: str
    said: str
    """``<verb> <object> ...: <reason>``, as the ledger's step will say it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Leader:
    """Who may write. A higher generation deposes every lower one."""

    generation: int
    owner: str = ""
    since: datetime | None = None
    """None until somebody led."""

    def __str__(self) -> str:
        if self.since is None:
            return "somebody"
        return (
            f"{self.owner} (generation {self.generation}, since {rfc3339(self.since)})"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """The replica that drives a shard; a higher token deposes every lower one."""

    name: str
    """Empty once it was released."""
    token: int


class Fenced(TemporaryError):
    """Nothing was written: another replica drives the shard by now."""

    def __init__(self, shard: str) -> None:
        super().__init__(f"cannot append to ledger: another replica drives {shard}")
