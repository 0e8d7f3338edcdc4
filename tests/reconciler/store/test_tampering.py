"""Whoever can write SQL still cannot rewrite what happened."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from sqlalchemy import delete, insert, select, text

from reconciler.ledger import Checkpoint, Draft, Signer, sign_checkpoint
from reconciler.ledger.merkle import EMPTY_ROOT
from reconciler.store import Store, tables
from reconciler.store.database import reading, writing
from schemas.errors import ChainBrokenError

Drafts = Callable[..., Draft]
COUNT = 9
AGAIN = (
    "INSERT INTO ledger "
    "SELECT 8, line, hash, nodes, plan, target FROM ledger WHERE seq = 9"
)


@pytest.fixture
async def recorded(store: Store, draft: Drafts) -> Store:
    with store.lead("a") as journal:
        for number in range(COUNT):
            await journal.settle([draft(name=f"n{number}")])
    return store


def execute(store: Store, *statements: str) -> None:
    with writing(store._engine, "tamper") as connection:
        for statement in statements:
            connection.execute(text(statement))


TAMPERINGS = [
    *(
        (f"UPDATE ledger SET {column} = {value} WHERE seq = {seq}",)
        for seq in (0, 4, COUNT - 1)
        for column, value in {
            "seq": "seq + 100",
            "line": "(SELECT other.line FROM ledger other WHERE other.seq = 5)",
            "hash": "(SELECT other.hash FROM ledger other WHERE other.seq = 5)",
            "nodes": "(SELECT other.nodes FROM ledger other WHERE other.seq = 5)",
            "plan": "'another'",
            "target": "'another'",
        }.items()
    ),
    *((f"DELETE FROM ledger WHERE seq = {seq}",) for seq in range(COUNT)),
    ("DELETE FROM ledger",),
    ("DELETE FROM ledger WHERE seq >= 4",),
    (
        "UPDATE ledger SET seq = -1 WHERE seq = 3",
        "UPDATE ledger SET seq = 3 WHERE seq = 4",
        "UPDATE ledger SET seq = 4 WHERE seq = -1",
    ),
    ("UPDATE ledger SET seq = 9 WHERE seq = 8", AGAIN),
    ("DELETE FROM checkpoints",),
    ("UPDATE checkpoints SET size = 5",),
    ("UPDATE checkpoints SET note = replace(note, '\n9\n', '\n8\n')",),
    ("UPDATE checkpoints SET note = ''",),
]


async def test_every_change_by_sql_is_found(recorded: Store) -> None:
    kept = (tables.ledger, tables.checkpoints)
    with reading(recorded._engine, "test") as connection:
        rows = [
            [dict(row) for row in connection.execute(select(table)).mappings()]
            for table in kept
        ]
    missed = []
    for statements in TAMPERINGS:
        execute(recorded, *statements)
        try:
            recorded.log.verify()
            missed.append(statements)
        except ChainBrokenError:
            pass
        with writing(recorded._engine, "restore") as connection:
            for table, content in zip(kept, rows, strict=True):
                connection.execute(delete(table))
                connection.execute(insert(table), content)
        recorded.log.verify()

    assert missed == []


async def test_an_edited_line_is_found_and_named(recorded: Store) -> None:
    line = next(recorded.log.lines())[:-1].replace(b"tester", b"nobody")
    with writing(recorded._engine, "tamper") as connection:
        connection.execute(
            text("UPDATE ledger SET line = :line WHERE seq = 0"), {"line": line}
        )
    with pytest.raises(ChainBrokenError, match="cannot verify entry 0"):
        recorded.log.verify()


@pytest.mark.parametrize(
    "statement",
    [
        f"DELETE FROM ledger WHERE seq = {COUNT - 1}",
        "DELETE FROM ledger",
        "DELETE FROM checkpoints",
        "UPDATE checkpoints SET note = ''",
        "UPDATE ledger SET nodes = '' WHERE seq = 7",
        "UPDATE ledger SET hash = nodes WHERE seq = 8",
        (
            "UPDATE ledger SET line = (SELECT other.line FROM ledger other "
            "WHERE other.seq = 5) WHERE seq = 8"
        ),
    ],
)
async def test_a_broken_ledger_is_not_extended(recorded: Store, statement: str) -> None:
    execute(recorded, statement)
    with pytest.raises(ChainBrokenError), recorded.lead("b"):
        pytest.fail("it led")


async def test_a_tree_that_was_changed_is_signed_for_no_size(recorded: Store) -> None:
    execute(
        recorded,
        "UPDATE ledger SET nodes = (SELECT other.nodes FROM ledger other "
        "WHERE other.seq = 0) WHERE seq = 2",
    )
    with pytest.raises(ChainBrokenError, match="does not lead to the head"):
        recorded.log.checkpoint(3)


async def test_a_store_that_was_set_back_is_found_by_a_checkpoint_kept_elsewhere(
    recorded: Store,
) -> None:
    kept = recorded.log.checkpoint()
    older = recorded.log.checkpoint(5)
    execute(recorded, "DELETE FROM ledger WHERE seq >= 5")
    with writing(recorded._engine, "tamper") as connection:
        connection.execute(
            text("UPDATE checkpoints SET size = 5, note = :note"), {"note": older.note}
        )

    assert recorded.log.verify().size == 5  # the store alone cannot know
    with pytest.raises(ChainBrokenError, match="promised 9 entries"):
        recorded.log.verify([kept])


async def test_a_store_that_was_emptied_is_found_by_a_checkpoint_kept_elsewhere(
    recorded: Store,
) -> None:
    kept = recorded.log.checkpoint()
    execute(recorded, "DELETE FROM ledger", "DELETE FROM checkpoints")

    assert recorded.log.verify().size == 0
    with pytest.raises(ChainBrokenError, match="promised 9 entries"):
        recorded.log.verify([kept])


async def test_a_ledger_rewritten_with_its_own_key_is_found_from_outside(
    recorded: Store, draft: Drafts
) -> None:
    kept = recorded.log.checkpoint()
    execute(recorded, "DELETE FROM ledger", "DELETE FROM checkpoints")
    with recorded.lead("forger") as journal:
        for number in range(COUNT):
            await journal.settle([draft(name=f"n{number}", plan="innocent")])

    assert recorded.log.verify().witnessed == COUNT
    with pytest.raises(ChainBrokenError, match="rewritten or forked"):
        recorded.log.verify([kept])


async def test_a_checkpoint_by_another_key_vouches_for_nothing(recorded: Store) -> None:
    forged: Checkpoint = sign_checkpoint(
        Signer("bud/test", bytes(32)), COUNT, EMPTY_ROOT
    )
    with writing(recorded._engine, "tamper") as connection:
        connection.execute(
            text("UPDATE checkpoints SET note = :note"), {"note": forged.note}
        )
    with pytest.raises(ChainBrokenError, match="nobody known signed it"):
        recorded.log.verify()
