"""Apply: run a plan's steps in order, each between an intent and an outcome (I/O).

Called by the pipeline. Everything is dry-run before anything is written (law 4);
an intent and its inventory row are durable before the write, the outcome after
it (laws 2 and 10). A step that fails stops those that wait for it and nobody
else. It decides nothing: what to do was decided by `plan`.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from time import monotonic

from reconciler import faults
from reconciler.ledger import INTENDED, Draft
from reconciler.ordering import Step
from reconciler.plan import Plan
from reconciler.store import Fenced, Journal, Owned, Ownership
from reconciler.targets.base import Paced, Progress, Target
from reconciler.values import Action, Key, Live, Outcome, OutcomeKind, Unit
from schemas.errors import FoundryError, TemporaryError

__all__ = ["Applier"]

_IN_HAND = 16
"""Steps of one target in hand at once, where it does not say: one that is slow, or
waits for a rollout, never takes the place of another's."""

_DONE = {
    Action.CREATE: OutcomeKind.CREATED,
    Action.CHANGE: OutcomeKind.CHANGED,
    Action.DELETE: OutcomeKind.DELETED,
    Action.ADOPT: OutcomeKind.UNCHANGED,
    Action.FORGET: OutcomeKind.DELETED,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Applier:
    """What applying needs beside the plan."""

    targets: Mapping[str, Target]
    journal: Journal
    actor: str
    progress: Progress
    mask: Callable[[str], str] = str
    """Takes secrets out of an error before anybody reads it."""

    async def run(self, plan: Plan) -> tuple[Outcome, ...]:
        """Apply every step; one outcome each, in the plan's order.

        A cancelled run records the steps in hand as failed before it ends, so that
        the next run observes them first.

        Raises:
            PermanentError: the ledger cannot be written; nothing more is applied.
        """
        refused = await self._dry_run(plan)
        settled: dict[Key, asyncio.Future[bool]] = {
            step.key: asyncio.get_running_loop().create_future() for step in plan.steps
        }
        rooms = self._rooms()

        async def one(step: Step) -> Outcome:
            good = False
            try:
                ready = [await settled[key] for key in step.after]
                async with rooms[step.key.target]:
                    try:
                        outcome = await self._step(
                            plan, step, refused, ready=all(ready)
                        )
                    except Fenced as error:
                        # Whoever drives it now records what becomes of it.
                        outcome = _fenced(step, error)
                good = outcome.kind not in (OutcomeKind.FAILED, OutcomeKind.SKIPPED)
                return outcome
            finally:
                if not settled[step.key].done():
                    settled[step.key].set_result(good)

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(step)) for step in plan.steps]
        return tuple(task.result() for task in tasks)

    def _rooms(self) -> Mapping[str, asyncio.Semaphore]:
        rooms = defaultdict[str, asyncio.Semaphore](lambda: asyncio.Semaphore(_IN_HAND))
        for name, target in self.targets.items():
            if isinstance(target, Paced):
                rooms[name] = asyncio.Semaphore(target.in_hand)
        return rooms

    async def _dry_run(self, plan: Plan) -> Mapping[Key, FoundryError]:
        """Ask every target first: a refusal must not come after half the writes."""
        refused: dict[Key, FoundryError] = {}
        rooms = self._rooms()

        async def ask(step: Step) -> None:
            async with rooms[step.key.target]:
                try:
                    await self.targets[step.key.target].dry_run(step.change)
                except FoundryError as error:
                    refused[step.key] = error

        async with asyncio.TaskGroup() as group:
            for step in plan.steps:
                if step.change.action not in (Action.ADOPT, Action.FORGET):
                    group.create_task(ask(step))
        return refused

    async def _step(
        self,
        plan: Plan,
        step: Step,
        refused: Mapping[Key, FoundryError],
        *,
        ready: bool,
    ) -> Outcome:
        if not ready:
            error = "something it needs did not succeed"
            return await self._settle(plan, step, OutcomeKind.SKIPPED, error=error)
        if step.key in refused and (error := await self._still(refused, step)):
            return await self._settle(plan, step, OutcomeKind.FAILED, error=error)
        if step.change.action in (Action.ADOPT, Action.FORGET):
            return await self._settle(plan, step, _DONE[step.change.action])
        faults.point(f"before intent {step.key}")
        await self.journal.intend(
            [_draft(self, plan, step, INTENDED)], [_owned(step)], _former(step)
        )
        faults.point(f"after intent {step.key}")
        started = monotonic()
        try:
            live = await self._write(step)
        except (Exception, asyncio.CancelledError) as error:
            # Also a target's own bug: it must not stop the steps beside it.
            cancelled = isinstance(error, asyncio.CancelledError)
            text = "interrupted" if cancelled else self.mask(_said(error))
            failed = self._settle(plan, step, OutcomeKind.FAILED, error=text)
            # Shielded: what was begun is recorded even while the run is cancelled.
            outcome = await asyncio.shield(failed)
            if cancelled:
                raise
            return outcome
        faults.point(f"before outcome {step.key}")
        outcome = await self._settle(
            plan,
            step,
            _DONE[step.change.action],
            live=live,
            seconds=monotonic() - started,
        )
        faults.point(f"after outcome {step.key}")
        return outcome

    async def _still(self, refused: Mapping[Key, FoundryError], step: Step) -> str:
        """Why a step is refused; "not now" is asked again after what it waited for: an
        add-on brings the kinds that an endpoint is made of."""
        error = refused[step.key]
        if not step.after or not isinstance(error, TemporaryError):
            return self.mask(str(error))
        try:
            await self.targets[step.key.target].dry_run(step.change)
        except FoundryError as again:
            return self.mask(str(again))
        return ""

    async def _write(self, step: Step) -> Live | None:
        target = self.targets[step.key.target]
        if step.change.action is Action.DELETE:
            await target.delete(step.change, self.progress)
            return None
        return await target.apply(step.change, self.progress)

    async def _settle(
        self,
        plan: Plan,
        step: Step,
        kind: OutcomeKind,
        *,
        live: Live | None = None,
        error: str = "",
        seconds: float = 0.0,
    ) -> Outcome:
        uid = live.uid if live else step.change.uid
        draft = _draft(self, plan, step, kind, uid=uid, error=error)
        if kind is OutcomeKind.DELETED:
            await self.journal.settle([draft], gone=[step.key])
        elif error or step.change.unit is None:
            # The inventory keeps what the intent said: nobody knows how far it got.
            await self.journal.settle([draft])
        else:
            version = live.version if live else step.change.version
            owned = Owned(
                unit=step.change.unit, state=Ownership.LIVE, uid=uid, version=version
            )
            await self.journal.settle([draft], [owned])
        self.progress(step.key, error or kind)
        return Outcome(key=step.key, kind=kind, live=live, error=error, seconds=seconds)


