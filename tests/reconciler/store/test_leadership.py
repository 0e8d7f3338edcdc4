"""One writer, and a deposed one writes nothing."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path

import pytest
from sqlalchemy import text

from reconciler.ledger import Draft
from reconciler.store import Owned, Ownership, Store, leadership, open_store
from reconciler.store.database import writing
from schemas.errors import PermanentError, TemporaryError

Drafts = Callable[..., Draft]
Owneds = Callable[..., Owned]


@pytest.fixture
def other(
    url: str, tmp_path: Path, clock: Callable[[], datetime], store: Store
) -> Iterator[Store]:
    """The same database, opened by somebody else."""
    opened = open_store(url, key=tmp_path / "key", origin="bud/test", clock=clock)
    with opened:
        yield opened


def test_the_second_is_told_who_leads(store: Store, other: Store) -> None:
    with (
        store.lead("daemon@one"),
        pytest.raises(TemporaryError, match=r"daemon@one \(generation 1, since 2026-"),
        other.lead("daemon@two"),
    ):
        pytest.fail("two lead")


def test_leading_ends_with_the_block_even_when_it_fails(
    store: Store, other: Store
) -> None:
    with pytest.raises(ZeroDivisionError), store.lead("one"):
        _ = 1 / 0
    with other.lead("two") as journal:
        assert journal.generation == 2
        assert other.leader().owner == "two"


def test_the_same_process_cannot_lead_twice(store: Store) -> None:
    with store.lead("one"), pytest.raises(TemporaryError), store.lead("one"):
        pytest.fail("two lead")


async def test_a_deposed_leader_appends_nothing(
    store: Store, other: Store, draft: Drafts, owned: Owneds
) -> None:
    with store.lead("old") as journal:
        await journal.settle([draft()])
        with other._engine.connect() as connection:
            leadership.take_over(connection, "new", other._clock())
        for _ in range(2):
            with pytest.raises(PermanentError, match=r"new .*leads it now"):
                await journal.intend(
                    [draft("intended")], [owned(state=Ownership.PENDING)]
                )

    assert len(other.log.entries()) == 1
    assert other.inventory() == {}
    assert other.log.verify().size == 1


def _until_unlocked(store: Store) -> None:
    """A terminated session holds its locks until the server has ended it."""
    held = text("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted")
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        with writing(store._engine, "test") as connection:
            if connection.execute(held).scalar() == 0:
                return
    pytest.fail("the lock of the terminated session is still held")


async def test_a_lost_lock_deposes_its_leader(
    url: str, tmp_path: Path, store: Store, other: Store, draft: Drafts
) -> None:
    with store.lead("old") as journal:
        await journal.settle([draft()])
        if url.startswith("sqlite"):
            (tmp_path / "state.db.lock").unlink()
        else:
            with writing(other._engine, "test") as connection:
                connection.execute(
                    text(
                        "SELECT pg_terminate_backend(pid) FROM pg_locks "
                        "WHERE locktype = 'advisory' AND granted"
                    )
                )
            _until_unlocked(other)
        with other.lead("new") as successor:
            await successor.settle([draft()])
            with pytest.raises((PermanentError, TemporaryError)):
                await journal.settle([draft()])
            with pytest.raises(PermanentError, match="an earlier write failed"):
                await journal.settle([draft()])
            await successor.settle([draft()])

    assert other.log.verify().size == 3


async def test_each_leader_goes_on_where_the_last_ended(
    store: Store, other: Store, draft: Drafts
) -> None:
    for number in range(6):
        with (store, other)[number % 2].lead(f"leader-{number}") as journal:
            (entry,) = await journal.settle([draft()])
            assert (entry.seq, journal.generation) == (number, number + 1)

    assert store.log.verify().size == 6


async def test_a_closed_journal_takes_nothing(store: Store, draft: Drafts) -> None:
    with store.lead("one") as journal:
        pass
    with pytest.raises(PermanentError, match="the journal is closed"):
        await journal.settle([draft()])
