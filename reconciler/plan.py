"""Plan: what has to change, in which order, and what must not happen (pure).

Called by the pipeline with everything it may depend on as values. It decides and
does nothing else: no clock, no I/O. The laws of DESIGN.md §4 that are decisions
are here: a failed read never becomes a delete (1), deleting needs no desired
state (3), mass delete is refused (8), what already lives is not written (11).
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace

import orjson

from reconciler.ordering import DRIFTED, Blocked, Step, Waits, order, seen
from reconciler.store.values import Owned, Ownership
from reconciler.values import (
    Action,
    Change,
    Commit,
    Key,
    Live,
    Presence,
    Preview,
    Unit,
)
from schemas.environment import EnvironmentSpec
from schemas.objects import Ref

__all__ = [
    "Blocked",
    "Drift",
    "Owned",
    "Plan",
    "Step",
    "Waits",
    "deletion_token",
    "plan",
    "previewed",
]

PLAN_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Drift:
    """Something lives that nobody declared in this form."""

    key: Key
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One versioned document. The comment, the console and apply read no other."""

    environment: str
    commit: Commit
    steps: tuple[Step, ...]
    blocked: tuple[Blocked, ...]
    drift: tuple[Drift, ...]
    unchanged: int
    inputs: Mapping[str, str]
    """Everything that was read, as digests; what apply compares when it re-reads."""
    decisions: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    """What the optimizer chose for each Endpoint that is created or changed."""
    digest: str = field(default="")

    @property
    def empty(self) -> bool:
        return not self.steps

    def canonical(self) -> bytes:
        """What the digest covers: all but the words for people, which tell the time.

        Integers, strings and lists only, keys in ASCII: sorted orjson is RFC 8785.
        """
        document = self.document(why=False)
        document["blocked"] = [
            [str(item.key), item.action, item.waits] for item in self.blocked
        ]
        document["drift"] = [str(item.key) for item in self.drift]
        return orjson.dumps(document, option=orjson.OPT_SORT_KEYS)

    def document(self, *, why: bool = True) -> dict[str, object]:
        """The plan as JSON data: what the comment, the console and agents read.

        ``why``: with the words of whoever refused, which name the moment.
        """
        return {
            "version": PLAN_VERSION,
            "environment": self.environment,
            "commit": self.commit.sha,
            "inputs": dict(sorted(self.inputs.items())),
            "steps": [
                {
                    "key": str(step.key),
                    "action": step.change.action,
                    "reason": step.reason,
                    "before": step.before,
                    "after": step.digest,
                    "uid": step.change.uid,
                    "liveVersion": step.change.version,
                    "dependsOn": [str(key) for key in step.after],
                    "preview": step.preview and step.preview.document(why=why),
                }
                for step in self.steps
            ],
            "decisions": dict(sorted(self.decisions.items())),
            "blocked": [
                {
                    "key": str(item.key),
                    "action": item.action,
                    "waits": item.waits,
                    "detail": item.detail,
                }
                for item in self.blocked
            ],
            "drift": [{"key": str(d.key), "detail": d.detail} for d in self.drift],
            "unchanged": self.unchanged,
        }


def plan(  # noqa: PLR0913 - all that a plan may depend on, by name
    *,
    commit: Commit,
    environment: str,
    settings: EnvironmentSpec,
    units: Mapping[Key, Unit],
    observed: Mapping[Key, Live],
    owned: Mapping[Key, Owned],
    held: Mapping[Key, tuple[Waits, str]],
    inputs: Mapping[str, str],
    decided: Callable[[Ref], Mapping[str, object] | None] = lambda _: None,
) -> Plan:
    """Compare what shall be with what is, and order the difference.

    Args:
        commit: what ``units`` were rendered from.
        environment: its name.
        settings: its deletion and heal rules.
        units: what shall live.
        observed: what the targets said, for every key of ``units`` and ``owned``.
        owned: the inventory.
        held: objects that must not be touched now, and why.
        inputs: digests of everything else the plan depends on.
        decided: what the optimizer chose for an object, as text, if it did.
    """
    steps: dict[Key, Step] = {}
    blocked: dict[Key, Blocked] = {}
    drift: list[Drift] = []
    for key in sorted({*units, *owned}):
        step = _decide(key, units.get(key), seen(observed, key), owned.get(key))
        if step is None:
            continue
        if step.reason == DRIFTED:
            drift.append(Drift(key=key, detail=seen(observed, key).detail or DRIFTED))
        waits = _waits(step, observed, held, settings)
        if waits is None:
            steps[key] = step
        else:
            blocked[key] = Blocked(
                key=key, action=step.change.action, waits=waits[0], detail=waits[1]
            )
    drift += [
        Drift(key=key, detail="marked as ours, but not in the inventory: left alone")
        for key, live in sorted(observed.items())
        if key not in units and key not in owned and live.presence is Presence.PRESENT
    ]
    _guard_deletes(steps, blocked, owned, settings)
    ordered = order(steps, blocked, units, observed, owned)
    unchanged = len({*units, *owned}) - len(ordered) - len(blocked)
    made = Plan(
        environment=environment,
        commit=commit,
        steps=ordered,
        blocked=tuple(blocked[key] for key in sorted(blocked)),
        drift=tuple(drift),
        unchanged=unchanged,
        inputs=dict(inputs) | {"live": _live_digest(observed, ordered, blocked)},
        decisions={
            str(step.key.ref): said
            for step in ordered
            if step.change.unit is not None
            and (said := decided(step.key.ref)) is not None
        },
    )
    return replace(made, digest=hashlib.sha256(made.canonical()).hexdigest())


