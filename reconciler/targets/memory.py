"""A target that lives in this process: what every test of the engine writes to.

It keeps the whole contract of ``Target`` and can be made to misbehave in each way
that a real one does: reads that fail, a refusal, a crash on either side of a
write, another writer, an object that vanishes or is made again under its name.
It never does I/O, and its identities are counted, so a run repeats exactly.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from itertools import count

from reconciler.targets.base import Progress
from reconciler.targets.precondition import check_precondition
from reconciler.values import Change, Health, Key, Live, Presence, Unit
from schemas.errors import FoundryError

__all__ = ["Hook", "MemoryTarget", "Stored"]

Hook = Callable[[Change], Awaitable[None] | None]
"""Called around a write; raises to fail or to crash there, awaits to be slow."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """One object as it lives here."""

    content: bytes
    uid: str
    version: int
    health: Health = Health.SERVABLE
    detail: str = ""


class MemoryTarget:
    """Objects in a dict. ``log`` holds each write that took place, in order."""

    def __init__(self, name: str = "memory") -> None:
        self.name = name
        self.objects: dict[Key, Stored] = {}
        self.log: list[Change] = []
        self.before_write: Hook | None = None
        self.after_write: Hook | None = None
        self._unreadable: frozenset[Key] = frozenset()
        self._refused: dict[Key, FoundryError] = {}
        self._numbers = count(1)

    async def observe(self, keys: Collection[Key]) -> Mapping[Key, Live]:
        return {key: self._live(key) for key in sorted({*keys, *self.objects})}

    async def dry_run(self, change: Change) -> None:
        self._check(change)

    async def apply(self, change: Change, progress: Progress) -> Live:
        self._check(change)
        unit, stored = change.unit, self.objects.get(change.key)
        assert unit is not None, "checked by _check"
        if stored is not None and stored.content == unit.content:
            return self._live(change.key)
        progress(change.key, "writing")
        await self._around(change, lambda: self._store(unit))
        return self._live(change.key)

    async def delete(self, change: Change, progress: Progress) -> None:
        self._check(change)
        if change.key not in self.objects:
            return
        progress(change.key, "deleting")
        await self._around(change, lambda: self._remove(change.key))

    async def health(self, key: Key) -> Live:
        return self._live(key)

    # How a test makes it misbehave.

    def fail_reads(self, keys: Iterable[Key] = ()) -> None:
        """Make reads of exactly these keys fail; none heals them all."""
        self._unreadable = frozenset(keys)

    def refuse(self, key: Key, error: FoundryError | None) -> None:
        """Make every write of ``key`` fail its dry run; None takes it back."""
        if error is None:
            self._refused.pop(key, None)
        else:
            self._refused[key] = error

    def drift(self, key: Key, content: bytes) -> None:
        """Write as somebody else would: the object stays the same one."""
        stored = self.objects[key]
        self.objects[key] = replace(
            stored, content=content, version=next(self._numbers)
        )

    def set_health(self, key: Key, health: Health, detail: str = "") -> None:
        self.objects[key] = replace(self.objects[key], health=health, detail=detail)

    def vanish(self, key: Key) -> None:
        """Remove it behind the engine's back."""
        self.objects.pop(key, None)

    def impostor(self, key: Key, content: bytes) -> None:
        """Put another object there under the same name: its UID is new."""
        self.objects[key] = self._new(content)

    def _new(self, content: bytes) -> Stored:
        number = next(self._numbers)
        return Stored(content=content, uid=f"{self.name}-{number}", version=number)

    def _store(self, unit: Unit) -> None:
        stored = self.objects.get(unit.key)
        self.objects[unit.key] = (
            self._new(unit.content)
            if stored is None
            else replace(stored, content=unit.content, version=next(self._numbers))
        )

    def _remove(self, key: Key) -> None:
        del self.objects[key]

    async def _around(self, change: Change, write: Callable[[], None]) -> None:
        if self.before_write is not None and (waiting := self.before_write(change)):
            await waiting
        write()
        self.log.append(change)
        if self.after_write is not None and (waiting := self.after_write(change)):
            await waiting

    def _live(self, key: Key) -> Live:
        if key in self._unreadable:
            return Live(
                key=key, presence=Presence.UNKNOWN, detail=f"cannot read {key}: refused"
            )
        if (stored := self.objects.get(key)) is None:
            return Live(key=key, presence=Presence.ABSENT)
        return Live(
            key=key,
            presence=Presence.PRESENT,
            digest=sha256(stored.content).hexdigest(),
            uid=stored.uid,
            version=str(stored.version),
            health=stored.health,
            detail=stored.detail,
        )

    def _check(self, change: Change) -> None:
        if (error := self._refused.get(change.key)) is not None:
            raise error
        check_precondition(change, self._live(change.key))
