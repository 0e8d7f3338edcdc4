"""Observe: ask every target what lives (I/O).

The pipeline calls it. Targets are asked at once and each has its own deadline; what one
that hangs was asked for is unknown, which is a value of its own and never absent (law 1).
One that did not answer is asked again beside the next looks, which do not wait for it: a
cluster that is out of reach delays the others once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from types import MappingProxyType

from reconciler.store import Owned
from reconciler.targets.base import Patient, Target
from reconciler.values import Key, Live, Presence

__all__ = ["Observer", "observe"]

_TIMEOUT_S = 30.0
_GRACE_S = 1.0
"""What a look spends on a target that was silent in the one before."""

_Found = Mapping[Key, Live]
_NONE: Mapping[Key, Owned] = MappingProxyType({})


async def observe(
    targets: Mapping[str, Target],
    keys: Collection[Key],
    mask: Callable[[str], str] = str,
) -> Mapping[Key, Live]:
    """What lives under ``keys``, and whatever else the targets say is ours."""
    return await Observer().look(targets, keys, mask)


class Observer:
    """Looks again and again, and remembers who was silent."""

    def __init__(self) -> None:
        self._silent: dict[str, tuple[Target, asyncio.Task[tuple[bool, _Found]]]] = {}

    async def look(
        self,
        targets: Mapping[str, Target],
        keys: Collection[Key],
        mask: Callable[[str], str] = str,
        owned: Mapping[Key, Owned] = _NONE,
        drives: Callable[[str], bool] = lambda _: True,
    ) -> Mapping[Key, Live]:
        """What lives under ``keys``, and whatever else the targets say is ours.

        ``mask`` takes secrets out of what they say. What another replica ``drives`` is
        as the inventory says.
        """
        asked: dict[str, list[Key]] = {name: [] for name in targets if drives(name)}
        for key in keys:
            if drives(key.target):
                asked.setdefault(key.target, []).append(key)
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(self._ask(targets.get(name), name, some))
                for name, some in asked.items()
            ]
        found = {key: live for task in tasks for key, live in task.result().items()}
        elsewhere = [key for key in keys if not drives(key.target)]
        said = {key: _masked(live, mask) for key, live in found.items()}
        return said | _recorded(elsewhere, owned)

    async def _ask(
        self, target: Target | None, name: str, keys: Collection[Key]
    ) -> _Found:
        if target is None:
            return _unknown(keys, f"there is no target {name} in this environment")
        known, asking = self._silent.pop(name, (None, None))
        if asking is None or known is not target:
            answered, found = await _answer(target, name, keys)
            if not answered:
                again = asyncio.ensure_future(_answer(target, name, keys))
                self._silent[name] = target, again
            return found
        if not asking.done():
            await asyncio.wait([asking], timeout=_GRACE_S)
        if asking.done() and asking.result()[0]:
            # It answers again; what it said may be older than this look.
            return (await _answer(target, name, keys))[1]
        if asking.done():
            asking = asyncio.ensure_future(_answer(target, name, keys))
        self._silent[name] = target, asking
        return _unknown(keys, f"{name} has not answered yet")


async def _answer(
    target: Target, name: str, keys: Collection[Key]
) -> tuple[bool, _Found]:
    """Whether it said anything at all, and what."""
    limit_s = target.observe_s if isinstance(target, Patient) else _TIMEOUT_S
    try:
        async with asyncio.timeout(limit_s):
            found = await target.observe(keys)
    except TimeoutError:
        return False, _unknown(keys, f"{name} did not answer in {limit_s:.0f} s")
    except Exception as error:  # noqa: BLE001  whatever went wrong, nothing was read
        return True, _unknown(keys, f"cannot observe {name}: {error}")
    return True, {**_unknown(keys, f"{name} said nothing about it"), **found}


def _masked(live: Live, mask: Callable[[str], str]) -> Live:
    said = mask(live.detail) if live.detail else ""
    return live if said == live.detail else replace(live, detail=said)


def _unknown(keys: Collection[Key], why: str) -> dict[Key, Live]:
    return {key: Live(key=key, presence=Presence.UNKNOWN, detail=why) for key in keys}


def _recorded(keys: Collection[Key], owned: Mapping[Key, Owned]) -> dict[Key, Live]:
    """What the inventory says of objects that other replicas look at."""
    return {
        key: Live(
            key=key,
            presence=Presence.PRESENT,
            digest=mine.unit.digest,
            uid=mine.uid,
            version=mine.version,
        )
        if (mine := owned.get(key))
        else Live(key=key, presence=Presence.ABSENT)
        for key in keys
    }
