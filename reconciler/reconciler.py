"""One pass of the line for a daemon, and what is remembered between passes (I/O).

`Daemon` says when; this looks, plans, asks the gate, applies, and tells whoever wants
to know. Whatever a pass fails with, what lives stays, and the wait grows. It never
decides what `plan` could, nor when to begin.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Awaitable, Callable, Mapping
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
from reconciler.values import Key, Outcome, OutcomeKind
from schemas.errors import ChainBrokenError, FoundryError, TemporaryError

__all__ = ["BESIDE_S", "FIRST_RETRY_S", "Gate", "Options", "Progress", "Reconciler"]

_log = structlog.get_logger("daemon")

FIRST_RETRY_S = 5.0
_MAX_RETRY_S = 300.0
BESIDE_S = 2.0
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


class Reconciler:
    """Passes over one source and one environment, one after the other or one beside
    another that is at work."""

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
        self.pipeline, self.source, self._journal = pipeline, source, journal
        self._actor, self._metrics, self._options = actor, metrics, options
        self._announcer = Announcer(options.tell)
        self._failures = 0
        self.progress = Progress()
        self.wait_s = 0.0
        """Until the next pass, if nothing moves before."""
        self.in_hand: set[Key] = set()
        """Of every plan that is being applied, what is not settled yet."""
        self._beside_at = math.inf
        """When a pass beside this one may begin; never while one is looking."""

    def may_run_beside(self) -> bool:
        """Whether a pass beside the one at work is worth its while."""
        now = asyncio.get_running_loop().time()
        return bool(self.in_hand) and now > self._beside_at

    async def reconcile(self, *, beside: bool = False) -> bool:
        """One pass, whatever comes of it; maybe beside one at work.

        Returns:
            Whether a newer tree was found, which nobody may be planned beside.

        Raises:
            ChainBrokenError: the ledger does not prove what it should.
        """
        self._beside_at, started = math.inf, self.pipeline.clock()
        if not beside:
            self.progress.phase, self.progress.since = "reading", started
        try:
            with self._metrics.run():
                tree = await self.source.newest()
                if beside and tree.commit.sha != self.progress.commit:
                    return True
                if self._options.resolve and self.pipeline.refresh_lock(tree):
                    # What we wrote is part of the tree: it must not look newer.
                    tree = await self.source.newest()
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
        return False

    async def _reconcile(self, tree: Tree, started: datetime, *, beside: bool) -> None:
        await self._note_decisions()
        gate, pins = self._options.gate, None
        if gate is not None:
            tree, pins = await gate.admit(tree)
        prepared = await self._look(tree, pins)
        self.pipeline.check_signed(prepared, tree)
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
            self.wait_s = 0.0  # applied means seen: look again at once
        _log.info("applied", result=result, plan=made.digest[:12], steps=len(outcomes))

    async def _note_decisions(self) -> None:
        if not self.pipeline.share.drives(""):
            return
        said = [decision.said for decision in self.pipeline.store.decisions()]
        await self.pipeline.note_decisions(self._journal)
        await self._announcer.decided(said)

    async def _look(self, tree: Tree, pins: Mapping[str, str] | None) -> Prepared:
        clock = asyncio.get_running_loop().time
        began = clock()
        try:
            return await self.pipeline.prepare(tree, pins, frozenset(self.in_hand))
        finally:
            took = clock() - began
            self._beside_at = clock() + max(BESIDE_S, _BESIDE_SHARE * took)

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
        self.pipeline.store.start_run(run)
        keys = {step.key for step in made.steps}
        self.in_hand |= keys
        outcomes: tuple[Outcome, ...] = ()
        result = "interrupted"
        try:
            outcomes = await self.pipeline.execute(
                made, self._journal, actor=self._actor, progress=self._tell
            )
            failed = any(o.kind is OutcomeKind.FAILED for o in outcomes)
            result = "failed" if failed else "done"
        finally:
            self.in_hand -= keys
            for key in keys:
                self.progress.steps.pop(key, None)
            self._metrics.applied(outcomes)
            self.pipeline.store.end_run(
                _ended(run, self.pipeline.clock(), result, outcomes)
            )
        return result, outcomes

    async def _try_canaries(self, prepared: Prepared) -> None:
        """Only of a settled world: while steps run, who answers changes."""
        trials = self._options.trials
        ours = trials is not None and self.pipeline.share.drives("gateway")
        if trials is not None and ours and await trials(prepared):
            self.wait_s = 0.0

    async def _export(self) -> None:
        if self._options.witness is None or not self.pipeline.share.drives(""):
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
            pause = min(pause, FIRST_RETRY_S)
        # Up to a fifth sooner, so that a fleet of daemons does not beat as one.
        self.wait_s = pause * (1.0 - 0.2 * self._options.jitter())

    async def _failed(self, error: FoundryError) -> None:
        self.progress.error = self.pipeline.mask(str(error))
        self._failures += 1
        ceiling = min(_MAX_RETRY_S, FIRST_RETRY_S * 2.0 ** (self._failures - 1))
        self.wait_s = ceiling * (0.5 + 0.5 * self._options.jitter())
        await self._announcer.failed(error, self.progress.error)

    def _tell(self, key: Key, doing: str) -> None:
        if doing in tuple(OutcomeKind):
            self.in_hand.discard(key)
            self.progress.steps.pop(key, None)
        else:
            self.progress.steps[key] = doing
        _log.info("step", object=str(key), doing=doing)


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
