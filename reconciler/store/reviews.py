"""Reviews in the store: plans of pull requests, and deliveries that were seen (I/O).

The reviewer keeps them. The document lies here under the digest that an approval
binds to; that it is used once is the business of the plans beside it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta

from sqlalchemy import Engine, delete, select, update

from reconciler.store import tables
from reconciler.store.database import put, reading, writing

__all__ = ["Review", "Reviews"]

_REPLAY_WINDOW = timedelta(days=7)
"""Forges retry a delivery for hours; a recording of one is no good for a week."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Review:
    """One plan of one pull request."""

    digest: str
    pull: int
    head: str
    base: str
    tree: str
    """What the merge of the two holds: the same tree is the same content."""
    document: bytes = field(repr=False)
    state: str = "open"
    """open, superseded, or what came of it: applying, applied, failed."""
    comment: str = ""
    """The forge's id of our comment."""
    made_at: datetime
    posted_at: datetime | None = None
    """When people could read it first, by the forge's clock: what approvals follow."""
    expires_at: datetime
    settled_at: datetime | None = None
    """When its apply began or ended."""


class Reviews:
    def __init__(self, engine: Engine, clock: Callable[[], datetime]) -> None:
        self._engine, self._clock = engine, clock

    def save(self, review: Review) -> None:
        """Keep it, and take every other open one of its pull request out of force."""
        others = (
            update(tables.reviews)
            .where(
                tables.reviews.c.pull == review.pull,
                tables.reviews.c.digest != review.digest,
                tables.reviews.c.state == "open",
            )
            .values(state="superseded")
        )
        with writing(self._engine, "save review") as connection:
            connection.execute(others)
            put(connection, tables.reviews, asdict(review), replace=True)

    def supersede(self, pull: int) -> None:
        """Take the plan of a pull request out of force."""
        with writing(self._engine, "supersede review") as connection:
            connection.execute(
                update(tables.reviews)
                .where(tables.reviews.c.pull == pull, tables.reviews.c.state == "open")
                .values(state="superseded")
            )

    def settle(self, digest: str, state: str, document: bytes | None = None) -> None:
        """Say what became of it; with a document, what is known now."""
        values: dict[str, object] = {"state": state, "settled_at": self._clock()}
        if document is not None:
            values["document"] = document
        with writing(self._engine, "settle review") as connection:
            connection.execute(
                update(tables.reviews)
                .where(tables.reviews.c.digest == digest)
                .values(values)
            )

    def find(self, digest: str) -> Review | None:
        """By the digest, or a beginning of it that only one has."""
        columns = tables.reviews.c
        begins = columns.digest.startswith(digest, autoescape=True)
        found = self._select(columns.digest == digest) or self._select(begins)
        return found[0] if len(found) == 1 else None

    def of_pull(self, pull: int) -> Review | None:
        """The newest of a pull request."""
        found = self._select(tables.reviews.c.pull == pull)
        return found[0] if found else None

    def of_head(self, head: str) -> Review | None:
        """The newest of a commit."""
        found = self._select(tables.reviews.c.head == head)
        return found[0] if found else None

    def waiting(self) -> frozenset[int]:
        """Pull requests whose newest plan was neither applied nor expired."""
        columns = tables.reviews.c
        found = (
            select(columns.pull, columns.state)
            .where(columns.expires_at > self._clock())
            .order_by(columns.made_at)
        )
        with reading(self._engine, "read reviews") as connection:
            newest = {row.pull: row.state for row in connection.execute(found)}
        return frozenset(n for n, s in newest.items() if s in ("open", "superseded"))

    def in_force(self) -> Review | None:
        """The one that was applied last, or is being applied."""
        column = tables.reviews.c.settled_at
        found = self._select(column.is_not(None))
        return max(found, key=lambda review: str(review.settled_at), default=None)

    def first_seen(self, delivery: str) -> bool:
        """Whether this is the first time; a repeat within the window is not."""
        now = self._clock()
        old = delete(tables.deliveries).where(
            tables.deliveries.c.at < now - _REPLAY_WINDOW
        )
        row = {"id": delivery, "at": now}
        with writing(self._engine, "note delivery") as connection:
            connection.execute(old)
            return put(connection, tables.deliveries, row, replace=False)

    def _select(self, condition: object) -> list[Review]:
        found = (
            select(tables.reviews)
            .where(condition)  # type: ignore[arg-type]
            .order_by(tables.reviews.c.made_at.desc())
        )
        with reading(self._engine, "read reviews") as connection:
            return [Review(**row) for row in connection.execute(found).mappings()]
