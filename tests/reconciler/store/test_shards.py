"""Replicas that share one ledger: one chain, and nothing from who was deposed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path

import pytest

from reconciler.ledger import Draft
from reconciler.store import Fenced, Owned, Ownership, Store, open_store
from schemas.errors import TemporaryError

Drafts = Callable[..., Draft]
Owneds = Callable[..., Owned]


@pytest.fixture
def other(
    url: str, tmp_path: Path, clock: Callable[[], datetime], store: Store
) -> Iterator[Store]:
    """The same database, opened by another replica."""
    with open_store(url, key=tmp_path / "key", origin="bud/test", clock=clock) as made:
        yield made


async def test_two_replicas_append_to_one_chain(
    store: Store, other: Store, draft: Drafts
) -> None:
    with store.share() as one, other.share() as two:
        for journal in (one, two):
            journal.claims = {"home": 1}
        for _ in range(5):
            await asyncio.gather(one.settle([draft()]), two.settle([draft()] * 3))
    assert store.log.verify().size == 20


async def test_a_replica_that_was_deposed_writes_nothing_more(
    store: Store, other: Store, draft: Drafts, owned: Owneds
) -> None:
    first = store.shards.claim("home", "one", None)
    assert first is not None
    with store.share() as one, other.share() as two:
        one.claims = {"home": first}
        await one.settle([draft()])
        seen = other.shards.holders()["home"]
        second = other.shards.claim("home", "two", seen)
        assert second == first + 1
        two.claims = {"home": second}
        with pytest.raises(Fenced, match="another replica drives home"):
            await one.intend([draft("intended")], [owned(state=Ownership.PENDING)])
        await two.settle([draft()])
        # It is not broken: what it claims from here on, it may write.
        one.claims = {"home": second + 1}
        with pytest.raises(Fenced):
            await one.settle([draft()])
    assert other.inventory() == {}
    assert other.log.verify().size == 2


async def test_one_fenced_append_takes_no_other_with_it(
    store: Store, draft: Drafts
) -> None:
    token = store.shards.claim("home", "one", None)
    assert token is not None
    with store.share() as journal:
        journal.claims = {"home": token, "default/lost": 7}
        store.shards.claim("default/lost", "two", None)
        lost = Draft(
            actor="tester",
            commit="c" * 40,
            plan="p",
            step="create Endpoint/chat",
            target="kubernetes/default/lost",
            outcome="unchanged",
        )
        answers = await asyncio.gather(
            journal.settle([lost]), journal.settle([draft()]), return_exceptions=True
        )
    assert isinstance(answers[0], Fenced)
    assert isinstance(answers[1], tuple)
    assert store.log.verify().size == 1


def test_of_two_that_saw_the_same_one_claims(store: Store, other: Store) -> None:
    assert store.shards.claim("s", "one", None) == 1
    assert other.shards.claim("s", "two", None) is None
    seen = store.shards.holders()["s"]
    assert other.shards.claim("s", "two", seen) == 2
    assert store.shards.claim("s", "one", seen) is None
    store.shards.release("s", 1)  # what was lost cannot be given away
    assert store.shards.holders()["s"].name == "two"
    other.shards.release("s", 2)
    assert store.shards.holders()["s"].name == ""


def test_who_leads_alone_and_who_shares_keep_each_other_out(
    store: Store, other: Store
) -> None:
    store.shards.claim("home", "bud-0", None)
    with (
        store.share(),
        other.share(),
        pytest.raises(TemporaryError, match="bud-0 share it"),
        other.lead("by hand"),
    ):
        pytest.fail("it leads beside them")
    store.shards.release("home", 1)
    with (
        store.lead("by hand"),
        pytest.raises(TemporaryError, match=r"by hand .* leads it"),
        other.share(),
    ):
        pytest.fail("it shares beside it")
