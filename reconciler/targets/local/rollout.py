"""How the replicas that live become those that are wanted, one step at a time (pure).

`target.py` asks for the next step until it is done. The law it guards: never fewer
replicas that answer than the floor, and what served goes on serving until the new
answers (dstack#4186, skypilot#4312). A step depends on what is seen now and on
nothing remembered, so a run that was killed goes on from wherever it was.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from reconciler.targets.local.records import Instance, Phase

__all__ = ["Step", "Want", "next_step"]

_LEAVING = (Phase.DRAINING, Phase.STOPPING)


@dataclass(frozen=True, slots=True, kw_only=True)
class Want:
    revision: str
    count: int
    max_surge: int
    """Processes more than ``count`` while replacing; 0 makes room first."""
    floor: int
    """Replicas that answer at any time, as far as there are as many to begin with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What to do now; all empty and not done means wait, or stuck."""

    start: int = 0
    stop: tuple[str, ...] = ()
    done: bool = False
    stuck: bool = False
    """Nothing is moving, and nothing may: there is no room under the floor."""


def next_step(instances: Sequence[Instance], want: Want) -> Step:
    """Choose what to start and what to stop.

    A stale replica that does not answer costs nothing to stop. One that does is
    stopped only when no new one is still on its way, and never below the floor.
    """
    leaving = [i for i in instances if i.phase in _LEAVING]
    active = [i for i in instances if i.phase not in _LEAVING]
    fresh = [i for i in active if i.revision == want.revision]
    stale = [i for i in active if i.revision != want.revision]
    useless = tuple(i.id for i in stale if i.phase is not Phase.SERVING)
    if useless:
        return Step(stop=useless)
    room = want.count + want.max_surge - len(instances)
    if (missing := min(want.count - len(fresh), room)) > 0:
        return Step(start=missing)
    coming = any(i.phase is not Phase.SERVING for i in fresh)
    serving = sum(i.phase is Phase.SERVING for i in active)
    spare = max(0, serving - want.floor)
    if stale and not coming and spare:
        return Step(stop=tuple(i.id for i in stale[:spare]))
    if surplus := _surplus(fresh, want, spare):
        return Step(stop=surplus)
    done = not stale and not coming and not leaving and len(fresh) == want.count
    return Step(done=done, stuck=not (done or coming or leaving))


def _surplus(fresh: list[Instance], want: Want, spare: int) -> tuple[str, ...]:
    """Which to stop when there are too many: those that do not answer, then the last."""
    ranked = sorted(fresh, key=lambda i: (i.phase is Phase.SERVING, -i.slot))
    chosen = ranked[: max(0, len(fresh) - want.count)]
    silent = [i.id for i in chosen if i.phase is not Phase.SERVING]
    serving = [i.id for i in chosen if i.phase is Phase.SERVING]
    return (*silent, *serving[:spare])
