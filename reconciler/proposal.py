"""Proposal: a rollback as a commit on a branch of its own, for people to merge (I/O).

`bud rollback` and a failed canary make one, because git would otherwise go on
declaring what failed. It never touches a branch, an index or a work tree that
somebody uses, and it pushes nothing.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from reconciler.pipeline import Pipeline
from reconciler.source import Tree, git
from reconciler.store import Frozen, Log
from reconciler.values import Commit
from schemas.errors import PermanentError
from schemas.objects import DEFAULT_PROJECT, Ref

__all__ = ["Proposal", "propose"]

_AUTHOR = ("-c", "user.name=Bud Foundry", "-c", "user.email=rollback@bud.invalid")
_LOOKED_BACK = 5000
_GOOD = ("created", "changed", "unchanged")


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    branch: str
    commit: str
    files: tuple[str, ...]
    exact: bool
    """Merged, it declares byte for byte what stands in now."""


async def propose(
    repo: Path,
    pipeline: Pipeline,
    log: Log,
    ref: Ref,
    items: Sequence[Frozen],
    reason: str,
) -> Proposal:
    """Commit the files of ``ref`` as they were when the stand-in was applied.

    Raises:
        PermanentError: that revision was never a commit of this repository.
        SpecError: with those files the tree is not valid any more.
        TemporaryError: git failed.
    """
    good = _commit_of(log, ref, items)
    head = (await git("rev-parse", "HEAD", cwd=repo)).strip()
    branch = f"bud/rollback/{ref.kind}-{ref.name}-{items[0].digest[:8]}".lower()
    with tempfile.TemporaryDirectory(prefix="bud-proposal-") as folder:
        tree = Path(folder) / "tree"
        await git(
            "worktree", "add", "--quiet", "-B", branch, str(tree), head, cwd=repo
        )  # fmt: skip
        try:
            return await _commit(tree, pipeline, branch, good, ref, items, reason)
        finally:
            await git("worktree", "remove", "--force", str(tree), cwd=repo)


def _commit_of(log: Log, ref: Ref, items: Sequence[Frozen]) -> str:
    for item in items:
        if item.stand_in is None:
            continue
        key, digest = item.stand_in.key, item.stand_in.digest
        for entry in log.entries(target=key.target, limit=_LOOKED_BACK):
            if entry.after == digest and entry.outcome in _GOOD:
                if "+" in entry.commit:
                    break
                return entry.commit
    raise PermanentError(
        f"cannot propose the revert of {ref}: what lived before was never committed"
    )


async def _commit(
    tree: Path,
    pipeline: Pipeline,
    branch: str,
    good: str,
    ref: Ref,
    items: Sequence[Frozen],
    reason: str,
) -> Proposal:
    environment = pipeline.environment
    files = await _restore(tree, good, _places(ref, environment))
    made = Tree(root=tree, commit=Commit(sha=good))
    await asyncio.to_thread(pipeline.refresh_lock, made)
    await git("add", "--all", cwd=tree)
    digests = ", ".join(item.digest[:12] for item in items)
    await git(
        *_AUTHOR, "commit", "--quiet", "--allow-empty", "-m", f"Roll back {ref}",
        "-m", f"{reason}\n\nBack to {good}; {digests} was frozen in {environment}.",
        cwd=tree,
    )  # fmt: skip
    commit = (await git("rev-parse", "HEAD", cwd=tree)).strip()
    _, rendered = await asyncio.to_thread(pipeline.describe, made)
    wanted = [item.stand_in for item in items if item.stand_in is not None]
    exact = all(
        unit.key in rendered.units and rendered.units[unit.key].digest == unit.digest
        for unit in wanted
    )
    return Proposal(branch=branch, commit=commit, files=files, exact=exact)


def _places(ref: Ref, environment: str) -> tuple[str, ...]:
    """Where an object is written, and where an environment says how it differs."""
    project = "" if ref.project == DEFAULT_PROJECT else f"{ref.project}/"
    place = f"{project}{ref.kind.lower()}/{ref.name}.yaml"
    return f"spec/{place}", f"environments/{environment}/{place}"


async def _restore(tree: Path, good: str, places: Sequence[str]) -> tuple[str, ...]:
    """Give files the content they had; those that were not there go."""
    had = set((await git("ls-tree", "-r", "--name-only", good, "--", *places,
                         cwd=tree)).split("\n"))  # fmt: skip
    for place in places:
        if place in had:
            await git("checkout", "--quiet", good, "--", place, cwd=tree)
        else:
            (tree / place).unlink(missing_ok=True)
    changed = await git("status", "--porcelain", "--", *places, cwd=tree)
    return tuple(line[3:] for line in changed.splitlines())
