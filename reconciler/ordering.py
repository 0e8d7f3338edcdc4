"""Steps, what holds them back, and the order they run in (pure).

Called by `plan`. An object waits for those it refers to; a delete waits until
whatever leaned on the object has let go. What waits for something blocked is
blocked itself, with the name of the obstacle.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

from reconciler.store.values import Owned
from reconciler.values import Action, Change, Key, Live, Presence, Preview, Unit

__all__ = ["DRIFTED", "Blocked", "Step", "Waits", "order", "seen"]


DRIFTED = "it drifted from what was applied"


class Waits(StrEnum):
    """Why an object is left alone for now."""

    UNREADABLE = "unreadable"
    SUSPENDED = "suspended"
    BACKOFF = "backoff"
    FIGHT = "fight"
    FROZEN = "frozen"
    MASS_DELETE = "mass-delete"
    DEPENDS = "depends"
    DEPENDED_ON = "depended-on"
    HEAL = "heal-off"
    IN_HAND = "in-hand"


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    change: Change
    reason: str
    before: str
    """Digest of what lives there, empty when nothing does."""
    owned: Owned | None = None
    """Its row of the inventory: a delete needs no other source."""
    after: tuple[Key, ...] = ()
    """Steps of this plan that must succeed first."""
    preview: Preview | None = None
    """What the target said that it would do, where it can say."""

    @property
    def key(self) -> Key:
        return self.change.key

    @property
    def digest(self) -> str:
        return self.change.unit.digest if self.change.unit else ""

    @property
    def title(self) -> str:
        """How the ledger names it; a correction of drift is told from a change."""
        verb = "correct" if self.reason == DRIFTED else self.change.action
        return f"{verb} {self.key.ref}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Blocked:
    """A change that is due and does not happen, and why."""

    key: Key
    action: Action
    waits: Waits
    detail: str


def seen(observed: Mapping[Key, Live], key: Key) -> Live:
    """What was observed; a key that no target answered for is unknown, not absent."""
    missing = Live(key=key, presence=Presence.UNKNOWN, detail="nobody answered for it")
    return observed.get(key, missing)


def order(
    steps: dict[Key, Step],
    blocked: dict[Key, Blocked],
    units: Mapping[Key, Unit],
    observed: Mapping[Key, Live],
    owned: Mapping[Key, Owned],
) -> tuple[Step, ...]:
    """Give each step what it waits for; move what cannot run to ``blocked``."""
    graph = _Graph(steps, blocked, units, observed, owned)
    while stuck := graph.stuck():  # blocking one can block those that wait for it
        for item in stuck:
            del steps[item.key]
            blocked[item.key] = item
    return tuple(
        replace(step, after=tuple(k for k in graph.needs(step) if k in steps))
        for _, step in sorted(steps.items())
    )


class _Graph:
    def __init__(
        self,
        steps: Mapping[Key, Step],
        blocked: Mapping[Key, Blocked],
        units: Mapping[Key, Unit],
        observed: Mapping[Key, Live],
        owned: Mapping[Key, Owned],
    ) -> None:
        self._steps, self._blocked = steps, blocked
        self._units, self._observed = units, observed
        self._dependents: dict[Key, set[Key]] = defaultdict(set)
        for key, mine in owned.items():
            for needed in mine.unit.after:
                self._dependents[needed].add(key)

    def needs(self, step: Step) -> tuple[Key, ...]:
        if step.change.unit is not None:
            return tuple(sorted(step.change.unit.after))
        return tuple(sorted(self._dependents[step.key]))

    def stuck(self) -> list[Blocked]:
        return [item for step in self._steps.values() for item in self._obstacles(step)]

    def _obstacles(self, step: Step) -> list[Blocked]:
        """The first obstacle of a step, or nothing."""
        deleting = step.change.action is Action.DELETE
        for key in self.needs(step):
            if key in self._steps:
                continue
            if deleting and self._leans(key, step.key):
                waits, detail = Waits.DEPENDED_ON, f"{key.ref} still refers to it"
            elif not deleting and self._in_hand(key):
                waits, detail = Waits.DEPENDS, f"it needs {key.ref}, which is in hand"
            elif not deleting and self._missing(key):
                waits, detail = Waits.DEPENDS, f"it needs {key.ref}, which is not there"
            else:
                continue
            action = step.change.action
            return [Blocked(key=step.key, action=action, waits=waits, detail=detail)]
        return []

    def _leans(self, dependent: Key, key: Key) -> bool:
        unit = self._units.get(dependent)
        return dependent in self._blocked or (unit is not None and key in unit.after)

    def _in_hand(self, key: Key) -> bool:
        found = self._blocked.get(key)
        return found is not None and found.waits is Waits.IN_HAND

    def _missing(self, key: Key) -> bool:
        return seen(self._observed, key).presence is not Presence.PRESENT
