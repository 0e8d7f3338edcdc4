"""What is to be done with one replica now: decided from its record and the facts (pure).

`replicas.py` gathers the facts and carries the move out, for a change as for the
supervisor, so the two can never disagree. Neither reads a clock here: now is an
argument, and so is the random number of the jitter.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from reconciler.targets.local.records import Instance, Phase

__all__ = ["CHECK_EVERY_S", "Facts", "Move", "backoff_s", "decide"]

BACKOFF_BASE_S, BACKOFF_CAP_S = 0.5, 60.0
"""The first restart is nearly at once, because most ends are accidents; a replica
that keeps ending is tried about once a minute, and costs nearly nothing."""
CHECK_EVERY_S = 10.0
"""Between two looks at whether a serving replica still listens."""
MISSES = 3
"""A replica silent for so many checks, 30 s and more, hangs: a busy one still
answers `/v1/models`, which waits for no GPU."""
QUIET_S = 1.0
"""No connection for as long, and none will come: the gateway takes a changed
address file in well below a second."""
GRACE_S = 10.0
"""Between SIGTERM and SIGKILL; our engines end within 5 s."""
STEADY_S = 300.0
"""After serving for as long, earlier failures no longer count."""


class Move(StrEnum):
    STAY = "stay"
    PROBE = "probe"
    """Send it a real request."""
    CHECK = "check"
    """Ask whether it still listens."""
    SERVE = "serve"
    """It answered: give it an address."""
    BURY = "bury"
    """It ended: take its address away and plan the next start."""
    KILL = "kill"
    """It hangs, or does not end by itself."""
    START = "start"
    TERMINATE = "terminate"
    FORGET = "forget"
    """It is gone, as wanted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What is known of one replica at one moment."""

    now: float
    alive: bool
    answered: bool = False
    """Its last request, real or light, was answered."""
    asking: bool = False
    """A request is on its way."""
    asked_at: float = 0.0
    misses: int = 0
    """Checks in a row that were not answered."""
    quiet_s: float = 0.0
    """How long it has had no connection."""
    told: bool = False
    """It was sent SIGTERM by this process."""


def decide(instance: Instance, facts: Facts) -> Move:
    """Choose the one move that takes ``instance`` forward."""
    elapsed = max(0.0, facts.now - instance.since)
    leaving = instance.phase in {Phase.DRAINING, Phase.STOPPING}
    if not facts.alive and instance.phase is not Phase.WAITING:
        return Move.FORGET if leaving else Move.BURY
    match instance.phase:
        case Phase.WAITING:
            return Move.START if facts.now >= instance.retry_at else Move.STAY
        case Phase.STARTING:
            return _starting(instance, facts, elapsed)
        case Phase.SERVING:
            return _serving(facts)
        case Phase.DRAINING:
            done = facts.quiet_s >= QUIET_S or elapsed >= instance.drain_timeout_s
            return Move.TERMINATE if done else Move.STAY
        case Phase.STOPPING:
            return _stopping(facts, elapsed)


def backoff_s(failures: int, random: float) -> float:
    """Seconds before the next start: full jitter below an exponential ceiling.

    ``random`` is from 0 to 1. Full jitter, so that replicas which ended together do
    not start together: https://aws.amazon.com/blogs/architecture/
    exponential-backoff-and-jitter/
    """
    # 2^7 times the base is past the cap; a larger power would only overflow.
    ceiling = min(BACKOFF_CAP_S, BACKOFF_BASE_S * 2.0 ** min(failures, 7))
    return random * ceiling


def _starting(instance: Instance, facts: Facts, elapsed: float) -> Move:
    if facts.answered:
        return Move.SERVE
    if elapsed >= instance.ready_timeout_s:
        return Move.KILL
    return Move.STAY if facts.asking else Move.PROBE


def _serving(facts: Facts) -> Move:
    if facts.misses >= MISSES:
        return Move.KILL
    due = facts.now - facts.asked_at >= CHECK_EVERY_S
    return Move.CHECK if due and not facts.asking else Move.STAY


def _stopping(facts: Facts, elapsed: float) -> Move:
    if elapsed >= GRACE_S:
        return Move.KILL
    # A run that was killed right after it wrote the phase has told nobody yet.
    return Move.STAY if facts.told else Move.TERMINATE
