"""What is done with one replica: each row is a moment of its life."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.targets.local.lifecycle import (
    BACKOFF_CAP_S,
    CHECK_EVERY_S,
    GRACE_S,
    MISSES,
    QUIET_S,
    Facts,
    Move,
    backoff_s,
    decide,
)
from reconciler.targets.local.records import Instance, Phase
from schemas.local import Probe

NOW = 1_000.0
LIVES = Facts(now=NOW, alive=True)
ENDED = Facts(now=NOW, alive=False)


def at(phase: Phase, **changes: object) -> Instance:
    instance = Instance(
        id="default.chat.uid.0.aa",
        uid="uid",
        slot=0,
        port=40000,
        revision="r",
        phase=phase,
        since=NOW,
        argv=(),
        env={},
        probe=Probe(task="chat", model="chat"),
        ready_timeout_s=60,
        drain_timeout_s=30,
    )
    return instance.model_copy(update=changes)


STARTING, SERVING = at(Phase.STARTING), at(Phase.SERVING)
DRAINING, STOPPING = at(Phase.DRAINING), at(Phase.STOPPING)
WAITING = at(Phase.WAITING, retry_at=NOW + 5)


@pytest.mark.parametrize(
    ("instance", "facts", "move", "reason"),
    [
        (STARTING, LIVES, Move.PROBE, "nobody has asked it yet"),
        (STARTING, replace(LIVES, asking=True), Move.STAY, "one request at a time"),
        (STARTING, replace(LIVES, answered=True), Move.SERVE, "a real answer"),
        (STARTING, ENDED, Move.BURY, "it ended before it answered"),
        (at(Phase.STARTING, since=NOW - 60), LIVES, Move.KILL, "ready timeout"),
        (
            at(Phase.STARTING, since=NOW - 60),
            replace(LIVES, answered=True),
            Move.SERVE,
            "an answer in the last moment counts",
        ),
        (SERVING, replace(LIVES, asked_at=NOW), Move.STAY, "checked a moment ago"),
        (SERVING, LIVES, Move.CHECK, "not checked for long"),
        (SERVING, replace(LIVES, asking=True), Move.STAY, "the check is on its way"),
        (SERVING, replace(LIVES, misses=MISSES - 1), Move.CHECK, "it may be busy"),
        (SERVING, replace(LIVES, misses=MISSES), Move.KILL, "it hangs"),
        (SERVING, ENDED, Move.BURY, "it ended"),
        (WAITING, ENDED, Move.STAY, "not due yet"),
        (WAITING, replace(ENDED, now=NOW + 5), Move.START, "due"),
        (DRAINING, LIVES, Move.STAY, "somebody may still come"),
        (DRAINING, replace(LIVES, quiet_s=QUIET_S), Move.TERMINATE, "nobody is left"),
        (at(Phase.DRAINING, since=NOW - 30), LIVES, Move.TERMINATE, "drain timeout"),
        (DRAINING, ENDED, Move.FORGET, "gone by itself"),
        (STOPPING, LIVES, Move.TERMINATE, "killed before it told: tell again"),
        (STOPPING, replace(LIVES, told=True), Move.STAY, "it has its grace"),
        (
            at(Phase.STOPPING, since=NOW - GRACE_S),
            replace(LIVES, told=True),
            Move.KILL,
            "its grace is over",
        ),
        (STOPPING, ENDED, Move.FORGET, "gone, as wanted"),
        (at(Phase.STARTING, since=NOW + 999), LIVES, Move.PROBE, "clock set back"),
    ],
)
def test_each_moment_has_one_move(
    instance: Instance, facts: Facts, move: Move, reason: str
) -> None:
    assert decide(instance, facts) is move, reason


def test_checks_are_spread_over_time() -> None:
    asked = replace(LIVES, asked_at=NOW - CHECK_EVERY_S)
    assert decide(SERVING, asked) is Move.CHECK


@given(st.integers(0, 10_000), st.floats(0, 1))
def test_backoff_grows_is_capped_and_is_jittered_to_zero(
    failures: int, random: float
) -> None:
    assert 0 <= backoff_s(failures, random) <= BACKOFF_CAP_S
    assert backoff_s(failures, 0.0) == 0
    assert backoff_s(failures + 1, 1.0) >= backoff_s(failures, 1.0)


def test_a_crash_loop_is_tried_about_once_a_minute() -> None:
    assert [backoff_s(n, 1.0) for n in (1, 2, 3, 7, 50)] == [1, 2, 4, 60, 60]
