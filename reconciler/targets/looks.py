"""What comparisons with the world found, so that not every look compares (I/O).

Comparing a cluster with its cloud or its machines takes a minute. The targets that
make clusters do it every ten minutes, and beside the line where somebody watches.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field

from schemas.errors import FoundryError

__all__ = ["Looks"]

Drift = tuple[str, ...]
_EVERY_S = 600.0
"""A comparison asks for every resource, and a cloud limits how often."""


@dataclass(frozen=True, slots=True)
class _Look:
    version: str
    at: float
    drift: Drift


@dataclass(slots=True)
class Looks:
    every_s: float = _EVERY_S
    watched: bool = False
    """Whether somebody compares beside the line, so that a look need not."""
    _seen: dict[str, _Look] = field(default_factory=dict)
    _locks: dict[str, asyncio.Lock] = field(default_factory=dict)

    async def drift(
        self,
        name: str,
        version: str,
        compare: Callable[[], Awaitable[Drift]],
        *,
        again: bool = False,
    ) -> Drift:
        """How ``name`` strayed while its ``version`` stayed; compared when it is due."""
        async with self._locks.setdefault(name, asyncio.Lock()):
            seen, now = self._seen.get(name), asyncio.get_running_loop().time()
            if seen is not None and seen.version == version and not again:
                due = not self.watched and now >= seen.at + self.every_s
                if not due:
                    return seen.drift
            drift = await compare()
            self.note(name, version, drift)
            return drift

    def note(self, name: str, version: str, drift: Drift) -> None:
        """Keep what was found, by comparing or by writing it a moment ago."""
        now = asyncio.get_running_loop().time()
        self._seen[name] = _Look(version, now, drift)

    def forget(self, name: str = "") -> None:
        """Compare ``name`` at the next look; everything, without a name."""
        if name:
            self._seen.pop(name, None)
        else:
            self._seen.clear()

    async def watch(
        self,
        compare_all: Callable[[], Awaitable[object]],
        moved: Callable[[], None],
        stop: asyncio.Event,
    ) -> None:
        """Compare until ``stop``; call ``moved`` when something strayed anew."""
        self.watched = True
        try:
            while not stop.is_set():
                with suppress(TimeoutError):
                    async with asyncio.timeout(self.every_s):
                        await stop.wait()
                before = {name: look.drift for name, look in self._seen.items()}
                with suppress(FoundryError):  # the next look says what is wrong
                    if not stop.is_set():
                        await compare_all()
                if any(
                    name in before and before[name] != look.drift
                    for name, look in self._seen.items()
                ):
                    moved()
        finally:
            self.watched = False
