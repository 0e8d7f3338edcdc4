"""A plan is used once, whoever else wants it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from reconciler.store import SavedPlan, Store
from schemas.errors import PermanentError


def test_a_plan_comes_back_byte_for_byte(store: Store) -> None:
    store.save_plan("digest", b'{"steps":[]}\x00\xff')

    plan = store.plan("digest")
    assert plan is not None
    assert (plan.document, plan.used_at) == (b'{"steps":[]}\x00\xff', None)
    assert store.plan("another") is None


def test_the_same_plan_again_changes_nothing(store: Store) -> None:
    store.save_plan("digest", b"plan")
    first = store.use_plan("digest", "a")
    store.save_plan("digest", b"plan")

    assert store.plan("digest") == first


def test_the_same_plan_can_be_saved_by_many_at_once(store: Store) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: store.save_plan("digest", b"plan"), range(8)))

    assert store.use_plan("digest", "a").document == b"plan"


def test_of_two_consumers_of_a_plan_one_wins(store: Store) -> None:
    store.save_plan("digest", b"plan")

    def take(name: str) -> SavedPlan | PermanentError:
        try:
            return store.use_plan("digest", name)
        except PermanentError as error:
            return error

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(take, [f"consumer-{number}" for number in range(8)]))

    (won,) = (answer for answer in answers if isinstance(answer, SavedPlan))
    lost = [answer for answer in answers if isinstance(answer, PermanentError)]
    assert store.plan("digest") == won
    assert len(lost) == 7
    assert all(f"was used by {won.used_by}" in str(error) for error in lost)


def test_a_plan_that_is_not_kept_cannot_be_used(store: Store) -> None:
    with pytest.raises(PermanentError, match="no plan missing is kept"):
        store.use_plan("missing", "a")
