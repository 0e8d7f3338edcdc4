"""Reading the ledger back, and proving it to somebody who has only the key."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from reconciler.ledger import Draft, check_proof, open_checkpoint, read_proof, verify
from reconciler.store import Store
from schemas.errors import PermanentError

Drafts = Callable[..., Draft]


@pytest.fixture
async def recorded(store: Store, draft: Drafts) -> Store:
    with store.lead("a") as journal:
        for number in range(21):
            await journal.settle([draft(name=f"n{number % 3}", plan=f"p{number % 2}")])
    return store


async def test_the_newest_entries_come_first(recorded: Store) -> None:
    entries = recorded.log.entries(limit=3)

    assert [entry.seq for entry in entries] == [20, 19, 18]
    assert recorded.log.entries(plan="p1", limit=2)[1].seq == 17
    target = "local:Endpoint/default/n2"
    assert [entry.seq for entry in recorded.log.entries(target=target)][:2] == [20, 17]
    assert recorded.log.entries(plan="p1", target=target, limit=1)[0].seq == 17
    assert recorded.log.entries(plan="p9") == []


async def test_an_export_is_verified_without_the_store(recorded: Store) -> None:
    key = recorded.log.verifier
    note = recorded.log.checkpoint().note

    head = verify(recorded.log.lines(), [open_checkpoint(note, [key])])
    assert head == recorded.log.verify()
    assert (head.size, head.witnessed) == (21, 21)


async def test_every_entry_is_proven_from_the_store(recorded: Store) -> None:
    for seq in range(21):
        document = recorded.log.prove(seq).model_dump_json()
        entry = check_proof(read_proof(document), [recorded.log.verifier])
        assert entry is not None
        assert entry.seq == seq


async def test_every_growth_is_proven_from_the_store(recorded: Store) -> None:
    for new in (1, 2, 8, 21):
        for old in range(1, new + 1):
            proof = recorded.log.prove_growth(old, new)
            check_proof(proof, [recorded.log.verifier])


@pytest.mark.parametrize(
    "ask",
    [
        lambda log: log.prove(21),
        lambda log: log.prove(-1),
        lambda log: log.prove_growth(0),
        lambda log: log.prove_growth(22),
        lambda log: log.prove_growth(5, 4),
        lambda log: log.checkpoint(22),
    ],
)
async def test_what_is_not_there_is_not_proven(
    recorded: Store, ask: Callable[[Any], object]
) -> None:
    with pytest.raises(PermanentError, match="cannot"):
        ask(recorded.log)


def test_an_empty_log_is_whole_and_proves_nothing(store: Store) -> None:
    assert store.log.verify().size == 0
    assert list(store.log.lines()) == []
    with pytest.raises(PermanentError, match="has 0 entries"):
        store.log.checkpoint()
