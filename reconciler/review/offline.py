"""The plan document of a checkout, as a reviewer would see it (I/O: git, gateway).

`bud plan` calls it. What was before is the commit that was applied last, or the one
that is named; its policies are the rules. Both are read in this process: who runs
the command trusts their own checkout.
"""

from __future__ import annotations

import asyncio
import re
import tempfile
from pathlib import Path
from typing import Any

from reconciler.foundry import Foundry, now
from reconciler.pipeline import Prepared
from reconciler.review.describe import Describing
from reconciler.review.document import Surroundings, counted, document_of
from reconciler.review.facts import facts_of, guards_of
from reconciler.review.traffic import Traffic
from reconciler.source import git, lay_out
from schemas.catalog import catalog
from schemas.errors import FoundryError

__all__ = ["document_here"]

Data = dict[str, Any]


async def document_here(
    foundry: Foundry, prepared: Prepared, base: str | None = None
) -> Data:
    """Raises: FoundryError: a base that was named cannot be read."""
    head = await asyncio.to_thread(facts_of, prepared.resolved, catalog())
    around = Surroundings(
        now=now(),
        mask=foundry.pipeline.mask,
        owned=counted(foundry.store.inventory()),
        traffic=await Traffic(foundry.gateway.metrics_url, now)(),
    )
    before = await _before(foundry, base)
    return document_of(
        prepared.plan,
        prepared.observed,
        head=head,
        base=guards_of(prepared.desired) if before is None else before,
        around=around,
    )


async def _before(foundry: Foundry, base: str | None) -> Data | None:
    """The facts of the base; None when nothing was applied, or it is not here."""
    if base is not None:
        return await _facts(foundry, base)
    runs = foundry.store.runs(environment=foundry.environment, limit=1)
    if not runs or not re.fullmatch(r"[0-9a-f]{40}", runs[0].commit):
        return None
    try:
        return await _facts(foundry, runs[0].commit)
    except FoundryError:
        return None


async def _facts(foundry: Foundry, ref: str) -> Data:
    found = await git("rev-parse", "--verify", "--end-of-options", f"{ref}^{{commit}}", cwd=foundry.repo)  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="bud-base-") as folder:
        root = Path(folder) / "tree"
        await lay_out(foundry.repo, found.strip(), root)
        described = await asyncio.to_thread(
            Describing().describe, root, foundry.environment, found.strip()
        )
    facts: Data = described["facts"]
    return facts
