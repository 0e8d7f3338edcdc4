"""What the store keeps, and that it comes back as it was put in."""

from __future__ import annotations

from collections.abc import Callable

from reconciler.ledger import Draft
from reconciler.store import Owned, Ownership, Store
from reconciler.values import Key


async def test_an_object_is_owned_from_intent_until_confirmed_gone(
    store: Store,
    draft: Callable[..., Draft],
    owned: Callable[..., Owned],
    key: Callable[..., Key],
) -> None:
    with store.lead("a") as journal:
        await journal.intend([draft("intended")], [owned(state=Ownership.PENDING)])
        assert store.inventory()[key()].state is Ownership.PENDING
        await journal.settle([draft("deleted")], gone=[key()])

    assert store.inventory() == {}
    assert [entry.outcome for entry in store.log.entries()] == ["deleted", "intended"]
