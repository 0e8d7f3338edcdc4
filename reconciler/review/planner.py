"""From a pull request to its plan document (I/O: git, the describer, targets).

The reviewer calls it when a pull request is new or something moved, and the gate
again before anything is applied. What is read of the branch is read by a process
that is shut in; what lives is observed with the targets of the protected branch, so
that a cluster or credential that a pull request names is never used to plan it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import orjson

from reconciler.forge import PullRequest
from reconciler.pipeline import Pipeline
from reconciler.plan import Plan
from reconciler.review.describer import Described, Describer
from reconciler.review.document import Surroundings, counted, document_of
from reconciler.review.trees import Merge, Trees
from reconciler.store import Review
from reconciler.values import Commit
from schemas.environment import EnvironmentSpec
from schemas.units import Duration

__all__ = ["Planned", "Planner"]

Data = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    plan: Plan
    document: Data
    merge: Merge


@dataclass(slots=True, kw_only=True)
class Planner:
    pipeline: Pipeline
    trees: Trees
    describer: Describer
    traffic: Callable[[], Awaitable[Mapping[str, Data] | None]]
    _base: tuple[str, Described] | None = field(default=None, init=False)

    async def plan(self, pull: PullRequest, ref: str) -> Planned:
        """Plan what the protected branch would be with this pull request in it.

        Raises:
            PermanentError: what its author has to mend.
            TemporaryError: something could not be read; try again.
        """
        base_sha, base = await self.base()
        merge = await self.trees.merge(base_sha, ref, pull.head)
        head = await self.describer.describe(
            merge.root, self.pipeline.environment, pull.head, trusted=False
        )
        made, observed = await self.pipeline.compare(
            Commit(sha=pull.head),
            EnvironmentSpec.model_validate_json(orjson.dumps(head.facts["settings"])),
            head.rendered,
            {**head.inputs, **pins_of(merge, base)},
            decided=lambda ref: head.decisions.get(str(ref)),
        )
        store = self.pipeline.store
        around = Surroundings(
            now=self.pipeline.clock(),
            mask=self.pipeline.mask,
            owned=counted(store.inventory()),
            traffic=await self.traffic(),
            pull={
                "number": pull.number,
                "title": pull.title,
                "author": pull.author,
                "head": pull.head,
                "base": base_sha,
                "branch": pull.branch,
                "fork": pull.fork,
                "url": pull.url,
                "elsewhere": list(merge.elsewhere),
            },
        )
        document = document_of(
            made, observed, head=head.facts, base=base.facts, around=around
        )
        return Planned(plan=made, document=document, merge=merge)

    async def base(self) -> tuple[str, Described]:
        """The protected branch: the rules that count, and what was before."""
        sha, root = await self.trees.base()
        if self._base is None or self._base[0] != sha:
            described = await self.describer.describe(
                root, self.pipeline.environment, sha, trusted=True
            )
            self._base = sha, described
        return self._base

    def review_of(self, planned: Planned, pull: int, expires: Duration) -> Review:
        now = self.pipeline.clock()
        return Review(
            digest=planned.plan.digest,
            pull=pull,
            head=planned.merge.head,
            base=planned.merge.base,
            tree=planned.merge.tree,
            document=orjson.dumps(planned.document),
            made_at=now,
            expires_at=now + timedelta(seconds=expires.seconds),
        )


def pins_of(merge: Merge, base: Described) -> dict[str, str]:
    """What a plan of a pull request is made from beside what every plan is."""
    rules = orjson.dumps(base.facts["policies"], option=orjson.OPT_SORT_KEYS)
    return {
        "base": merge.base,
        "tree": merge.tree,
        "policies": hashlib.sha256(rules).hexdigest(),
    }
