"""Trees of pull requests: fetched, merged in memory, laid out as plain files (I/O).

`planner` asks for them. git runs as `source` runs it: nothing of a repository is
executed, and a link arrives as a file that holds its target.
"""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from reconciler.source import git, lay_out
from schemas.errors import PermanentError, TemporaryError

__all__ = ["Merge", "Trees"]

_PLANNED = ("spec/", "environments/")
_KEPT = 8
"""Laid-out trees: the protected branch's and those of a few pull requests."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Merge:
    """What the branch would hold after the merge."""

    head: str
    base: str
    tree: str
    root: Path
    elsewhere: tuple[str, ...] = ()
    """Files it changes of which no plan says anything."""


class Trees:
    def __init__(self, url: str, branch: str, home: Path) -> None:
        for what in (url, branch):
            if what.startswith("-"):  # git would take it for an option
                raise PermanentError(f"cannot use {what!r}: it begins with '-'")
        self._url, self._branch = url, branch
        self._mirror, self._trees = home / "reviews.git", home / "reviews"

    async def base(self) -> tuple[str, Path]:
        """The protected branch as it is now."""
        await self._fetch(f"refs/heads/{self._branch}", "refs/review/base")
        sha = await self._commit("refs/review/base")
        return sha, await self._laid_out(sha)

    async def merge(self, base: str, ref: str, head: str) -> Merge:
        """Merge a pull request's head into the base, as the forge would.

        Raises:
            PermanentError: they conflict, or nothing is there to be merged.
            TemporaryError: the head moved meanwhile.
        """
        if not re.fullmatch(r"refs/[\w./-]+", ref) or not re.fullmatch(
            r"[0-9a-f]{40}", head
        ):
            raise PermanentError(f"cannot fetch {ref!r}: it is no ref of a forge")
        await self._fetch(ref, "refs/review/head")
        found = await self._commit("refs/review/head")
        if found != head:
            raise TemporaryError(f"cannot plan {head[:12]}: its branch moved meanwhile")
        try:
            said = await git(
                "merge-tree", "--write-tree", "--no-messages", base, head,
                cwd=self._mirror,
            )  # fmt: skip
        except TemporaryError as error:
            raise PermanentError(
                f"cannot merge {head[:12]} into {self._branch}: they conflict",
                hint="merge or rebase the branch, and push",
            ) from error
        tree = said.strip()
        root, elsewhere = await self._laid_out(tree), await self._elsewhere(base, tree)
        return Merge(head=head, base=base, tree=tree, root=root, elsewhere=elsewhere)

    async def tree_of(self, commit: str) -> str:
        """What a commit of the protected branch holds."""
        await self._fetch(f"refs/heads/{self._branch}", "refs/review/base")
        return (await git("rev-parse", f"{commit}^{{tree}}", cwd=self._mirror)).strip()

    async def _elsewhere(self, base: str, tree: str) -> tuple[str, ...]:
        # A forge's own list has a rename by its new name alone, and an end.
        names = await git(
            "diff-tree", "-r", "-z", "--name-only", "--no-renames", base, tree,
            cwd=self._mirror,
        )  # fmt: skip
        return tuple(n for n in names.split("\0") if n and not n.startswith(_PLANNED))

    async def _commit(self, ref: str) -> str:
        return (await git("rev-parse", "--verify", ref, cwd=self._mirror)).strip()

    async def _fetch(self, ref: str, into: str) -> None:
        if not self._mirror.is_dir():
            self._mirror.mkdir(parents=True)
            await git("init", "--quiet", "--bare", cwd=self._mirror)
        await git(
            "fetch", "--quiet", "--no-tags", "--no-recurse-submodules", "--",
            self._url, f"+{ref}:{into}", cwd=self._mirror,
        )  # fmt: skip

    async def _laid_out(self, tree: str) -> Path:
        root = self._trees / tree
        if not root.is_dir():
            await lay_out(self._mirror, tree, root)
            self._forget_old(keep=root)
        return root

    def _forget_old(self, keep: Path) -> None:
        there = [p for p in self._trees.iterdir() if p.name[0] != "." and p != keep]
        for old in sorted(there, key=lambda p: p.stat().st_mtime)[: 1 - _KEPT]:
            shutil.rmtree(old, ignore_errors=True)
