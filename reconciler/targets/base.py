"""The contract of a target: something that can be observed and changed.

Every call is idempotent and has a timeout of its own. Errors say what the caller
does next: TemporaryError waits, PermanentError calls someone. All targets pass
one shared contract suite, ``memory`` among them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping
from typing import Protocol, runtime_checkable

from reconciler.values import Change, Key, Live, Preview

__all__ = [
    "Paced",
    "Patient",
    "Previewing",
    "Progress",
    "Supervising",
    "Target",
    "Watching",
]

Progress = Callable[[Key, str], None]
"""Told what a long call is doing, in words a person reads."""


class Target(Protocol):
    name: str

    async def observe(self, keys: Collection[Key]) -> Mapping[Key, Live]:
        """Read what lives under ``keys``, and whatever else here is marked as ours.

        Never changes anything and never raises for one object: a read that
        fails is ``Presence.UNKNOWN`` with the reason in ``detail``. Each key
        asked for is in the answer.
        """
        ...

    async def dry_run(self, change: Change) -> None:
        """Refuse what ``apply`` or ``delete`` would refuse, and write nothing.

        Raises:
            PermanentError: it can never work as it is.
            TemporaryError: not now (the object moved, no room, not reachable).
        """
        ...

    async def apply(self, change: Change, progress: Progress) -> Live:
        """Create or change, and return once it is servable.

        What served before goes on serving until the new answers; when the new
        never does, the old stays and the error says why.
        """
        ...

    async def delete(self, change: Change, progress: Progress) -> None:
        """Delete if ``uid`` still matches, and return once it is confirmed gone.

        Absent is success. Another UID is a TemporaryError: look again first.
        """
        ...

    async def health(self, key: Key) -> Live:
        """Ask one object how it is, by a real request where it serves any."""
        ...


@runtime_checkable
class Previewing(Protocol):
    """A target that can say what a change would do to the things below it."""

    async def preview(self, change: Change) -> Preview | None:
        """Say it, and write nothing; None where there is nothing to say.

        Raises:
            PermanentError, TemporaryError: it would refuse the change; as ``dry_run``.
        """
        ...


@runtime_checkable
class Patient(Protocol):
    """A target that needs longer than others to look."""

    @property
    def observe_s(self) -> float: ...


@runtime_checkable
class Paced(Protocol):
    """A target that bounds its own writing, so that waiting holds up nobody."""

    in_hand: int
    """Steps it takes at once; another target takes what the engine gives it."""


@runtime_checkable
class Supervising(Protocol):
    """A target that keeps something running between two plans."""

    async def supervise(self, stop: asyncio.Event) -> None:
        """Run until ``stop``; what it keeps running goes on running after it."""
        ...


@runtime_checkable
class Watching(Protocol):
    """A target that can tell that something moved, sooner than the next look."""

    async def watch(self, moved: Callable[[], None], stop: asyncio.Event) -> None:
        """Call ``moved`` after a change of ours or anybody's, until ``stop``."""
        ...
