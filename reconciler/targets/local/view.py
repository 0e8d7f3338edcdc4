"""What is said of an endpoint: its digest, its health, and why (pure).

One rule for drift: a live digest is that of the unit whose every replica is there,
in its number and its revision, with no change half done. Anything else has no
digest, because no unit describes it. Whether those replicas answer is health.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from hashlib import sha256

from reconciler.targets.local.records import Instance, Phase, Record
from reconciler.values import Health, Key, Live, Presence
from schemas.local import EndpointManifest

__all__ = ["seen"]

_LEAVING = (Phase.DRAINING, Phase.STOPPING)


def seen(
    key: Key,
    record: Record | None,
    instances: Sequence[Instance],
    *,
    living: Collection[str],
    orphans: Collection[str],
    now: float,
) -> Live:
    """Say what lives under ``key``.

    ``living`` are the instances whose process runs, ``orphans`` those of which only
    the process is left.
    """
    lost = [f"{len(orphans)} processes of it run without a record"] if orphans else []
    if record is None:
        return _recordless(key, instances, orphans, lost)
    wanted = EndpointManifest.model_validate_json(record.unit) if record.unit else None
    stale = [
        i
        for i in instances
        if wanted is None or i.revision != wanted.revision or i.phase in _LEAVING
    ]
    fresh = [i for i in instances if i not in stale]
    missing = wanted is not None and len(fresh) != wanted.replicas
    unfinished = bool(record.pending or record.deleting)
    whole = wanted is not None and not (unfinished or stale or missing or orphans)
    answering = [i for i in fresh if i.phase is Phase.SERVING and i.id in living]
    details = [
        *_unfinished(record),
        *([f"{len(stale)} replicas of another revision live"] if stale else []),
        *_answers(wanted, fresh, len(answering), living, now),
        *lost,
    ]
    if wanted is None and not record.deleting:
        health = Health.PENDING
    elif whole and wanted is not None and len(answering) == wanted.replicas:
        health = Health.SERVABLE
    else:
        health = Health.DEGRADED
    return Live(
        key=key,
        presence=Presence.PRESENT,
        digest=sha256(record.unit.encode()).hexdigest() if whole else "",
        uid=record.uid,
        version=str(record.version),
        health=health,
        detail="; ".join(details),
    )


def _recordless(
    key: Key,
    instances: Sequence[Instance],
    orphans: Collection[str],
    lost: list[str],
) -> Live:
    """An instance's name carries its endpoint's UID, so even an orphan has one."""
    names = sorted({*orphans, *(i.id for i in instances)})
    if not names:
        return Live(key=key, presence=Presence.ABSENT)
    return Live(
        key=key,
        presence=Presence.PRESENT,
        uid=names[0].split(".")[2],
        version="0",
        health=Health.DEGRADED,
        detail="; ".join(lost or [f"{len(names)} replicas live without a record"]),
    )


def _unfinished(record: Record) -> list[str]:
    if record.deleting:
        return ["it is being deleted"]
    return ["a change of it is not finished"] if record.pending else []


def _answers(
    wanted: EndpointManifest | None,
    fresh: Sequence[Instance],
    answering: int,
    living: Collection[str],
    now: float,
) -> list[str]:
    if wanted is None or answering == wanted.replicas:
        return []
    return [
        f"{answering} of {wanted.replicas} replicas answer",
        *(_waits(i, living, now) for i in fresh if i.phase is not Phase.SERVING),
        *(
            f"replica {i.slot} has ended"
            for i in fresh
            if i.phase is Phase.SERVING and i.id not in living
        ),
    ]


def _waits(instance: Instance, living: Collection[str], now: float) -> str:
    if instance.phase is Phase.WAITING:
        after = f" after {instance.failures} failures" if instance.failures > 1 else ""
        seconds = max(0.0, instance.retry_at - now)
        return (
            f"replica {instance.slot} restarts in {seconds:.0f} s{after} "
            f"({instance.reason})"
        )
    state = "is starting" if instance.id in living else "has ended while starting"
    return f"replica {instance.slot} {state}"
