"""Gitea and Forgejo: pull requests over their API, version 1 (I/O).

Tested against a real Gitea. Forgejo kept that API when it parted.
"""

from __future__ import annotations

import base64
from datetime import datetime
from typing import Any
from urllib.parse import quote

from reconciler.forge.base import Approval, Note, Proposal, PullRequest
from reconciler.forge.githublike import GitHubLike

__all__ = ["Gitea"]


class Gitea(GitHubLike):
    commit_key, page_key = "id", "limit"

    async def open_pulls(self, branch: str) -> tuple[PullRequest, ...]:
        found = self._list(f"{self._repo}/pulls", state="open")
        pulls = [self._pull(item) async for item in found]
        return tuple(pull for pull in pulls if pull.branch == branch)

    async def pull_of(self, commit: str) -> PullRequest | None:
        found = await self._api.find(f"{self._repo}/commits/{commit}/pull")
        return None if found is None or not found["merged"] else self._pull(found)

    async def approvals(self, number: int) -> tuple[Approval, ...]:
        last: dict[str, Any] = {}
        async for item in self._list(f"{self._repo}/pulls/{number}/reviews"):
            if item["state"] in ("APPROVED", "REQUEST_CHANGES") and item["user"]:
                last[item["user"]["login"]] = item
        return tuple(
            Approval(
                by=who,
                commit=item["commit_id"],
                at=datetime.fromisoformat(item["submitted_at"]),
            )
            for who, item in last.items()
            if item["state"] == "APPROVED" and not item["dismissed"]
        )

    async def notes(self, number: int) -> tuple[Note, ...]:
        # This list comes whole, whatever page is asked for.
        found = await self._api.get(f"{self._repo}/issues/{number}/comments")
        return tuple(map(self._note, found))

    async def members(self, team: str) -> frozenset[str]:
        found = await self._api.find(f"/orgs/{self._owner}/teams/search", q=team)
        for item in (found or {}).get("data") or ():
            if item["name"] == team:
                people = self._list(f"/teams/{item['id']}/members")
                return frozenset([str(who["login"]) async for who in people])
        return frozenset()

    async def remove_label(self, number: int, label: str) -> None:
        path = f"{self._repo}/issues/{number}/labels"
        for item in await self._api.get(path):
            if item["name"] == label:
                await self._api.call("DELETE", f"{path}/{item['id']}")

    async def merge(self, number: int, head: str) -> None:
        await self._post(f"/pulls/{number}/merge", Do="merge", head_commit_id=head)

    async def propose(self, proposal: Proposal) -> PullRequest:
        await self._post(
            "/contents",
            branch=proposal.onto,
            new_branch=proposal.branch,
            message=proposal.title,
            files=[await self._operation(proposal, path) for path in proposal.files],
        )
        return await self._open(proposal)

    async def _operation(self, proposal: Proposal, path: str) -> dict[str, str]:
        content = proposal.files[path]
        where = f"{self._repo}/contents/{quote(path)}"
        there = await self._api.find(where, ref=proposal.onto)
        known = {"sha": there["sha"]} if there else {}
        if content is None:
            return {"operation": "delete", "path": path, **known}
        encoded = base64.b64encode(content).decode()
        verb = "update" if there else "create"
        return {"operation": verb, "path": path, "content": encoded, **known}