def previewed(made: Plan, previews: Mapping[Key, Preview]) -> Plan:
    """The plan with what targets said of its steps; they are part of its digest."""
    if not previews:
        return made
    steps = tuple(replace(s, preview=previews.get(s.key)) for s in made.steps)
    lines = [
        f"{key} {orjson.dumps(item.document(why=False)).decode()}"
        for key, item in sorted(previews.items())
    ]
    digest = hashlib.sha256("\n".join(lines).encode()).hexdigest()
    whole = replace(
        made, steps=steps, inputs=dict(made.inputs) | {"previews": digest}, digest=""
    )
    return replace(whole, digest=hashlib.sha256(whole.canonical()).hexdigest())


def deletion_token(refs: Iterable[Ref]) -> str:
    """The word that allows deleting exactly these objects, to be put in git."""
    text = "\n".join(sorted({str(ref) for ref in refs}))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _decide(key: Key, unit: Unit | None, live: Live, mine: Owned | None) -> Step | None:
    """What one object needs, if nothing stood in the way."""
    verdict: tuple[Action, str] | None
    if unit is None:
        assert mine is not None, "a key comes from the units or from the inventory"
        verdict = _undeclared(live, mine)
    else:
        verdict = _declared(unit, live, mine)
    if verdict is None:
        return None
    action, reason = verdict
    change = Change(
        key=key, action=action, unit=unit, uid=live.uid, version=live.version
    )
    return Step(change=change, reason=reason, before=live.digest, owned=mine)


def _undeclared(live: Live, mine: Owned) -> tuple[Action, str]:
    if live.presence is Presence.ABSENT:
        return Action.FORGET, "it is gone"
    if live.presence is Presence.PRESENT and mine.uid and live.uid != mine.uid:
        # Somebody deleted ours and made another of the same name: not ours.
        return Action.FORGET, "another object took its name"
    return Action.DELETE, "no file declares it any more"


def _declared(unit: Unit, live: Live, mine: Owned | None) -> tuple[Action, str] | None:
    applied = mine is not None and _settled(mine) and mine.unit.digest == unit.digest
    if live.presence is Presence.ABSENT:
        return Action.CREATE, "it vanished" if mine else "it is new"
    if live.presence is Presence.UNKNOWN:
        return None if applied else (Action.CHANGE, "its file changed")
    if live.digest != unit.digest:
        return Action.CHANGE, DRIFTED if applied else "its file changed"
    if not applied or mine is None or mine.unit != unit or mine.uid != live.uid:
        return Action.ADOPT, "it lives as declared: record it"
    return None


def _settled(mine: Owned) -> bool:
    """False after an intent whose outcome nobody recorded."""
    return mine.state is Ownership.LIVE


def _waits(
    step: Step,
    observed: Mapping[Key, Live],
    held: Mapping[Key, tuple[Waits, str]],
    settings: EnvironmentSpec,
) -> tuple[Waits, str] | None:
    live = seen(observed, step.key)
    if step.key in held and held[step.key][0] is Waits.IN_HAND:
        return held[step.key]
    if live.presence is Presence.UNKNOWN:
        for key in step.change.unit.after if step.change.unit else ():
            # A place that is not made yet cannot be read, and nothing is wrong.
            if seen(observed, key).presence is Presence.ABSENT:
                return Waits.DEPENDS, f"it needs {key.ref}, which is not there yet"
        return Waits.UNREADABLE, live.detail or "its state could not be read"
    if step.key in held:
        return held[step.key]
    if step.reason == DRIFTED and settings.reconcile.heal != "heal":
        return Waits.HEAL, f"heal is {settings.reconcile.heal}"
    return None


def _guard_deletes(
    steps: dict[Key, Step],
    blocked: dict[Key, Blocked],
    owned: Mapping[Key, Owned],
    settings: EnvironmentSpec,
) -> None:
    """Law 8: refuse many deletes of one kind without their token."""
    existing = Counter(ref.kind for ref in {key.ref for key in owned})
    doomed: dict[str, set[Key]] = defaultdict(set)
    for key, step in steps.items():
        if step.change.action is Action.DELETE:
            doomed[key.ref.kind].add(key)
    for key, item in blocked.items():
        # What somebody else deletes of the same commit counts as much.
        if item.waits is Waits.IN_HAND and item.action is Action.DELETE:
            doomed[key.ref.kind].add(key)
    for kind, keys in doomed.items():
        refs = {key.ref for key in keys}
        allowed = max(1, existing[kind] * settings.deletions.percent // 100)
        token = deletion_token(refs)
        if len(refs) <= allowed or token in settings.deletions.confirm:
            continue
        detail = (
            f"{len(refs)} of {existing[kind]} {kind} objects would be deleted, more than "
            f"{allowed}: add {token!r} to deletions.confirm of the environment"
        )
        for key in keys & steps.keys():
            del steps[key]
            blocked[key] = Blocked(
                key=key, action=Action.DELETE, waits=Waits.MASS_DELETE, detail=detail
            )


def _live_digest(
    observed: Mapping[Key, Live], steps: Iterable[Step], blocked: Iterable[Key]
) -> str:
    """Over what the plan touches and leans on: whatever else moves without giving
    it another step is no reason to ask people again."""
    touched = {key for step in steps for key in (step.key, *step.after)} | {*blocked}
    lines = []
    for key in sorted(touched):
        live = seen(observed, key)
        lines.append(f"{key} {live.presence} {live.uid} {live.version} {live.digest}")
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
