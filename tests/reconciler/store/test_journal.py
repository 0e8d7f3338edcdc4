"""All of it or none, durable when awaited, and many at the price of one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from time import monotonic

import pytest
from sqlalchemy import Connection, event, text

from reconciler.ledger import Draft
from reconciler.store import Journal, Owned, Ownership, Store
from reconciler.store.database import writing
from reconciler.values import Key
from schemas.errors import PermanentError, TemporaryError

Drafts = Callable[..., Draft]
Owneds = Callable[..., Owned]


@contextmanager
def blocked(store: Store) -> Iterator[None]:
    """Let nobody commit, so that what is appended meanwhile has to wait."""
    with writing(store._engine, "test") as connection:
        connection.execute(text("UPDATE leadership SET owner = owner"))
        yield


def taken(journal: Journal) -> None:
    """Wait until the writer has taken what was submitted, for ten seconds at most."""
    deadline = monotonic() + 10
    while not journal._queue.empty():
        assert monotonic() < deadline


async def test_entries_are_chained_in_the_order_of_the_calls(
    store: Store, draft: Drafts
) -> None:
    with store.lead("a") as journal:
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(journal.settle([draft(name=f"n{number}"), draft()]))
                for number in range(20)
            ]

    for number, task in enumerate(tasks):
        first, second = task.result()
        assert (first.seq, second.seq) == (2 * number, 2 * number + 1)
        assert first.step == f"create n{number}"
    assert store.log.verify().size == 40


async def test_what_waits_is_committed_together(store: Store, draft: Drafts) -> None:
    commits: list[Connection] = []
    with store.lead("a") as journal:
        async with asyncio.TaskGroup() as group:
            with blocked(store):
                for _ in range(64):
                    group.create_task(journal.settle([draft()]))
                await asyncio.sleep(0)  # each has submitted; none can be written
                event.listen(store._engine, "commit", commits.append)
        # The lock's own, the first requests that met it, all that waited meanwhile.
        assert len(commits) <= 3

    assert store.log.verify().size == 64


async def test_of_two_changes_in_one_commit_the_later_stays(
    store: Store, draft: Drafts, owned: Owneds, key: Callable[..., Key]
) -> None:
    with store.lead("a") as journal:
        async with asyncio.TaskGroup() as group:
            with blocked(store):
                for change in (
                    journal.settle([draft()], [owned("x")]),
                    journal.settle([draft()], gone=[key("x")]),
                    journal.settle([draft()], [owned("y")]),
                    journal.settle([draft()], gone=[key("y")]),
                    journal.intend(
                        [draft("intended")], [owned("y", state=Ownership.PENDING)]
                    ),
                ):
                    group.create_task(change)
                await asyncio.sleep(0)

    (found,) = store.inventory().values()
    assert (found.key, found.state) == (key("y"), Ownership.PENDING)


async def test_who_stops_waiting_in_time_gets_nothing_written(
    store: Store, draft: Drafts
) -> None:
    with store.lead("a") as journal:
        async with asyncio.TaskGroup() as group:
            with blocked(store):
                group.create_task(journal.settle([draft(name="first")]))
                await asyncio.sleep(0)
                await asyncio.to_thread(taken, journal)
                late = group.create_task(journal.settle([draft(name="late")]))
                await asyncio.sleep(0)
                late.cancel()
                await asyncio.sleep(0)
        await journal.settle([draft(name="last")])

    steps = [entry.step for entry in store.log.entries()]
    assert steps == ["create last", "create first"]
    assert store.log.verify().size == 2


async def test_a_failed_write_leaves_nothing_and_ends_the_journal(
    store: Store, draft: Drafts, owned: Owneds
) -> None:
    bad = replace(owned("bad"), state="lost")
    with store.lead("a") as journal:
        await journal.settle([draft()])
        with pytest.raises(PermanentError, match="cannot append to ledger"):
            await journal.settle([draft()], [owned("good"), bad])
        with pytest.raises(PermanentError, match="an earlier write failed"):
            await journal.settle([draft()])

    assert store.inventory() == {}
    assert store.log.verify().size == 1
    with store.lead("a") as journal:
        (entry,) = await journal.settle([draft()])
    assert entry.seq == 1


async def test_a_turn_that_never_came_can_be_taken_again(
    url: str, store: Store, draft: Drafts
) -> None:
    impatient = "PRAGMA busy_timeout=1" if "sqlite" in url else "SET lock_timeout='1ms'"
    with store.lead("a") as journal:
        with journal._connection.begin():
            journal._connection.exec_driver_sql(impatient)
        with blocked(store), pytest.raises(TemporaryError, match="cannot append"):
            await journal.settle([draft()])
        (entry,) = await journal.settle([draft()])

    assert entry.seq == 0
    assert store.log.verify().size == 1


async def test_a_draft_that_cannot_be_recorded_fails_alone(
    store: Store, draft: Drafts
) -> None:
    with store.lead("a") as journal:
        answers = await asyncio.gather(
            journal.settle([draft()]),
            journal.settle([draft(outcome="done")]),
            journal.settle([draft(), replace(draft(), step="\ud800")]),
            journal.settle([draft()]),
            return_exceptions=True,
        )

    assert [type(answer) for answer in answers] == [
        tuple,
        PermanentError,
        PermanentError,
        tuple,
    ]
    assert store.log.verify().size == 2


async def test_a_full_disk_refuses_and_applies_nothing(
    url: str, store: Store, draft: Drafts, owned: Owneds
) -> None:
    if not url.startswith("sqlite"):
        pytest.skip("only SQLite can be told how large its disk is")

    async def fill(journal: Journal) -> None:
        limit = journal._connection.exec_driver_sql("PRAGMA page_count").scalar() + 8
        journal._connection.exec_driver_sql(f"PRAGMA max_page_count={limit}")
        journal._connection.rollback()
        for _ in range(1000):
            await journal.settle([replace(draft(), error="x" * 4000)], [owned()])

    with store.lead("a") as journal:
        await journal.settle([draft()])
        with pytest.raises(PermanentError, match="database or disk is full"):
            await fill(journal)
        with pytest.raises(PermanentError, match="an earlier write failed"):
            await journal.settle([draft()])

    assert 1 < store.log.verify().size < 20


async def test_checkpoints_are_thinned_out(store: Store, draft: Drafts) -> None:
    with store.lead("a") as journal:
        for count in (1000, 23, 1, 1, 1023, 1):
            await journal.settle([draft()] * count)

    with writing(store._engine, "test") as connection:
        sizes = connection.execute(text("SELECT size FROM checkpoints ORDER BY size"))
        assert [size for (size,) in sizes] == [1023, 1025, 2049]
    assert store.log.verify().size == 2049