def _fenced(step: Step, error: Fenced) -> Outcome:
    return Outcome(key=step.key, kind=OutcomeKind.FAILED, error=str(error))


def _said(error: BaseException) -> str:
    known = isinstance(error, FoundryError)
    return str(error) if known else f"{type(error).__name__}: {error}"


def _owned(step: Step) -> Owned:
    """The inventory row that an intent leaves: enough to delete without any spec.

    Until the outcome is known it may still be the old object that lives, so what
    the old one leaned on stays leaned on.
    """
    if step.change.unit is None:
        assert step.owned is not None, "a delete is decided on an inventory row"
        unit, state = step.owned.unit, Ownership.DELETING
    else:
        leans = {
            *step.change.unit.after,
            *(step.owned.unit.after if step.owned else ()),
        }
        unit = replace(step.change.unit, after=tuple(sorted(leans)))
        state = Ownership.PENDING
    return Owned(
        unit=unit, state=state, uid=step.change.uid, version=step.change.version
    )


def _former(step: Step) -> tuple[Unit, ...]:
    """What a rollback of this step would bring back.

    A revision whose outcome nobody recorded is none: the one before it stays kept.
    """
    mine = step.owned
    if mine is None or mine.state is not Ownership.LIVE or step.change.unit is None:
        return ()
    return () if mine.unit.digest == step.digest else (mine.unit,)


def _draft(
    applier: Applier,
    plan: Plan,
    step: Step,
    outcome: str,
    *,
    uid: str = "",
    error: str = "",
) -> Draft:
    return Draft(
        actor=applier.actor,
        commit=plan.commit.sha,
        plan=plan.digest,
        step=step.title,
        target=step.key.target,
        before=step.before,
        after=step.digest,
        uid=uid or step.change.uid,
        outcome=outcome,
        error=error,
    )
