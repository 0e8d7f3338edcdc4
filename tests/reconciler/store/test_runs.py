"""Runs, suspensions and frozen digests."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from reconciler.ledger import Draft
from reconciler.store import Frozen, Run, Store, Suspension
from reconciler.values import Key, Unit
from schemas.errors import PermanentError
from schemas.objects import Ref

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
CHAT = Ref("Endpoint", "default", "chat")
UNIT = Unit(
    key=Key("local", CHAT),
    content=b"one",
    digest="o" * 64,
    after=(Key("local", Ref("Model", "default", "llama")),),
)
DRAFT = Draft(
    actor="ana",
    commit="c" * 40,
    plan="p" * 64,
    step="change Endpoint/default/chat",
    target="local",
    outcome="intended",
)


def run(name: str, *, environment: str = "local", minute: int = 0) -> Run:
    return Run(
        id=name,
        environment=environment,
        commit="c" * 40,
        plan="p" * 64,
        started_at=NOW + timedelta(minutes=minute),
    )


def test_a_run_is_there_before_it_ends(store: Store) -> None:
    store.start_run(run("one"))
    assert store.runs() == [run("one")]

    ended = replace(
        run("one"),
        ended_at=NOW,
        result="failed",
        error="no room",
        summary={"created": 2, "failed": 1},
    )
    store.end_run(ended)
    assert store.runs() == [ended]


def test_the_newest_runs_come_first(store: Store) -> None:
    for minute in (1, 3, 2):
        store.start_run(run(f"run-{minute}", minute=minute))
    store.start_run(run("elsewhere", environment="production", minute=4))

    assert [found.id for found in store.runs(limit=2)] == ["elsewhere", "run-3"]
    assert [found.id for found in store.runs(environment="local")] == [
        "run-3",
        "run-2",
        "run-1",
    ]


def test_a_run_ends_once(store: Store) -> None:
    ended = replace(run("one"), ended_at=NOW, result="done")
    with pytest.raises(PermanentError, match="one is not running"):
        store.end_run(ended)
    store.start_run(run("one"))
    store.end_run(ended)
    with pytest.raises(PermanentError, match="one is not running"):
        store.end_run(replace(ended, result="failed"))
    assert store.runs() == [ended]


def test_a_run_starts_once(store: Store) -> None:
    store.start_run(run("one"))
    with pytest.raises(PermanentError, match="cannot start run"):
        store.start_run(run("one"))


def test_a_suspension_ends_by_itself(store: Store) -> None:
    suspension = Suspension(
        ref=CHAT, reason="incident 7", actor="ana", expires_at=NOW + timedelta(hours=1)
    )
    store.suspend(suspension)

    assert store.suspensions(NOW) == {CHAT: suspension}
    assert store.suspensions(NOW + timedelta(hours=1)) == {}


def test_a_later_suspension_replaces_the_earlier(store: Store) -> None:
    first = Suspension(ref=CHAT, reason="a", actor="ana", expires_at=NOW)
    later = replace(first, reason="b", expires_at=NOW + timedelta(days=1))
    store.suspend(first)
    store.suspend(later)

    assert store.suspensions(NOW) == {CHAT: later}


def test_resuming_ends_one_suspension(store: Store) -> None:
    other = replace(CHAT, name="code")
    for ref in (CHAT, other):
        store.suspend(
            Suspension(
                ref=ref, reason="", actor="ana", expires_at=NOW + timedelta(days=1)
            )
        )

    assert store.resume(CHAT, "ana")
    assert not store.resume(CHAT, "ana")
    assert list(store.suspensions(NOW)) == [other]


def test_a_frozen_digest_stays_frozen_until_thawed(store: Store) -> None:
    first = Frozen(digest="d", reason="crashed", at=NOW, stand_in=UNIT)
    later = Frozen(digest="d", reason="crashed again", at=NOW + timedelta(hours=1))
    store.freeze([first], "ana", "rollback")
    assert store.frozen() == {"d": first}
    store.freeze([later], "ana", "freeze")

    assert store.frozen() == {"d": later}
    assert store.thaw(["d", "e"], "ana", "resume") == 1
    assert store.thaw(["d", "e"], "ana", "resume") == 0
    assert store.frozen() == {}


async def test_a_decision_reaches_the_ledger_once(store: Store) -> None:
    expires = NOW + timedelta(days=1)
    store.suspend(Suspension(ref=CHAT, reason="why", actor="ana", expires_at=expires))
    store.resume(CHAT, "ben")
    store.resume(CHAT, "ben")
    store.freeze([], "ana", "x" * 100_000)

    with store.lead("daemon") as journal:
        await journal.record(store.decisions())

    assert store.decisions() == []
    said = [(e.actor, e.step[:80], e.outcome) for e in store.log.entries()]
    assert [*reversed(said)] == [
        (
            "ana",
            "suspend Endpoint/default/chat until 2026-11-24T12:00:00.000000Z: why",
            "decided",
        ),
        ("ben", "resume Endpoint/default/chat", "decided"),
        ("ana", "x" * 80, "decided"),
    ]


async def test_what_lived_before_is_kept_with_the_intent(store: Store) -> None:
    with store.lead("daemon") as journal:
        await journal.intend([DRAFT], former=[replace(UNIT, content=b"a")])
        await journal.intend([DRAFT], former=[UNIT])

    assert store.former(CHAT) == {UNIT.key: UNIT}
    assert store.former(replace(CHAT, name="code")) == {}


def test_times_are_kept_to_the_microsecond_in_any_zone(store: Store) -> None:
    at = datetime.fromisoformat("2026-11-23T14:30:00.000001+05:30")
    store.freeze([Frozen(digest="d", reason="", at=at)], "ana", "freeze")

    assert store.frozen()["d"].at == at
