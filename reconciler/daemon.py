"""The daemon: run the line when something moved, and again after a while (I/O).

`bud reconcile` runs it. Level-based: an event says only that a look is due, never
what to do. A newer commit cancels the run in hand at once, and SIGTERM records it (laws
12 and 10). What strays while a rollout takes its time is healed by another run beside
it, for whatever the first is not at. It decides nothing that `plan` could.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol
from uuid import uuid4

import structlog

from reconciler.announcer import Announcer, Tell
from reconciler.metrics import Metrics
from reconciler.pipeline import Pipeline, Prepared
from reconciler.plan import Plan
from reconciler.source import Source, Tree
from reconciler.store import Journal, Run
from reconciler.targets.base import Supervising, Target, Watching
from reconciler.values import Key, Outcome, OutcomeKind
from schemas.errors import ChainBrokenError, FoundryError, TemporaryError

__all__ = ["Daemon", "Gate", "Options", "Progress"]

_log = structlog.get_logger("daemon")

_FIRST_RETRY_S = 5.0
_MAX_RETRY_S = 300.0
_END_S = 5.0
_BESIDE_S = 2.0
"""Between two looks beside a run, at least: its own writes are events too."""
_BESIDE_SHARE = 10
"""A look beside a run waits this many times as long as the last look took."""


@dataclass(slots=True, kw_only=True)
class Progress:
    """What the daemon is doing, for whoever asks."""

    commit: str = ""
    phase: str = "starting"
    since: datetime | None = None
    plan: Plan | None = None
    error: str = ""
    steps: dict[Key, str] = field(default_factory=dict)
    """Steps in hand -> what they are doing, in words."""


class Gate(Protocol):
    """Who decides which commits may be applied, where pull requests are reviewed."""

    async def admit(self, tree: Tree) -> tuple[Tree, Mapping[str, str] | None]:
        """The tree as it was planned, with the pins of that plan; no pins where it is
        in force already.

        Raises:
            PermanentError: nobody reviewed it.
        """
        ...

    async def check(self, made: Plan) -> None:
        """Take the approval of a plan with pins, which is good for one apply.

        Raises:
            PermanentError: it is not approved, or something moved.
        """
        ...

    async def report(self, made: Plan, outcomes: tuple[Outcome, ...]) -> None:
        """Say where it was asked for what became of it."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How a daemon differs from the ordinary one."""

    interval_s: float | None = None
    """Between two looks; None: as the environment says."""
    resolve: bool = False
    """Let the lock of the checkout follow what is edited there."""
    witness: Callable[[], Awaitable[object]] | None = None
    """Keeps the ledger's head outside of the store after an apply."""
    trials: Callable[[Prepared], Awaitable[bool]] | None = None
    """Rules on canaries after each pass; whether anything was decided."""
    gate: Gate | None = None
    """None: whatever is on the branch may be applied."""
    tell: Tell | None = None
    """Who wants to know is not the daemon's business."""
    follow: Callable[[Prepared], None] = lambda _: None
    """Learns from each look what it needs of the spec."""
    jitter: Callable[[], float] = random.random
    """Of waits; between 0 and 1."""


