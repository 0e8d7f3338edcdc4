"""The gate before an apply: only what was reviewed, exactly as it was (I/O: forge).

The daemon asks it where an environment has `review`. It re-reads everything an
approval rests on: the pull request's head, the base, approvals, expiry, and through
the plan's digest what lives and every table. The first that moved is named, to the
daemon, on the pull request and in the ledger.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import orjson

from reconciler.plan import Plan
from reconciler.review.reviewer import Reviewer
from reconciler.source import Tree
from reconciler.store import Review, Store
from reconciler.values import Outcome, OutcomeKind
from schemas.errors import PermanentError

__all__ = ["ReviewGate"]

_PINNED = ("base", "tree", "policies")


@dataclass(slots=True, kw_only=True)
class ReviewGate:
    reviewer: Reviewer
    actor: str

    @property
    def _store(self) -> Store:
        return self.reviewer.store

    async def admit(self, tree: Tree) -> tuple[Tree, Mapping[str, str] | None]:
        """Raises: PermanentError: no pull request brought it, or something moved."""
        commit = tree.commit.sha
        content = await self.reviewer.planner.trees.tree_of(commit)
        current = self._store.reviews.in_force()
        if current is not None and current.tree == content:
            return tree, None
        if current is None and self._begins(commit):
            return tree, None
        review = await self._review_of(commit, content)
        pins = orjson.loads(review.document)["inputs"]
        planned = replace(tree.commit, sha=review.head)
        return replace(tree, commit=planned), {name: pins[name] for name in _PINNED}

    async def check(self, made: Plan) -> None:
        """Raises: PermanentError: not approved, expired, used, or something moved."""
        review = self._newest(made.commit.sha)
        judgement = await self.reviewer.judged(review)
        if judgement.reasons:
            self._refuse(review, "; ".join(judgement.reasons))
        try:
            self.reviewer.planner.pipeline.check_pinned(made, review.digest)
            self._store.use_plan(review.digest, self.actor)
        except PermanentError as error:
            await self._tell(review, str(error))
            self._refuse(review, str(error))
        by = ", ".join(judgement.approved) or "nobody: no policy asks for it"
        self.reviewer.record(
            self.actor,
            f"apply plan {review.digest} of #{review.pull}, approved by {by}",
        )
        self._store.reviews.settle(review.digest, "applying")

    async def report(self, made: Plan, outcomes: tuple[Outcome, ...]) -> None:
        review = self._store.reviews.find(made.digest)
        assert review is not None, "it was checked before it was applied"
        bad = (OutcomeKind.FAILED, OutcomeKind.SKIPPED)
        result = "failed" if any(o.kind in bad for o in outcomes) else "applied"
        pipeline = self.reviewer.planner.pipeline
        document = orjson.loads(review.document)
        document["outcome"] = {
            "result": result,
            "at": pipeline.clock().isoformat(timespec="seconds"),
            "by": self.actor,
            "outcomes": [
                {"key": str(o.key), "outcome": o.kind, "error": pipeline.mask(o.error)}
                for o in outcomes
            ],
            "measured": [],
            "meters": await self.reviewer.meters() or {},
        }
        self._store.reviews.settle(review.digest, result, orjson.dumps(document))
        await self.reviewer.write(review, document)
        await self.reviewer.notify(
            "apply" if result == "applied" else "failure",
            f"#{review.pull}: plan {review.digest[:12]} {result}",
        )

    def _begins(self, commit: str) -> bool:
        """Whether this is the state that reviews start from: the first ever applied."""
        runs = self._store.runs(limit=1)
        if not runs:
            return not self._store.inventory()
        return runs[0].commit == commit

    async def _review_of(self, commit: str, content: str) -> Review:
        pull = await self.reviewer.forge.pull_of(commit)
        if pull is None:
            raise self._unknown(commit, "no pull request brought it")
        review = self._store.reviews.of_pull(pull.number)
        if review is None:
            raise self._unknown(commit, f"#{pull.number} was never planned")
        if pull.head != review.head:
            self._refuse(review, f"head moved to {pull.head[:12]}")
        if content != review.tree:
            self._refuse(review, f"base moved from {review.base[:12]}")
        return review

    def _newest(self, head: str) -> Review:
        found = self._store.reviews.of_head(head)
        assert found is not None, "it was admitted by this review"
        return found

    def _unknown(self, commit: str, why: str) -> PermanentError:
        message = f"cannot apply {commit[:12]}: {why}"
        if self._store.reviews.first_seen(f"gate {message}"[:120]):
            self.reviewer.record(self.actor, f"refuse to apply {commit}: {why}")
        return PermanentError(
            message, hint="revert it, and bring the change by a pull request"
        )

    def _refuse(self, review: Review, why: str) -> None:
        if self._store.reviews.first_seen(f"gate {review.digest[:16]} {why}"[:200]):
            said = f"refuse plan {review.digest} of #{review.pull}: {why}"
            self.reviewer.record(self.actor, said.splitlines()[0])
        raise PermanentError(
            f"cannot apply #{review.pull}: {why}",
            hint="comment `/bud plan` on it, and approve the plan that follows",
        )

    async def _tell(self, review: Review, why: str) -> None:
        """On the pull request, once for each thing that moved."""
        if not self._store.reviews.first_seen(f"told {review.digest[:16]} {why}"[:200]):
            return
        document: dict[str, Any] = orjson.loads(review.document)
        document["outcome"] = {
            "result": "not applied",
            "at": self.reviewer.planner.pipeline.clock().isoformat(timespec="seconds"),
            "by": self.actor,
            "outcomes": [{"key": "plan", "outcome": "failed", "error": why}],
            "measured": [],
        }
        await self.reviewer.write(review, document)
