"""What is owned comes back as it was put in, without any spec."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from reconciler.ledger import Draft
from reconciler.store import Owned, Ownership, Store
from reconciler.values import Key
from schemas.errors import PermanentError

Drafts = Callable[..., Draft]
Owneds = Callable[..., Owned]
Keys = Callable[..., Key]


async def test_an_object_is_owned_from_intent_until_confirmed_gone(
    store: Store, draft: Drafts, owned: Owneds, key: Keys
) -> None:
    with store.lead("a") as journal:
        await journal.intend([draft("intended")], [owned(state=Ownership.PENDING)])
        assert store.inventory()[key()].state is Ownership.PENDING
        await journal.settle([draft("created")], [owned()])
        assert store.inventory()[key()].state is Ownership.LIVE
        await journal.intend([draft("intended")], [owned(state=Ownership.DELETING)])
        assert store.inventory()[key()].state is Ownership.DELETING
        await journal.settle([draft("failed")])
        assert store.inventory()[key()].state is Ownership.DELETING
        await journal.settle([draft("deleted")], gone=[key()])

    assert store.inventory() == {}


async def test_what_is_owned_is_enough_to_delete_it(
    store: Store, draft: Drafts, owned: Owneds, key: Keys
) -> None:
    item = replace(
        owned("route", after=(key("chat"), key("code"))), uid="u", version="9"
    )
    with store.lead("a") as journal:
        await journal.settle([draft("created")], [item])

    (found,) = store.inventory().values()
    assert replace(found, updated_at=None) == item
    assert found.updated_at is not None


async def test_the_last_word_on_an_object_stays(
    store: Store, draft: Drafts, owned: Owneds, key: Keys
) -> None:
    with store.lead("a") as journal:
        await journal.settle([draft()], [owned("x"), owned("y")])
        await journal.settle([draft()], [owned("y"), owned("z")], gone=[key("x")])
        await journal.settle([draft()], gone=[key("never")])

    assert set(store.inventory()) == {key("y"), key("z")}


async def test_nothing_is_owned_without_an_entry_that_says_why(
    store: Store, owned: Owneds
) -> None:
    with store.lead("a") as journal, pytest.raises(PermanentError, match="says why"):
        await journal.settle([], [owned()])
    assert store.inventory() == {}


async def test_an_intent_claims_nothing_it_has_not_seen(
    store: Store, draft: Drafts, owned: Owneds
) -> None:
    with store.lead("a") as journal:
        with pytest.raises(PermanentError, match="cannot intend"):
            await journal.intend([draft("intended")], [owned()])
        with pytest.raises(PermanentError, match="cannot intend"):
            await journal.intend([draft("created")])
        with pytest.raises(PermanentError, match="cannot settle"):
            await journal.settle([draft("intended")])
    assert store.log.entries() == []
