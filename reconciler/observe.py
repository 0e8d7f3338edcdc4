"""Observe: ask every target what lives (I/O).

The pipeline calls it. Targets are asked at once and each has its own deadline, so
that one that hangs delays nobody else; what it was asked for is unknown, which is
a value of its own and never absent (law 1).
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping

from reconciler.targets.base import Patient, Target
from reconciler.values import Key, Live, Presence

__all__ = ["observe"]

_TIMEOUT_S = 30.0


async def observe(
    targets: Mapping[str, Target], keys: Collection[Key]
) -> Mapping[Key, Live]:
    """What lives under ``keys``, and whatever else the targets say is ours."""
    asked: dict[str, list[Key]] = {name: [] for name in targets}
    for key in keys:
        asked.setdefault(key.target, []).append(key)
    async with asyncio.TaskGroup() as group:
        tasks = [
            group.create_task(_ask(targets.get(name), name, some))
            for name, some in asked.items()
        ]
    return {key: live for task in tasks for key, live in task.result().items()}


async def _ask(
    target: Target | None, name: str, keys: Collection[Key]
) -> Mapping[Key, Live]:
    if target is None:
        return _unknown(keys, f"there is no target {name} in this environment")
    limit_s = target.observe_s if isinstance(target, Patient) else _TIMEOUT_S
    try:
        async with asyncio.timeout(limit_s):
            found = await target.observe(keys)
    except TimeoutError:
        return _unknown(keys, f"{name} did not answer in {limit_s:.0f} s")
    except Exception as error:  # noqa: BLE001  whatever went wrong, nothing was read
        return _unknown(keys, f"cannot observe {name}: {error}")
    return {**_unknown(keys, f"{name} said nothing about it"), **found}


def _unknown(keys: Collection[Key], why: str) -> dict[Key, Live]:
    return {key: Live(key=key, presence=Presence.UNKNOWN, detail=why) for key in keys}
