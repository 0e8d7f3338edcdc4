"""Holds: what must be left alone for now, and why (pure).

The pipeline asks it before planning. Suspensions and frozen digests come from
the store; backoff and fights are read off the ledger itself, so that a restarted
daemon waits as long as the old one would have, and `bud why` says the same as
the daemon does.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from reconciler.ledger import Entry
from reconciler.ordering import Waits
from reconciler.store.values import Frozen, Suspension
from reconciler.values import Key, Unit
from schemas.objects import Ref

__all__ = ["Record", "held", "records"]

BACKOFF_BASE_S = 5.0
BACKOFF_CAP_S = 600.0
"""Ten minutes: a person who mended the cause outside of git waits no longer."""

FIGHT_THRESHOLD = 5.0
"""Corrections a minute, decayed. Config Sync's fight detector uses the same."""
FIGHT_HALF_LIFE_S = 60.0
FIGHT_PAUSE_S = 300.0
_ONE_CORRECTION = math.log(2) * 60 / FIGHT_HALF_LIFE_S
"""So that n corrections a minute, kept up, decay to a rate of n."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What the ledger's recent entries say about one object at one target."""

    failures: int = 0
    """In a row, since the last success or the last other digest."""
    failed_at: datetime | None = None
    error: str = ""
    digest: str = ""
    fight_rate: float = 0.0
    """Corrections a minute, as of ``corrected_at``."""
    corrected_at: datetime | None = None


def records(entries: Iterable[Entry]) -> dict[Key, Record]:
    """Fold entries, oldest first, into one record for each object."""
    found: dict[Key, Record] = {}
    for entry in entries:
        verb, _, name = entry.step.partition(" ")
        try:
            key = Key(entry.target, Ref.parse(name))
        except ValueError:
            continue  # a marker of a run, not a step
        found[key] = _fold(found.get(key, Record()), entry, verb)
    return found


def _fold(record: Record, entry: Entry, verb: str) -> Record:
    at = datetime.fromisoformat(entry.at)
    failures = record.failures if entry.after == record.digest else 0
    rate, corrected = record.fight_rate, record.corrected_at
    if entry.outcome == "failed" and entry.error != "interrupted":
        failures, error = failures + 1, entry.error
    elif entry.outcome in ("created", "changed", "deleted", "unchanged"):
        failures, error = 0, ""
        if verb == "correct":
            rate, corrected = _decayed(record, at) + _ONE_CORRECTION, at
    else:  # intended, skipped or interrupted: says nothing about the object
        return record
    return Record(
        failures=failures,
        failed_at=at if error else None,
        error=error,
        digest=entry.after,
        fight_rate=rate,
        corrected_at=corrected,
    )


def _decayed(record: Record, now: datetime) -> float:
    if record.corrected_at is None:
        return 0.0
    age = (now - record.corrected_at).total_seconds()
    return record.fight_rate * math.exp2(-age / FIGHT_HALF_LIFE_S)


def held(
    keys: Iterable[Key],
    *,
    units: Mapping[Key, Unit],
    history: Mapping[Key, Record],
    suspensions: Mapping[Ref, Suspension],
    frozen: Mapping[str, Frozen],
    writers: Mapping[Key, str],
    now: datetime,
) -> dict[Key, tuple[Waits, str]]:
    """Each key that must be left alone, with the reason a person reads.

    ``writers`` says who else writes an object, where its target can tell.
    """
    found: dict[Key, tuple[Waits, str]] = {}
    for key in keys:
        unit = units.get(key)
        digest = unit.digest if unit else ""
        record = history.get(key)
        if key.ref in suspensions:
            item = suspensions[key.ref]
            until = f"{item.expires_at:%Y-%m-%d %H:%M}Z"
            detail = f"{item.actor} suspended it until {until}: {item.reason}"
            found[key] = Waits.SUSPENDED, detail
        elif digest in frozen:
            found[key] = (
                Waits.FROZEN,
                f"this revision is frozen: {frozen[digest].reason}",
            )
        elif record is not None and record.digest == digest:
            reason = _backoff(key, record, now) or _fight(
                record, writers.get(key, ""), now
            )
            if reason is not None:
                found[key] = reason
    return found


def _backoff(key: Key, record: Record, now: datetime) -> tuple[Waits, str] | None:
    if record.failed_at is None:
        return None
    ceiling = min(BACKOFF_CAP_S, BACKOFF_BASE_S * 2.0 ** (record.failures - 1))
    # Full jitter, drawn from the failure itself: whoever asks gets the same answer.
    seed = hashlib.sha256(f"{key} {record.failed_at.isoformat()}".encode()).digest()
    wait = ceiling * (0.5 + int.from_bytes(seed[:4]) / 2**33)
    left = (record.failed_at + timedelta(seconds=wait) - now).total_seconds()
    if left <= 0:
        return None
    times = "once" if record.failures == 1 else f"{record.failures} times"
    detail = f"failed {times}, next try in {math.ceil(left)} s: {record.error}"
    return Waits.BACKOFF, detail


def _fight(record: Record, writer: str, now: datetime) -> tuple[Waits, str] | None:
    rate = record.fight_rate
    if rate < FIGHT_THRESHOLD or record.corrected_at is None:
        return None
    left = FIGHT_PAUSE_S - (now - record.corrected_at).total_seconds()
    if left <= 0:
        return None
    detail = (
        f"{writer or 'another writer'} undoes every correction ({rate:.1f} a minute): "
        f"left alone for {math.ceil(left)} s"
    )
    return Waits.FIGHT, detail
