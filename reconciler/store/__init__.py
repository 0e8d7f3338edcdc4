"""The store: SQLite where nothing is configured, PostgreSQL where a URL is (I/O)."""

from reconciler.store.journal import Journal
from reconciler.store.log import Log
from reconciler.store.reviews import Review, Reviews
from reconciler.store.shards import Shards
from reconciler.store.store import Store, open_store
from reconciler.store.values import (
    Decision,
    Fenced,
    Frozen,
    Holder,
    Leader,
    Owned,
    Ownership,
    Run,
    SavedPlan,
    Suspension,
)

__all__ = [
    "Decision",
    "Fenced",
    "Frozen",
    "Holder",
    "Journal",
    "Leader",
    "Log",
    "Owned",
    "Ownership",
    "Review",
    "Reviews",
    "Run",
    "SavedPlan",
    "Shards",
    "Store",
    "Suspension",
    "open_store",
]
