"""Proposals: a change of ours as one commit, for people to merge (I/O: git, forge).

A rollback, a promotion and a newer lock become one: a pull request where the environment
has a forge, else a branch. It never touches a branch, an index or a work tree that
somebody uses, and it pushes nothing.
"""

from __future__ import annotations

import tempfile
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from reconciler.forge.base import Forge, Proposal
from reconciler.source import git
from schemas.errors import FoundryError, PermanentError
from schemas.objects import DEFAULT_PROJECT, Ref

__all__ = ["Grounds", "Published", "draft", "places_of", "publish"]

_AUTHOR = ("-c", "user.name=Bud Foundry", "-c", "user.email=bud@bud.invalid")


@dataclass(frozen=True, slots=True, kw_only=True)
class Grounds:
    """Where a proposal is made: a repository, or a mirror of one."""

    repo: Path
    at: str = "HEAD"
    """The revision that it changes."""
    onto: str = "main"
    """The branch that it is to be merged into."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    branch: str
    url: str = ""
    """Of the pull request."""
    why: str = ""
    """Why there is none, where there should be one."""

    def __str__(self) -> str:
        if self.url:
            return f"{self.url} proposes it"
        failed = f" (no pull request: {self.why})" if self.why else ""
        return f"branch {self.branch} holds it: push and merge it{failed}"


async def draft(
    grounds: Grounds,
    *,
    branch: str,
    title: str,
    edit: Callable[[Path], Awaitable[str]],
) -> Proposal:
    """Commit what ``edit`` does to a work tree that it is given, and says of it.

    No branch is made; the name of what may become one ends in what it holds, so that
    the same change is proposed once.

    Raises:
        PermanentError: it changes nothing.
        TemporaryError: git failed.
    """
    repo = grounds.repo
    base = (await git("rev-parse", f"{grounds.at}^{{commit}}", cwd=repo)).strip()
    with tempfile.TemporaryDirectory(prefix="bud-proposal-") as folder:
        tree = Path(folder) / "tree"
        await git("worktree", "add", "--quiet", "--detach", str(tree), base, cwd=repo)
        try:
            body = await edit(tree)
            await git("add", "--all", cwd=tree)
            files = await _changed(tree)
            if not files:
                raise PermanentError(f"cannot propose {title!r}: it changes no file")
            said = ("-m", title, "-m", body)
            await git(*_AUTHOR, "commit", "--quiet", *said, cwd=tree)
            commit, content = (
                await git("rev-parse", "HEAD", "HEAD^{tree}", cwd=tree)
            ).split()
        finally:
            await git("worktree", "remove", "--force", str(tree), cwd=repo)
    return Proposal(
        title=title, body=body, branch=f"{branch}-{content[:8]}", onto=grounds.onto, base=base,
        commit=commit, files=files,
    )  # fmt: skip


async def publish(
    grounds: Grounds, made: Proposal, forge: Forge | None, mask: Callable[[str], str]
) -> Published:
    """Open the pull request, or leave the branch where there is no forge to ask."""
    why = ""
    if forge is not None:
        try:
            pull = await _open(made, forge)
        except FoundryError as error:
            why = mask(error.args[0])
        else:
            return Published(branch=made.branch, url=pull)
    await git("branch", "--force", made.branch, made.commit, cwd=grounds.repo)
    return Published(branch=made.branch, why=why)


async def _open(made: Proposal, forge: Forge) -> str:
    head = await forge.branch_head(made.onto)
    if head != made.base:
        # Whole files are sent: those of another commit would undo what it changed.
        raise PermanentError(
            f"cannot propose {made.branch}: {made.onto} is at {head[:12]} on the forge, "
            f"and this was made from {made.base[:12]}"
        )
    for pull in await forge.open_pulls(made.onto):
        if pull.source == made.branch and not pull.fork:
            return pull.url  # the same change was proposed before
    return (await forge.propose(made)).url


async def _changed(tree: Path) -> Mapping[str, bytes | None]:
    # A rename is a delete and a new file: each path has to be known.
    names = await git("diff", "--cached", "--name-only", "--no-renames", "-z", cwd=tree)
    paths = [name for name in names.split("\0") if name]
    return {
        path: file.read_bytes() if (file := tree / path).is_file() else None
        for path in paths
    }


def places_of(ref: Ref, environment: str) -> tuple[str, str]:
    """Where an object is written, and where an environment says how it differs."""
    project = "" if ref.project == DEFAULT_PROJECT else f"{ref.project}/"
    place = f"{project}{ref.kind.lower()}/{ref.name}.yaml"
    return f"spec/{place}", f"environments/{environment}/{place}"
