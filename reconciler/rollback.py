"""Rollback: freeze a revision, and let the one before it stand in (pure).

`bud rollback` and a failed canary ask `revisions_before`; the pipeline asks
`stood_in` at each look, so that a rollback survives whatever happens to the
daemon, heals like any other revision, and ends when git declares another.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from reconciler.ordering import seen
from reconciler.store.values import Frozen, Owned, Ownership
from reconciler.values import Key, Live, Presence, Unit
from schemas.errors import PermanentError
from schemas.objects import Ref

__all__ = ["revisions_before", "stood_in"]


def revisions_before(
    ref: Ref,
    *,
    owned: Mapping[Key, Owned],
    former: Mapping[Key, Unit],
    frozen: Mapping[str, Frozen],
    reason: str,
    now: datetime,
) -> list[Frozen]:
    """Freeze what lives of an object, with what lived before as its stand-in.

    Raises:
        PermanentError: there is nothing to go back to.
    """
    mine = {key: item.unit for key, item in owned.items() if key.ref == ref}
    found = [
        Frozen(digest=unit.digest, reason=reason, at=now, stand_in=former[key])
        for key, unit in sorted(mine.items())
        if key in former and former[key].digest not in frozen
    ]
    if found:
        return found
    spent = [frozen[unit.digest] for unit in former.values() if unit.digest in frozen]
    if spent:
        raise PermanentError(
            f"cannot roll back {ref}: the revision before was frozen: {spent[0].reason}",
            hint=f"declare a third in git, or `bud resume {ref}` to allow that one",
        )
    raise PermanentError(
        f"cannot roll back {ref}: no earlier revision of it was applied here",
        hint="revert the commit in git",
    )


def stood_in(
    units: Mapping[Key, Unit],
    *,
    frozen: Mapping[str, Frozen],
    owned: Mapping[Key, Owned],
    observed: Mapping[Key, Live],
) -> Mapping[Key, Unit]:
    """What shall live, with a frozen revision's stand-in where it does not live yet.

    Where it does, the frozen revision keeps its place, and a hold says why it waits.
    """
    swapped = {
        key: item.stand_in
        for key, unit in units.items()
        if (item := frozen.get(unit.digest)) is not None
        and item.stand_in is not None
        and not _lives(item.stand_in, owned.get(key), seen(observed, key))
    }
    return {**units, **swapped} if swapped else units


def _lives(unit: Unit, mine: Owned | None, live: Live) -> bool:
    return (
        mine is not None
        and mine.state is Ownership.LIVE
        and mine.unit.digest == unit.digest
        and (live.digest == unit.digest or live.presence is Presence.UNKNOWN)
    )
