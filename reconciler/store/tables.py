"""The tables of the store. What they hold is said in `reconciler.store.values`.

`reconciler/migrations` makes them; a test holds the two together.
"""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import (
    JSON,
    BigInteger,
    CheckConstraint,
    Column,
    Dialect,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
)
from sqlalchemy.types import TypeDecorator

from reconciler.ledger import rfc3339

__all__ = [
    "SCHEMA",
    "checkpoints",
    "decisions",
    "deliveries",
    "former",
    "frozen",
    "inventory",
    "leadership",
    "ledger",
    "metadata",
    "plans",
    "reviews",
    "runs",
    "shards",
    "suspensions",
]

SCHEMA = "0004"
"""The newest revision in `reconciler/migrations`."""

metadata = MetaData()


class Instant(TypeDecorator[datetime]):
    """A moment as RFC 3339 text in UTC: sorts the same in every database."""

    impl = String(27)
    cache_ok = True

    def process_bind_param(
        self, value: datetime | None, _dialect: Dialect
    ) -> str | None:
        return None if value is None else rfc3339(value)

    def process_result_value(
        self, value: str | None, _dialect: Dialect
    ) -> datetime | None:
        return None if value is None else datetime.fromisoformat(value)


ledger = Table(
    "ledger",
    metadata,
    Column("seq", BigInteger, primary_key=True, autoincrement=False),
    Column("line", LargeBinary, nullable=False),
    Column("hash", LargeBinary, nullable=False),
    # The Merkle nodes this entry completed, level 0 upwards, 32 bytes each: node
    # (level, index) is found at entry (index + 1) * 2**level - 1.
    Column("nodes", LargeBinary, nullable=False),
    Column("plan", Text, nullable=False),
    Column("target", Text, nullable=False),
    Index("ledger_plan", "plan", "seq"),
    Index("ledger_target", "target", "seq"),
)

checkpoints = Table(
    "checkpoints",
    metadata,
    Column("size", BigInteger, primary_key=True, autoincrement=False),
    Column("note", Text, nullable=False),
)

inventory = Table(
    "inventory",
    metadata,
    Column("target", Text, primary_key=True),
    Column("kind", Text, primary_key=True),
    Column("project", Text, primary_key=True),
    Column("name", Text, primary_key=True),
    Column("uid", Text, nullable=False),
    Column("version", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("digest", Text, nullable=False),
    Column("unit", LargeBinary, nullable=False),
    Column("depends", JSON, nullable=False),
    Column("updated_at", Instant, nullable=False),
    CheckConstraint("state IN ('pending', 'live', 'deleting')", name="state"),
)

# Of each object, what lived before what lives: a rollback must not depend on git, nor
# on this program still rendering an old commit to the same bytes.
former = Table(
    "former",
    metadata,
    Column("target", Text, primary_key=True),
    Column("kind", Text, primary_key=True),
    Column("project", Text, primary_key=True),
    Column("name", Text, primary_key=True),
    Column("digest", Text, nullable=False),
    Column("unit", LargeBinary, nullable=False),
    Column("depends", JSON, nullable=False),
)

plans = Table(
    "plans",
    metadata,
    Column("digest", Text, primary_key=True),
    Column("document", LargeBinary, nullable=False),
    Column("created_at", Instant, nullable=False),
    Column("used_at", Instant),
    Column("used_by", Text),
)

reviews = Table(
    "reviews",
    metadata,
    Column("digest", Text, primary_key=True),
    Column("pull", Integer, nullable=False),
    Column("head", Text, nullable=False),
    Column("base", Text, nullable=False),
    Column("tree", Text, nullable=False),
    Column("document", LargeBinary, nullable=False),
    Column("state", Text, nullable=False),
    Column("comment", Text, nullable=False),
    Column("made_at", Instant, nullable=False),
    Column("posted_at", Instant),
    Column("expires_at", Instant, nullable=False),
    Column("settled_at", Instant),
    Index("reviews_pull", "pull", "made_at"),
)

deliveries = Table(
    "deliveries",
    metadata,
    Column("id", Text, primary_key=True),
    Column("at", Instant, nullable=False),
)

runs = Table(
    "runs",
    metadata,
    Column("id", Text, primary_key=True),
    Column("environment", Text, nullable=False),
    Column("commit", Text, nullable=False),
    Column("plan", Text, nullable=False),
    Column("started_at", Instant, nullable=False),
    Column("ended_at", Instant),
    Column("result", Text),
    Column("error", Text, nullable=False),
    Column("summary", JSON, nullable=False),
    Index("runs_started_at", "started_at"),
)

suspensions = Table(
    "suspensions",
    metadata,
    Column("kind", Text, primary_key=True),
    Column("project", Text, primary_key=True),
    Column("name", Text, primary_key=True),
    Column("reason", Text, nullable=False),
    Column("actor", Text, nullable=False),
    Column("expires_at", Instant, nullable=False),
)

frozen = Table(
    "frozen",
    metadata,
    Column("digest", Text, primary_key=True),
    Column("reason", Text, nullable=False),
    Column("at", Instant, nullable=False),
    # The stand-in, where there is one.
    Column("target", Text),
    Column("kind", Text),
    Column("project", Text),
    Column("name", Text),
    Column("stand_in", Text),
    Column("unit", LargeBinary),
    Column("depends", JSON),
)

# Decisions wait here for the leader, who alone may append to the ledger.
decisions = Table(
    "decisions",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("at", Instant, nullable=False),
    Column("actor", Text, nullable=False),
    Column("said", Text, nullable=False),
)

leadership = Table(
    "leadership",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("generation", BigInteger, nullable=False),
    Column("owner", Text, nullable=False),
    Column("since", Instant),
)

shards = Table(
    "shards",
    metadata,
    Column("name", Text, primary_key=True),
    Column("holder", Text, nullable=False),
    Column("token", BigInteger, nullable=False),
)
