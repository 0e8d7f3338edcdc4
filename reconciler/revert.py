"""Reverts: a rollback as a proposal, because git still declares what failed (I/O: git).

`bud rollback` and a canary that was rolled back make one. Merged, it declares what the
stand-in is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from reconciler.forge.base import Proposal
from reconciler.pipeline import Pipeline
from reconciler.proposal import Grounds, draft, places_of
from reconciler.source import Tree, git
from reconciler.store import Frozen, Log
from reconciler.values import Commit
from schemas.errors import PermanentError
from schemas.objects import Ref

__all__ = ["Revert", "revert"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Revert:
    proposal: Proposal
    exact: bool
    """Merged, it declares byte for byte what stands in now."""


async def revert(
    grounds: Grounds,
    pipeline: Pipeline,
    log: Log,
    ref: Ref,
    items: Sequence[Frozen],
    reason: str,
) -> Revert:
    """Give the files of ``ref`` the content they had when the stand-in was applied.

    Raises:
        PermanentError: that revision was never a commit of this repository.
        SpecError: with those files the tree is not valid any more.
        TemporaryError: git failed.
    """
    good, exact = _commit_of(log, ref, items), False
    digests = ", ".join(item.digest[:12] for item in items)

    async def edit(tree: Path) -> str:
        nonlocal exact
        await _restore(tree, good, places_of(ref, pipeline.environment))
        made = Tree(root=tree, commit=Commit(sha=good))
        await asyncio.to_thread(pipeline.refresh_lock, made)
        exact = await asyncio.to_thread(_is_exact, pipeline, made, items)
        where = pipeline.environment
        return pipeline.mask(
            f"{reason}\n\nBack to {good}; {digests} was frozen in {where}."
        )

    proposal = await draft(
        grounds,
        branch=f"bud/rollback/{ref.kind}-{ref.name}".lower(),
        title=f"Roll back {ref}",
        edit=edit,
    )
    return Revert(proposal=proposal, exact=exact)


def _commit_of(log: Log, ref: Ref, items: Sequence[Frozen]) -> str:
    for item in items:
        if item.stand_in is None:
            continue
        entry = log.success(item.stand_in.key.target, {item.stand_in.digest})
        if entry is not None and "+" not in entry.commit:
            return entry.commit
    raise PermanentError(
        f"cannot propose the revert of {ref}: what lived before was never committed"
    )


def _is_exact(pipeline: Pipeline, made: Tree, items: Sequence[Frozen]) -> bool:
    _, rendered = pipeline.describe(made)
    return all(
        unit.key in rendered.units and rendered.units[unit.key].digest == unit.digest
        for item in items
        if (unit := item.stand_in) is not None
    )


async def _restore(tree: Path, good: str, places: Sequence[str]) -> None:
    """Give files the content they had; those that were not there go."""
    had = set((await git("ls-tree", "-r", "--name-only", good, "--", *places,
                         cwd=tree)).split("\n"))  # fmt: skip
    for place in places:
        if place in had:
            await git("checkout", "--quiet", good, "--", place, cwd=tree)
        else:
            (tree / place).unlink(missing_ok=True)
