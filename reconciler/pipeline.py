"""The straight line. Read this file and you know the product.

    load -> overlay -> resolve -> render -> observe -> plan -> apply -> record

`bud plan`, `bud apply`, the daemon and CI all call it; there is one engine. Load
and observe read the world, apply changes it, and every step between decides by
values alone. Record brackets apply: an intent before each write, its outcome
after it, in a ledger that can be proven.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from threading import Lock

import orjson

from reconciler import load as reading
from reconciler import lockfile
from reconciler.apply import Applier
from reconciler.clusters import Clusters
from reconciler.holds import held, records
from reconciler.observe import Observer
from reconciler.optimizer.shown import decision_of
from reconciler.overlay import overlay
from reconciler.pins import inputs_of, moved
from reconciler.plan import Plan, plan
from reconciler.preview import preview
from reconciler.render import Renderer
from reconciler.resolve import Memo, resolve
from reconciler.rollback import stood_in
from reconciler.share import Alone, Share, in_hand_elsewhere
from reconciler.source import Tree
from reconciler.store import Journal, Store
from reconciler.targets.base import Progress, Target
from reconciler.values import (
    Commit,
    Desired,
    Key,
    Live,
    Outcome,
    Rendered,
    Resolved,
)
from schemas.catalog import Catalog
from schemas.environment import EnvironmentSpec
from schemas.errors import PermanentError
from schemas.objects import Ref

__all__ = ["Pipeline", "Prepared"]

_HISTORY = 5000
"""Ledger entries that backoff and fights are read off: far more than either needs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A plan with what it was made from, for those who explain it."""

    plan: Plan
    resolved: Resolved
    rendered: Rendered
    observed: Mapping[Key, Live]

    @property
    def desired(self) -> Desired:
        return self.resolved.desired


@dataclass(frozen=True, slots=True, kw_only=True)
class Pipeline:
    """The line with its surroundings: what is read, what is written, which clock."""

    environment: str
    catalog: Catalog
    targets: dict[str, Target]
    clusters: Clusters | None = None
    """Adds a target for each cluster, and for whatever makes clusters."""
    store: Store
    clock: Callable[[], datetime]
    mask: Callable[[str], str] = str
    share: Share = field(default_factory=Alone)
    _files: reading.Cache = field(default_factory=dict)
    _describing: Lock = field(default_factory=Lock)
    """A cancelled look may still describe when the next one begins."""
    _observer: Observer = field(default_factory=Observer)
    _resolved: Memo = field(default_factory=Memo)
    _renderer: Renderer = field(default_factory=Renderer)

    def desire(self, tree: Tree) -> Desired:
        """load, overlay. Raises SpecError with every problem of the commit."""
        documents = reading.load(tree.root, tree.commit, cache=self._files)
        return overlay(documents, self.environment)

    def refresh_lock(self, tree: Tree) -> bool:
        """Decide and write the lock where somebody works in the checkout; if it moved."""
        lock, moved = lockfile.refresh(self.desire(tree), self.catalog)
        if moved:
            lockfile.write(tree.root, self.environment, lock)
        return bool(moved)

    async def prepare(
        self,
        tree: Tree,
        pins: Mapping[str, str] | None = None,
        in_hand: Collection[Key] = (),
    ) -> Prepared:
        """From a checkout to a plan. Reads, and changes nothing of any target.

        ``pins`` are inputs of a review: the plan is good only while they hold.
        ``in_hand`` are objects that an earlier plan is still at.
        """
        # In a thread: a large spec takes seconds, and the loop keeps engines alive.
        resolved, rendered = await asyncio.to_thread(self.describe, tree)
        desired = resolved.desired
        if self.clusters is not None:
            await self.clusters.follow(desired, self.store.inventory(), self.targets)
        await self.share.settle({*self.targets}, in_hand)
        made, observed = await self.compare(
            tree.commit,
            desired.environment.spec,
            rendered,
            {**inputs_of(rendered.units, desired.lock), **(pins or {})},
            decided=partial(decision_of, desired.lock),
            in_hand=in_hand,
        )
        return Prepared(
            plan=made, resolved=resolved, rendered=rendered, observed=observed
        )

    def describe(self, tree: Tree) -> tuple[Resolved, Rendered]:
        """load, overlay, resolve, render: everything that reads only the checkout."""
        with self._describing:
            desired = self.desire(tree)
            resolved = resolve(desired, self.catalog, memo=self._resolved)
            return resolved, self._renderer.render(resolved, self.catalog)

    async def compare(
        self,
        commit: Commit,
        settings: EnvironmentSpec,
        rendered: Rendered,
        inputs: Mapping[str, str],
        decided: Callable[[Ref], Mapping[str, object] | None] = lambda _: None,
        in_hand: Collection[Key] = (),
    ) -> tuple[Plan, Mapping[Key, Live]]:
        """observe, plan: what is rendered against what lives."""
        owned, frozen = self.store.inventory(), self.store.frozen()
        keys = {*rendered.units, *owned}
        drives, look = self.share.drives, self._observer.look
        observed = await look(self.targets, keys, self.mask, owned, drives)
        units = stood_in(rendered.units, frozen=frozen, owned=owned, observed=observed)
        made = plan(
            commit=commit,
            environment=self.environment,
            settings=settings,
            units=units,
            observed=observed,
            owned=owned,
            held=in_hand_elsewhere(keys, drives, in_hand)
            | held(
                keys,
                units=units,
                history=records(reversed(self.store.log.entries(limit=_HISTORY))),
                suspensions=self.store.suspensions(self.clock()),
                frozen=frozen,
                writers={key: live.writer for key, live in observed.items()},
                now=self.clock(),
            ),
            inputs={"commit": commit.sha, **inputs},
            decided=decided,
        )
        return await preview(self.targets, made, self.mask), observed

    async def execute(
        self, made: Plan, journal: Journal, *, actor: str, progress: Progress
    ) -> tuple[Outcome, ...]:
        """apply, record. Do exactly the plan."""
        self.store.save_plan(made.digest, made.canonical())
        applier = Applier(
            targets=self.targets,
            journal=journal,
            actor=actor,
            progress=lambda key, said: progress(key, self.mask(said)),
            mask=self.mask,
        )
        return await applier.run(made)

    async def note_decisions(self, journal: Journal) -> None:
        """record, of what people decided meanwhile: only who leads may append."""
        if decisions := self.store.decisions():
            await journal.record(decisions)

    def check_signed(self, prepared: Prepared, tree: Tree) -> None:
        """Refuse a tree that nobody vouched for where the environment asks for it."""
        wanted = prepared.desired.environment.spec.reconcile.require_signed_commits
        if wanted and not tree.signed:
            raise PermanentError(
                f"cannot apply {tree.commit.short}: {self.environment} wants signed "
                "commits, and this source does not check them",
                hint="run `bud reconcile --remote URL --allowed-signers FILE`",
            )

    def check_pinned(self, made: Plan, digest: str) -> None:
        """Law 5: what was approved is what runs, or the one that moved is named."""
        if made.digest == digest:
            return
        saved = self.store.plan(digest)
        if saved is None:
            raise PermanentError(
                f"cannot apply plan {digest}: no such plan is kept here",
                hint="run `bud plan` and name the digest that it prints",
            )
        raise PermanentError(
            f"cannot apply plan {digest}: "
            f"{moved(orjson.loads(saved.document), made.document())} moved",
            hint="run `bud plan` again and look at what is different",
        )
