"""Trials: a Route's canary, judged on what the gateway recorded (I/O).

The daemon calls ``look`` after each pass. Weight goes to a newcomer when a Route with a
canary is applied; from then on every record of that route counts for one side. Shown
harmless, the newcomer takes all of the traffic; shown harmful, or nothing shown at the
end, it gets none. Either way the revision is frozen with a stand-in, so the ruling
outlives the daemon and ends when git declares something else, which is proposed as a
branch. What a retry hid from a client is no error here.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import orjson
import structlog

from reconciler.canary import Limits, Ruling, Tally, Verdict, judge, measures
from reconciler.pipeline import Prepared
from reconciler.store import Frozen, Ownership, Store
from reconciler.values import Desired, Key, Unit
from renderers.gateway import canary_of, render_route
from schemas.errors import FoundryError
from schemas.objects import Ref
from schemas.route import Canary, Route, RouteTarget

__all__ = ["Promote", "Propose", "Trials", "alone", "promoted"]

_log = structlog.get_logger("canary")

_ACTOR = "canary"

Propose = Callable[[Ref, Sequence[Frozen], str], Awaitable[object]]
"""Leaves a branch that reverts an object in git."""
Promote = Callable[[Ref, str, str], Awaitable[object]]
"""Leaves a branch that makes an endpoint all of a route's targets."""


@dataclass(slots=True)
class _Trial:
    since: float
    """When the canary was applied, in seconds since the epoch."""
    sides: dict[str, Tally] = field(default_factory=lambda: defaultdict(Tally))
    read: dict[Path, int] = field(default_factory=dict)
    """File of records -> how far it was read."""


class Trials:
    def __init__(
        self,
        store: Store,
        records: Path,
        *,
        propose: Propose,
        promote: Promote,
        clock: Callable[[], datetime],
        limits: Limits | None = None,
    ) -> None:
        """``records`` is the gateway's folder of one line a request."""
        self._store, self._records = store, records
        self._propose, self._promote, self._clock = propose, promote, clock
        self._limits = limits or Limits()
        self._trials: dict[str, _Trial] = {}
        """Digest of a route's unit -> what was measured under it."""
        self.rulings: dict[Ref, Ruling] = {}

    async def look(self, prepared: Prepared) -> bool:
        """Rule on every canary that lives; whether anything was decided."""
        frozen, owned = self._store.frozen(), self._store.inventory()
        decided = False
        for ref, item in prepared.desired.objects.items():
            if not isinstance(item, Route) or item.spec.canary is None:
                continue
            key = Key("gateway", ref)
            unit, mine = prepared.rendered.units[key], owned.get(key)
            if (
                unit.digest in frozen
                or mine is None
                or (mine.state, mine.unit.digest) != (Ownership.LIVE, unit.digest)
            ):
                self._trials.pop(unit.digest, None)
                continue
            newcomer = canary_of(item, prepared.desired.objects)
            ruling = await asyncio.to_thread(
                self._rule, key, unit, item.spec.canary, newcomer
            )
            self.rulings[ref] = ruling
            if ruling.verdict is not Verdict.CONTINUE:
                await self._decide(prepared.desired, item, unit, ruling)
                decided = True
        return decided

    def _rule(self, key: Key, unit: Unit, canary: Canary, newcomer: str) -> Ruling:
        trial = self._trials.get(unit.digest)
        if trial is None:
            trial = self._trials[unit.digest] = _Trial(since=self._since(key, unit))
        route = f"{key.ref.project}/{key.ref.name}"
        for record in self._new(trial):
            upstream = record.get("upstream")
            if (
                record.get("route") == route
                and upstream
                and record["at"] >= trial.since
            ):
                side = "canary" if upstream == newcomer else "baseline"
                trial.sides[side].add(record)
        compared = measures(
            trial.sides["baseline"],
            trial.sides["canary"],
            latency=math.log1p(canary.max_ttft_increase_percent / 100),
            errors=canary.max_error_percent / 100,
        )
        return judge(compared, self._limits)

    def _since(self, key: Key, unit: Unit) -> float:
        entry = self._store.log.success(key.target, {unit.digest})
        at = self._clock() if entry is None else datetime.fromisoformat(entry.at)
        return at.timestamp()

    def _new(self, trial: _Trial) -> Iterator[Mapping[str, Any]]:
        """Whole lines that were not read yet, of every file."""
        for path in sorted(self._records.glob("*.jsonl")):
            if path.stat().st_mtime < trial.since:
                continue
            with path.open("rb") as file:
                file.seek(trial.read.get(path, 0))
                for line in file:
                    if not line.endswith(b"\n"):
                        break  # its writer is in the middle of it
                    trial.read[path] = trial.read.get(path, 0) + len(line)
                    with suppress(orjson.JSONDecodeError):
                        yield orjson.loads(line)

    async def _decide(
        self, desired: Desired, route: Route, unit: Unit, ruling: Ruling
    ) -> None:
        promotes = ruling.verdict is Verdict.PROMOTE
        kept = promoted(route) if promotes else alone(route)
        content = render_route(kept, desired.objects)
        stand_in = Unit(
            key=unit.key,
            content=content,
            digest=hashlib.sha256(content).hexdigest(),
            after=unit.after,
        )
        name = route.spec.canary.endpoint if route.spec.canary else ""
        said = "promoted" if promotes else "rolled back"
        reason = f"canary {name} {said}: {ruling.why}"
        item = Frozen(
            digest=unit.digest, reason=reason, at=self._clock(), stand_in=stand_in
        )
        self._store.freeze([item], _ACTOR, f"freeze {route.ref}: {reason}")
        self._trials.pop(unit.digest, None)
        _log.warning("decided", object=str(route.ref), reason=reason)
        try:
            if promotes:
                await self._promote(route.ref, name, reason)
            else:
                await self._propose(route.ref, [item], reason)
        except FoundryError as error:
            _log.warning("no proposal", object=str(route.ref), error=str(error))


def alone(route: Route) -> Route:
    """The route without its canary."""
    spec = route.spec.model_copy(update={"canary": None})
    return route.model_copy(update={"spec": spec})


def promoted(route: Route) -> Route:
    """The route with its canary in the place of its targets; fallbacks stay."""
    assert route.spec.canary is not None, "only a canary is promoted"
    target = RouteTarget(endpoint=route.spec.canary.endpoint)
    spec = route.spec.model_copy(update={"canary": None, "targets": (target,)})
    return route.model_copy(update={"spec": spec})
