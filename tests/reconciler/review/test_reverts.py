"""A rollback becomes a pull request, made from the mirror of the branch it reverts."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from reconciler.forge import Proposal, PullRequest
from reconciler.proposal import Grounds, publish
from reconciler.revert import revert
from reconciler.review.describer import Describer
from reconciler.rollback import revisions_before
from tests.reconciler.review.memory_forge import MemoryForge
from tests.reconciler.review.test_pinning import ONE, bench

pytestmark = pytest.mark.asyncio(loop_scope="module")


@dataclass(slots=True)
class Opening(MemoryForge):
    opened: list[Proposal] = field(default_factory=list)

    async def propose(self, proposal: Proposal) -> PullRequest:
        self.opened.append(proposal)
        return replace(self.pulls[1], url="http://forge.example/2")


async def test_a_revert_is_opened_with_the_files_that_served_before(
    tmp_path: Path, describer: Describer
) -> None:
    async with bench(tmp_path, describer) as b:
        b.merge()
        prepared = await b.apply()
        store = b.pipeline.store
        with store.lead("daemon") as journal:
            await b.pipeline.execute(
                prepared.plan, journal, actor="daemon", progress=lambda *_: None
            )
        items = revisions_before(
            ONE.ref, owned=store.inventory(), former=store.former(ONE.ref),
            frozen={}, reason="too slow", now=b.pipeline.clock(),
        )  # fmt: skip
        grounds = Grounds(repo=b.source.mirror, at=b.source.ref)
        made = await revert(
            grounds, b.pipeline, store.log, ONE.ref, items, "too slow"
        )  # fmt: skip
        forge = Opening(b.forge.now, pulls=b.forge.pulls, head=made.proposal.base)
        published = await publish(grounds, made.proposal, forge, str)

    assert made.exact
    assert published.url == "http://forge.example/2"
    [opened] = forge.opened
    assert b"replicas: 1" in (opened.files["spec/endpoint/one.yaml"] or b"")
    assert sorted(opened.files) == [
        "environments/local/resolved.lock.yaml",
        "spec/endpoint/one.yaml",
    ]
    assert opened.onto == "main"
    assert opened.body.startswith("too slow\n\nBack to ")
