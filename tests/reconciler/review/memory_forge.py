"""A forge in memory over a real git repository: for what has to be mutated alone."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime

from reconciler.forge import Approval, Note, Proposal, PullRequest, State


@dataclass(slots=True)
class MemoryForge:
    """Everything it answers is a field that a test sets."""

    now: datetime
    pulls: dict[int, PullRequest] = field(default_factory=dict)
    approved: list[Approval] = field(default_factory=list)
    written: list[Note] = field(default_factory=list)
    statuses: list[tuple[str, State, str]] = field(default_factory=list)
    head: str = ""
    teams: dict[str, frozenset[str]] = field(default_factory=dict)

    async def identity(self) -> str:
        return "bud"

    async def pull(self, number: int) -> PullRequest:
        return self.pulls[number]

    async def open_pulls(self, branch: str) -> tuple[PullRequest, ...]:
        return tuple(p for p in self.pulls.values() if p.open and p.branch == branch)

    async def pull_of(self, commit: str) -> PullRequest | None:
        found = [p for p in self.pulls.values() if p.merge_commit == commit]
        return found[0] if found else None

    async def authors(self, number: int) -> frozenset[str]:
        return frozenset({self.pulls[number].author})

    async def approvals(self, number: int) -> tuple[Approval, ...]:
        return tuple(self.approved)

    async def notes(self, number: int) -> tuple[Note, ...]:
        return tuple(self.written)

    async def write_note(
        self, number: int, body: str, *, replaces: str | None = None
    ) -> Note:
        made = Note(
            id=replaces or str(len(self.written) + 1),
            author="bud",
            body=body,
            at=self.now,
        )
        self.written = [n for n in self.written if n.id != replaces] + [made]
        return made

    async def set_status(
        self, commit: str, context: str, state: State, said: str, link: str = ""
    ) -> None:
        self.statuses.append((commit, state, said))

    async def may_write(self, login: str) -> bool:
        return login in ("alice", "bob", "carol")

    async def members(self, team: str) -> frozenset[str]:
        return self.teams.get(team, frozenset())

    async def remove_label(self, number: int, label: str) -> None:
        pull = self.pulls[number]
        self.pulls[number] = replace(pull, labels=pull.labels - {label})

    async def merge(self, number: int, head: str) -> None:
        raise AssertionError("nobody asked for a merge")

    async def branch_head(self, branch: str) -> str:
        return self.head

    async def propose(self, proposal: Proposal) -> PullRequest:
        raise AssertionError("nobody asked for a pull request")

    def ref_of(self, number: int) -> str:
        return f"refs/pull/{number}/head"

    async def close(self) -> None:
        return None
