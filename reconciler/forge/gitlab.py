"""GitLab: merge requests over its REST API, version 4 (I/O).

Tested against the shapes that its public documents give, not against GitLab. It does
not say which commit somebody approved, only when: whoever pushes makes a new plan,
and what was approved before that is stale.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any
from urllib.parse import quote

from reconciler.forge.api import Api
from reconciler.forge.base import Approval, Note, Proposal, PullRequest, State

__all__ = ["GitLab"]

_DEVELOPER = 30
"""GitLab's number of the least role that may push a branch."""


class GitLab:
    def __init__(self, api: Api, repository: str) -> None:
        self._api = api
        self._repo = f"/projects/{quote(repository, safe='')}"

    async def identity(self) -> str:
        return str((await self._api.get("/user"))["username"])

    async def pull(self, number: int) -> PullRequest:
        return _pull(await self._api.get(f"{self._repo}/merge_requests/{number}"))

    async def open_pulls(self, branch: str) -> tuple[PullRequest, ...]:
        found = self._api.pages(
            f"{self._repo}/merge_requests", state="opened", target_branch=branch
        )
        return tuple([_pull(item) async for item in found])

    async def pull_of(self, commit: str) -> PullRequest | None:
        path = f"{self._repo}/repository/commits/{commit}/merge_requests"
        async for item in self._api.pages(path):
            if item["state"] == "merged":
                return _pull(item)
        return None

    async def authors(self, number: int) -> frozenset[str]:
        logins = {(await self.pull(number)).author}
        emails = set()
        async for item in self._api.pages(
            f"{self._repo}/merge_requests/{number}/commits"
        ):
            emails |= {item["author_email"], item["committer_email"]}
        for email in sorted(emails):
            found = await self._api.get("/users", search=email)
            logins |= {who["username"] for who in found}
        return frozenset(logins)

    async def approvals(self, number: int) -> tuple[Approval, ...]:
        path = f"{self._repo}/merge_requests/{number}/approvals"
        found = (await self._api.get(path))["approved_by"]
        return tuple(
            Approval(
                by=item["user"]["username"],
                commit="",
                at=datetime.fromisoformat(item["approved_at"]),
            )
            for item in found
            if item.get("approved_at")
        )

    async def notes(self, number: int) -> tuple[Note, ...]:
        path = f"{self._repo}/merge_requests/{number}/notes"
        found = self._api.pages(path, sort="asc", order_by="created_at")
        return tuple([_note(item) async for item in found if not item["system"]])

    async def write_note(
        self, number: int, body: str, *, replaces: str | None = None
    ) -> Note:
        path = f"{self._repo}/merge_requests/{number}/notes"
        if replaces is not None:
            path, verb = f"{path}/{replaces}", "PUT"
        else:
            verb = "POST"
        return _note(await self._api.call(verb, path, body={"body": body}))

    async def set_status(
        self, commit: str, context: str, state: State, said: str, link: str = ""
    ) -> None:
        word = "failed" if state == "failure" else state
        body = {"state": word, "name": context, "description": said[:140]}
        if link:
            body["target_url"] = link
        await self._api.call("POST", f"{self._repo}/statuses/{commit}", body=body)

    async def may_write(self, login: str) -> bool:
        found = self._api.pages(f"{self._repo}/members/all", query=login)
        return any(
            [
                who["username"] == login and who["access_level"] >= _DEVELOPER
                async for who in found
            ]
        )

    async def members(self, team: str) -> frozenset[str]:
        path = f"/groups/{quote(team, safe='')}"
        if await self._api.find(path) is None:
            return frozenset()
        people = self._api.pages(f"{path}/members/all")
        return frozenset([str(who["username"]) async for who in people])

    async def remove_label(self, number: int, label: str) -> None:
        path = f"{self._repo}/merge_requests/{number}"
        await self._api.call("PUT", path, body={"remove_labels": label})

    async def merge(self, number: int, head: str) -> None:
        path = f"{self._repo}/merge_requests/{number}/merge"
        await self._api.call("PUT", path, body={"sha": head})

    async def branch_head(self, branch: str) -> str:
        path = f"{self._repo}/repository/branches/{quote(branch, safe='')}"
        return str((await self._api.get(path))["commit"]["id"])

    async def propose(self, proposal: Proposal) -> PullRequest:
        actions = [await self._action(proposal, path) for path in proposal.files]
        body = {
            "branch": proposal.branch,
            "start_sha": proposal.base,
            "commit_message": proposal.title,
            "actions": actions,
        }
        await self._api.call("POST", f"{self._repo}/repository/commits", body=body)
        body = {
            "source_branch": proposal.branch,
            "target_branch": proposal.onto,
            "title": proposal.title,
            "description": proposal.body,
        }
        return _pull(
            await self._api.call("POST", f"{self._repo}/merge_requests", body=body)
        )

    def ref_of(self, number: int) -> str:
        return f"refs/merge-requests/{number}/head"

    async def close(self) -> None:
        await self._api.close()

    async def _action(self, proposal: Proposal, path: str) -> dict[str, str]:
        content = proposal.files[path]
        if content is None:
            return {"action": "delete", "file_path": path}
        where = f"{self._repo}/repository/files/{quote(path, safe='')}"
        there = await self._api.find(where, ref=proposal.base)
        verb = "update" if there else "create"
        return {"action": verb, "file_path": path, "content": content.decode()}


def _pull(item: Any) -> PullRequest:
    merged = item["state"] == "merged"
    commit = item["merge_commit_sha"] or item["squash_commit_sha"] or item["sha"]
    return PullRequest(
        number=item["iid"],
        title=item["title"],
        author=item["author"]["username"],
        head=item["sha"],
        branch=item["target_branch"],
        source=item["source_branch"],
        fork=item["source_project_id"] != item["target_project_id"],
        open=item["state"] == "opened",
        merged=merged,
        merge_commit=commit if merged else "",
        labels=frozenset(item["labels"]),
        url=item["web_url"],
    )


def _note(item: Any) -> Note:
    return Note(
        id=str(item["id"]),
        author=item["author"]["username"],
        body=item["body"],
        at=datetime.fromisoformat(item["updated_at"]),
    )