class Daemon:
    """One leader's loop over one source and one environment."""

    def __init__(
        self,
        pipeline: Pipeline,
        source: Source,
        journal: Journal,
        *,
        actor: str,
        metrics: Metrics,
        options: Options,
    ) -> None:
        self._pipeline, self._source, self._journal = pipeline, source, journal
        self._actor, self._metrics, self._options = actor, metrics, options
        self.progress = Progress()
        self._due = asyncio.Event()
        self._attended: dict[str, tuple[Target, list[asyncio.Task[None]]]] = {}
        self._failures = 0
        self._wait_s = 0.0
        self._again = False
        self._in_hand: set[Key] = set()
        """Of every plan that is being applied, what is not settled yet."""
        self._beside_at = math.inf
        """When the next look may begin; never while one is being taken."""
        self._announcer = Announcer(options.tell)

    def look(self) -> None:
        """Look now, and not only when something moved or the pause is over."""
        self._due.set()

    async def run(self, stop: asyncio.Event) -> None:
        """Reconcile until ``stop``.

        Raises:
            ChainBrokenError: the ledger does not prove what it should.
            PermanentError: the ledger cannot be written, or somebody else leads.
        """
        async with asyncio.TaskGroup() as group:
            following = group.create_task(self._follow(stop))
            self._attend(group, stop)
            try:
                await self._loop(group, stop)
            finally:
                stop.set()
                attended = [t for _, tasks in self._attended.values() for t in tasks]
                # They end by themselves and close what they opened; a cancel in the
                # middle of that would leave connections to the collector.
                await asyncio.wait([following, *attended], timeout=_END_S)
                for task in (following, *attended):
                    task.cancel()

    def _attend(self, group: asyncio.TaskGroup, stop: asyncio.Event) -> None:
        """Supervise and watch each target, for as long as it is one."""
        drives = self._pipeline.share.drives
        targets = {n: t for n, t in self._pipeline.targets.items() if drives(n)}
        for name, (target, tasks) in list(self._attended.items()):
            if targets.get(name) is not target:
                for task in tasks:
                    task.cancel()
                del self._attended[name]
        for name, target in targets.items():
            if name in self._attended:
                continue
            keeping: list[asyncio.Task[None]] = []
            if isinstance(target, Supervising):
                keeping.append(group.create_task(target.supervise(stop)))
            if isinstance(target, Watching):
                watch = target.watch(self._due.set, stop)
                keeping.append(group.create_task(watch))
            self._attended[name] = target, keeping

    async def _follow(self, stop: asyncio.Event) -> None:
        """Look as soon as the source moved."""
        async for _ in self._source.changes(stop):
            self._due.set()

    async def _loop(self, group: asyncio.TaskGroup, stop: asyncio.Event) -> None:
        while not stop.is_set():
            self._due.clear()
            self._again = False
            await self._until_superseded(group, stop)
            if not stop.is_set() and not self._again:
                self.progress.phase = "waiting"
                await self._next_look(stop)

    async def _next_look(self, stop: asyncio.Event) -> None:
        """Wait until something moved, the pause is over, or the end."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self._wait_s):
                await _either(self._due, stop)

    async def _until_superseded(
        self, attending: asyncio.TaskGroup, stop: asyncio.Event
    ) -> None:
        """Run, and beside it what moves meanwhile, but stop all of it at once when a
        newer tree or the end arrives."""
        clock = asyncio.get_running_loop().time
        async with asyncio.TaskGroup() as group:
            self._beside_at, due = math.inf, False
            runs = {group.create_task(self._once())}
            while runs:
                limit_s = _BESIDE_S if due else _FIRST_RETRY_S
                moved = await self._wait(runs, stop, limit_s)
                self._again |= moved  # the last look may have missed it
                self._attend(attending, stop)
                runs = {run for run in runs if not run.done()}
                if stop.is_set() or (runs and await self._is_superseded(moved=moved)):
                    for run in runs:
                        run.cancel()
                    return
                due = True
                if runs and self._in_hand and clock() > self._beside_at:
                    self._beside_at, due = math.inf, False
                    runs.add(group.create_task(self._once(beside=True)))

    async def _wait(
        self, runs: set[asyncio.Task[None]], stop: asyncio.Event, limit_s: float
    ) -> bool:
        """Until a run ended, something moved or the time is over; whether it moved."""
        moving = asyncio.ensure_future(_either(self._due, stop))
        first = asyncio.FIRST_COMPLETED
        await asyncio.wait({*runs, moving}, return_when=first, timeout=limit_s)
        moving.cancel()
        moved = self._due.is_set()
        self._due.clear()
        return moved

    async def _is_superseded(self, *, moved: bool) -> bool:
        if moved and await self._is_newer():
            return True
        # Another replica is to drive it, or may drive it already.
        return not all(self._pipeline.share.drives(key.target) for key in self._in_hand)

    async def _is_newer(self) -> bool:
        try:
            tree = await self._source.newest()
        except FoundryError:
            return False
        return tree.commit.sha != self.progress.commit

    async def _once(self, *, beside: bool = False) -> None:
        """One pass of the line, whatever comes of it; maybe beside one at work."""
        started = self._pipeline.clock()
        if not beside:
            self.progress.phase, self.progress.since = "reading", started
        try:
            with self._metrics.run():
                tree = await self._source.newest()
                if beside and tree.commit.sha != self.progress.commit:
                    self._due.set()  # it cancels both, and is nobody's neighbour
                    return
                if self._options.resolve and self._pipeline.refresh_lock(tree):
                    # What we wrote is part of the tree: it must not look newer.
                    tree = await self._source.newest()
                self.progress.commit = tree.commit.sha
                await self._reconcile(tree, started, beside=beside)
        except ChainBrokenError:
            raise
        except FoundryError as error:
            # Nothing was read or nothing could be planned: what lives stays.
            await self._failed(error)
        else:
            self.progress.error = ""
            self._failures = 0

    async def _reconcile(self, tree: Tree, started: datetime, *, beside: bool) -> None:
        await self._note_decisions()
        gate, pins = self._options.gate, None
        if gate is not None:
            tree, pins = await gate.admit(tree)
        prepared = await self._look(tree, pins)
        self._pipeline.check_signed(prepared, tree)
        made = prepared.plan
        self._options.follow(prepared)
        if not beside:
            await self._announcer.drift(made)
        if gate is not None and pins is not None:
            await gate.check(made)
            await self._note_decisions()
            if made.empty:
                await gate.report(made, ())
        if not beside or not made.empty:
            self.progress.plan, self.progress.phase = made, "applying"
            self._metrics.planned(made, len(prepared.observed))
            self._announcer.planned(made)
            self._pace(prepared, settled=made.empty)
        if made.empty:
            if not beside:
                await self._try_canaries(prepared)
            return
        result, outcomes = await self._apply(made, started)
        if gate is not None and pins is not None:
            await gate.report(made, outcomes)
        else:
            await self._announcer.applied(made, outcomes)
        await self._export()
        if result == "done":
            self._wait_s = 0.0  # applied means seen: look again at once
        _log.info("applied", result=result, plan=made.digest[:12], steps=len(outcomes))

    async def _note_decisions(self) -> None:
        if not self._pipeline.share.drives(""):
            return
        said = [decision.said for decision in self._pipeline.store.decisions()]
        await self._pipeline.note_decisions(self._journal)
        await self._announcer.decided(said)

    async def _look(self, tree: Tree, pins: Mapping[str, str] | None) -> Prepared:
        clock = asyncio.get_running_loop().time
        began = clock()
        try:
            return await self._pipeline.prepare(tree, pins, frozenset(self._in_hand))
        finally:
            took = clock() - began
            self._beside_at = clock() + max(_BESIDE_S, _BESIDE_SHARE * took)

    async def _apply(
        self, made: Plan, started: datetime
    ) -> tuple[str, tuple[Outcome, ...]]:
        run = Run(
            id=uuid4().hex,
            environment=made.environment,
            commit=made.commit.sha,
            plan=made.digest,
            started_at=started,
        )
        self._pipeline.store.start_run(run)
        keys = {step.key for step in made.steps}
        self._in_hand |= keys
        outcomes: tuple[Outcome, ...] = ()
        result = "interrupted"
        try:
            outcomes = await self._pipeline.execute(
                made, self._journal, actor=self._actor, progress=self._tell
            )
            failed = any(o.kind is OutcomeKind.FAILED for o in outcomes)
            result = "failed" if failed else "done"
        finally:
            self._in_hand -= keys
            for key in keys:
                self.progress.steps.pop(key, None)
            self._metrics.applied(outcomes)
            self._pipeline.store.end_run(
                _ended(run, self._pipeline.clock(), result, outcomes)
            )
        return result, outcomes

    async def _try_canaries(self, prepared: Prepared) -> None:
        """Only of a settled world: while steps run, who answers changes."""
        trials = self._options.trials
        ours = trials is not None and self._pipeline.share.drives("gateway")
        if trials is not None and ours and await trials(prepared):
            self._wait_s = 0.0

    async def _export(self) -> None:
        if self._options.witness is None or not self._pipeline.share.drives(""):
            return
        try:
            await self._options.witness()
        except TemporaryError as error:
            # The next apply exports this one too; until then the store vouches.
            _log.warning("no witness", error=str(error))

    def _pace(self, prepared: Prepared, *, settled: bool) -> None:
        """When to look again if nothing moves before."""
        reconcile = prepared.desired.environment.spec.reconcile
        pause = self._options.interval_s or reconcile.interval.seconds
        if not settled or prepared.plan.blocked:
            pause = min(pause, _FIRST_RETRY_S)
        # Up to a fifth sooner, so that a fleet of daemons does not beat as one.
        self._wait_s = pause * (1.0 - 0.2 * self._options.jitter())

    async def _failed(self, error: FoundryError) -> None:
        self.progress.error = self._pipeline.mask(str(error))
        self._failures += 1
        ceiling = min(_MAX_RETRY_S, _FIRST_RETRY_S * 2.0 ** (self._failures - 1))
        self._wait_s = ceiling * (0.5 + 0.5 * self._options.jitter())
        await self._announcer.failed(error, self.progress.error)

    def _tell(self, key: Key, doing: str) -> None:
        if doing in tuple(OutcomeKind):
            self._in_hand.discard(key)
            self.progress.steps.pop(key, None)
        else:
            self.progress.steps[key] = doing
        _log.info("step", object=str(key), doing=doing)


async def _either(one: asyncio.Event, other: asyncio.Event) -> None:
    tasks = [asyncio.ensure_future(event.wait()) for event in (one, other)]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()


def _ended(run: Run, at: datetime, result: str, outcomes: tuple[Outcome, ...]) -> Run:
    counts: dict[str, int] = {}
    for outcome in outcomes:
        counts[outcome.kind] = counts.get(outcome.kind, 0) + 1
    errors = [f"{o.key}: {o.error}" for o in outcomes if o.error]
    return Run(
        id=run.id,
        environment=run.environment,
        commit=run.commit,
        plan=run.plan,
        started_at=run.started_at,
        ended_at=at,
        result=result,
        error="\n".join(errors),
        summary=counts,
    )
