"""What we ask of a forge, and its answers as values. Nothing here does I/O.

The reviewer knows these names alone. Each answer is read anew when it matters: what
a webhook says is a reason to look, never a fact.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal, Protocol

__all__ = ["Approval", "Forge", "Note", "Proposal", "PullRequest", "State"]

State = Literal["pending", "success", "failure"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PullRequest:
    number: int
    title: str
    author: str
    head: str
    """Commit SHA."""
    branch: str
    """Where it is to go."""
    source: str = ""
    """The branch it comes from."""
    fork: bool
    """Its branch is in another repository."""
    open: bool
    merged: bool
    merge_commit: str = ""
    labels: frozenset[str] = frozenset()
    url: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Approval:
    by: str
    commit: str
    """What was looked at; empty where a forge does not say."""
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """A comment."""

    id: str
    author: str
    body: str = field(repr=False)
    at: datetime
    """When it was last written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """A change of ours, to become a pull request."""

    title: str
    body: str
    branch: str
    """A new one."""
    onto: str
    base: str
    """The commit of ``onto`` that it changes."""
    commit: str = ""
    """The same change in our own repository; the forge makes one of its own."""
    files: Mapping[str, bytes | None] = field(repr=False)
    """Path -> content; None deletes."""


class Forge(Protocol):
    """Every call has a timeout, raises TemporaryError when it may go through later
    and PermanentError when it will not."""

    async def identity(self) -> str:
        """The login under which we write."""
        ...

    async def pull(self, number: int) -> PullRequest: ...

    async def open_pulls(self, branch: str) -> tuple[PullRequest, ...]: ...

    async def pull_of(self, commit: str) -> PullRequest | None:
        """The merged pull request that brought a commit to its branch."""
        ...

    async def authors(self, number: int) -> frozenset[str]:
        """Logins of who opened it and of whoever wrote one of its commits."""
        ...

    async def approvals(self, number: int) -> tuple[Approval, ...]:
        """Those in force, as the forge sees it."""
        ...

    async def notes(self, number: int) -> tuple[Note, ...]: ...

    async def write_note(
        self, number: int, body: str, *, replaces: str | None = None
    ) -> Note:
        """Write a comment, or one that is there anew."""
        ...

    async def set_status(
        self, commit: str, context: str, state: State, said: str, link: str = ""
    ) -> None: ...

    async def may_write(self, login: str) -> bool:
        """Whether somebody may push to the repository."""
        ...

    async def members(self, team: str) -> frozenset[str]:
        """Logins; empty when there is no such team."""
        ...

    async def remove_label(self, number: int, label: str) -> None: ...

    async def merge(self, number: int, head: str) -> None:
        """Merge exactly this head."""
        ...

    async def branch_head(self, branch: str) -> str: ...

    async def propose(self, proposal: Proposal) -> PullRequest:
        """Open a pull request with one commit; ``onto`` has to be at ``base``."""
        ...

    def ref_of(self, number: int) -> str:
        """The git ref of a pull request's head."""
        ...

    async def close(self) -> None: ...
