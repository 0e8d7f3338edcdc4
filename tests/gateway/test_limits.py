"""Leases: however many workers ask in whatever order, the limit holds."""

from __future__ import annotations

import random
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.accounts import Price, amounts, charge, reserve
from gateway.limits import (
    NANO,
    Authority,
    Grant,
    Limiter,
    Slices,
    settle,
    take,
    window_of,
)
from gateway.usage import Usage

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC).timestamp()


class Office:
    """Workers around one authority, each asking when it must."""

    def __init__(self, limiter: Limiter, workers: int) -> None:
        self.limiter = limiter
        self.authority = Authority()
        self.workers = [Slices() for _ in range(workers)]

    def admit(self, worker: int, amount: int, now: float) -> bool:
        slices, limiter = self.workers[worker], self.limiter
        need = {limiter.kind: amount}
        if take(slices.purse([limiter]), need) is None:
            return True
        grant = self.authority.grant(
            limiter,
            worker=worker + 1,
            need=slices.missing(limiter, amount),
            workers=len(self.workers),
            now=now,
        )
        slices.put(limiter.id, grant.amount)
        return take(slices.purse([limiter]), need) is None

    def settle(self, worker: int, reserved: int, actual: int) -> None:
        kind = self.limiter.kind
        purse = self.workers[worker].purse([self.limiter])
        settle(purse, {kind: reserved}, {kind: actual})

    def give_back(self, worker: int) -> None:
        for name, amount in self.workers[worker].surplus():
            self.authority.give_back(name, worker=worker + 1, amount=amount)


@given(st.integers(1, 300), st.integers(1, 5), st.integers(0, 2**32))
def test_no_minute_admits_more_than_a_full_bucket_and_its_refill(
    limit: int, workers: int, seed: int
) -> None:
    office = Office(Limiter.of("key a/b", "requests", limit), workers)
    dice = random.Random(seed)
    admitted, now = 0, NOW
    for _ in range(400):
        now += dice.random() * 0.2
        worker = dice.randrange(workers)
        admitted += office.admit(worker, 1, now)
        if dice.random() < 0.1:
            office.give_back(worker)
        assert admitted <= limit + (now - NOW) * limit / 60 + 1e-6


@given(st.integers(1, 50), st.integers(1, 5), st.integers(0, 2**32))
def test_never_more_requests_run_at_once_than_allowed(
    limit: int, workers: int, seed: int
) -> None:
    office = Office(Limiter.of("key a/b", "concurrent", limit), workers)
    dice = random.Random(seed)
    running: list[int] = []
    for _ in range(300):
        worker = dice.randrange(workers)
        if running and dice.random() < 0.5:
            office.settle(running.pop(dice.randrange(len(running))), 1, 0)
        elif office.admit(worker, 1, NOW):
            running.append(worker)
        if dice.random() < 0.1:
            office.give_back(worker)
        assert len(running) <= limit


@given(st.integers(100, 10_000), st.integers(1, 5), st.integers(0, 2**32))
def test_a_budget_is_never_overspent_when_the_estimate_is_an_upper_bound(
    limit: int, workers: int, seed: int
) -> None:
    limiter = Limiter.of("key a/b", "budget", limit)
    office = Office(limiter, workers)
    dice = random.Random(seed)
    spent = 0
    for _ in range(300):
        worker, reserved = dice.randrange(workers), dice.randint(1, 100)
        if office.admit(worker, reserved, NOW):
            cost = dice.randint(0, reserved)
            office.settle(worker, reserved, cost)
            office.authority.spent("key a/b", cost, worker=worker + 1, at=NOW)
            spent += cost
        if dice.random() < 0.1:
            office.give_back(worker)
        assert spent <= limit
    assert office.authority.spending()["key a/b:month"] == ("2026-11", spent)


def test_an_answer_that_cost_more_than_reserved_is_paid_by_the_next_slice() -> None:
    office = Office(Limiter.of("key a/b", "tokens", 1000), workers=1)
    assert office.admit(0, 100, NOW)
    office.settle(0, 100, 900)
    assert not office.admit(0, 200, NOW)
    assert office.admit(0, 100, NOW)


