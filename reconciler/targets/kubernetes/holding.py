"""What lives of one unit, and what that says about it. Pure.

``Reader`` gathers holdings; the target turns them into ``Live`` values here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from reconciler.targets.kubernetes.health import assess
from reconciler.targets.kubernetes.manifests import FIELD_MANAGER, Json, ObjectId
from reconciler.targets.kubernetes.ownership import OURS, Whose, fingerprint
from reconciler.targets.kubernetes.record import Record
from reconciler.values import Health, Key, Live, Presence

__all__ = ["Holding", "describe", "strays"]

_ORDER = (Health.DEGRADED, Health.PENDING, Health.APPLIED, Health.ROLLED)
_SHOWN = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Holding:
    """``objects`` has every member of the record, None where nothing lives, and
    whatever else carries our marks for this unit."""

    record: Record | None
    record_live: Json | None
    objects: Mapping[ObjectId, Json | None]
    whose: Whose = OURS
    """Whose fields tell drift."""

    @property
    def is_empty(self) -> bool:
        return self.record is None and not any(self.objects.values())


def strays(holding: Holding) -> Iterator[tuple[str, str]]:
    """Say in which way each object is not what was applied, and who did it if known."""
    if holding.record is None:
        yield "its record is gone", ""
        return
    members = holding.record.members
    for which, member in sorted(members.items()):
        live = holding.objects.get(which)
        if member.leaving:
            yield f"{which} is still to be pruned", ""
        elif live is None:
            yield f"{which} is gone", ""
        elif (
            not member.fingerprint
            or fingerprint(live, holding.whose) != member.fingerprint
        ):
            writer = _by(live)
            yield f"{which} was changed{f' by {writer}' if writer else ''}", writer
    for which in sorted(set(holding.objects) - set(members)):
        if holding.objects[which] is not None:
            yield f"{which} is in no record", ""


def describe(key: Key, holding: Holding) -> Live:
    """Say what lives under ``key``: as far as objects tell, without a request."""
    if holding.is_empty:
        return Live(key=key, presence=Presence.ABSENT)
    seen = list(strays(holding))
    found = [said for said, _ in seen]
    record = holding.record
    digest = record.digest if record is not None else ""
    if found:
        digest = _digest("strayed", digest, *found, *_state(holding))
    health, why = _health(holding)
    said = [
        *found[:_SHOWN],
        *([f"and {len(found) - _SHOWN} more"][: len(found) > _SHOWN]),
    ]
    return Live(
        key=key,
        presence=Presence.PRESENT,
        digest=digest,
        uid=_uid(holding),
        version=_digest(*_state(holding))[:16],
        health=health if not found else min(health, Health.APPLIED, key=_rank),
        detail="; ".join(said) or why,
        writer=next((writer for _, writer in seen if writer), ""),
    )


def _uid(holding: Holding) -> str:
    if holding.record_live is not None:
        return str(holding.record_live["metadata"]["uid"])
    # Without a record, the oldest name stands for the unit: stable while it lives.
    return min(
        str(live["metadata"]["uid"])
        for live in holding.objects.values()
        if live is not None
    )


def _state(holding: Holding) -> list[str]:
    """All that we own of this unit: moves with each change, and with no other."""
    record = holding.record_live
    state = [record["metadata"]["resourceVersion"]] if record is not None else []
    for which, live in sorted(holding.objects.items()):
        if live is not None:
            state.append(
                f"{which} {live['metadata']['uid']} {fingerprint(live, holding.whose)}"
            )
    return state


def _health(holding: Holding) -> tuple[Health, str]:
    worst, said = Health.ROLLED, ""
    for which, live in sorted(holding.objects.items()):
        if live is None:
            continue
        health, why = assess(live)
        if _rank(health) < _rank(worst) or (why and not said):
            worst = min(worst, health, key=_rank)
            said = f"{which}: {why}" if why else said
    return worst, said


def _rank(health: Health) -> int:
    return _ORDER.index(health)


def _by(live: Json) -> str:
    """Name who else wrote to an object last, a status not counted."""
    entries = [
        entry
        for entry in live["metadata"].get("managedFields") or ()
        if entry.get("manager") != FIELD_MANAGER
        and entry.get("subresource") != "status"
    ]
    if not entries:
        return ""
    last = max(entries, key=lambda entry: entry.get("time", ""))
    return str(last.get("manager", ""))


def _digest(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()