def test_a_request_larger_than_a_minutes_worth_passes_alone() -> None:
    office = Office(Limiter.of("key a/b", "tokens", 1000), workers=2)
    assert office.admit(0, 5000, NOW)
    assert not office.admit(1, 1, NOW + 200)
    assert office.admit(1, 1, NOW + 301)


def test_a_denial_says_when_it_is_worth_asking_again() -> None:
    authority, limiter = Authority(), Limiter.of("key a/b", "requests", 60)
    for _ in range(60):
        authority.grant(limiter, worker=1, need=1, workers=60, now=NOW)
    grant = authority.grant(limiter, worker=1, need=5, workers=60, now=NOW)
    assert grant == Grant(0, 5.0)
    budget = Limiter.of("key a/b", "budget", 10, "day")
    assert authority.grant(budget, worker=1, need=11, workers=1, now=NOW) == Grant(
        0, 43200
    )


def test_what_a_dead_worker_held_is_free_again_and_what_it_spent_is_not() -> None:
    authority, limiter = Authority(), Limiter.of("key a/b", "budget", 100)
    assert (
        authority.grant(limiter, worker=1, need=100, workers=1, now=NOW).amount == 100
    )
    authority.spent("key a/b", 30, worker=1, at=NOW)
    authority.forget(1)
    assert authority.grant(limiter, worker=2, need=71, workers=1, now=NOW).amount == 0
    assert authority.grant(limiter, worker=2, need=70, workers=1, now=NOW).amount == 70


def test_a_budget_begins_anew_with_its_window() -> None:
    authority, limiter = Authority(), Limiter.of("key a/b", "budget", 100, "day")
    authority.spent("key a/b", 100, worker=0, at=NOW)
    assert authority.grant(limiter, worker=1, need=1, workers=1, now=NOW).amount == 0
    tomorrow = NOW + 86400
    assert authority.grant(limiter, worker=1, need=1, workers=1, now=tomorrow).amount
    authority.spent("key a/b", 5, worker=0, at=NOW)  # a late record of yesterday
    assert authority.spending()["key a/b:day"] == ("2026-11-24", 0)


@pytest.mark.parametrize(
    ("per", "at", "window", "end"),
    [
        ("day", "2026-02-28T23:59:59", "2026-02-28", "2026-03-01T00:00:00"),
        ("month", "2026-02-28T23:59:59", "2026-02", "2026-03-01T00:00:00"),
        ("month", "2026-12-31T00:00:00", "2026-12", "2027-01-01T00:00:00"),
    ],
)
def test_windows_are_calendar_days_and_months(
    per: str, at: str, window: str, end: str
) -> None:
    now = datetime.fromisoformat(at + "+00:00").timestamp()
    assert window_of(per, now) == (
        window,
        datetime.fromisoformat(end + "+00:00").timestamp(),
    )


def test_a_charge_is_exact_and_rounded_up() -> None:
    price = Price(input=150 * NANO // 1000, output=600 * NANO // 1000, cached=0)
    assert charge(Usage(1_000_000, 1_000_000), price) == 750_000_000
    assert charge(Usage(1, 0), price) == 150
    assert charge(Usage(10, 0, cached=4), price) == 900
    assert charge(Usage(1, 0), Price(1, 0, 0)) == 1


def test_what_is_reserved_grows_with_what_may_be_answered() -> None:
    body = b"x" * 400
    assert reserve({"max_tokens": 50}, body, Price(0, 0, 0))["tokens"] == 151
    assert reserve({"max_tokens": 50, "n": 3}, body, Price(0, 0, 0))["tokens"] == 251
    assert reserve({}, body, Price(0, 0, 0))["tokens"] == 613
    assert amounts(7, 0, running=0)["concurrent"] == 0


def test_what_costs_nothing_needs_no_slice_of_a_budget() -> None:
    slices, budget = Slices(), Limiter.of("key a/b", "budget", 100)
    free = amounts(7, 0, running=1)
    purse = slices.purse([budget])
    assert take(purse, free) is None
    settle(purse, free, free)
    assert not list(slices.surplus())
