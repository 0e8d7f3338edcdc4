"""Gitea and Forgejo: pull requests over their API, version 1 (I/O).

Tested against a real Gitea. Forgejo kept that API when it parted.
"""

from __future__ import annotations

import base64
from datetime import datetime
from typing import Any
from urllib.parse import quote

from reconciler.forge.api import Api
from reconciler.forge.base import Approval, Note, Proposal, PullRequest, State

__all__ = ["Gitea"]


class Gitea:
    def __init__(self, api: Api, repository: str) -> None:
        self._api, self._owner = api, repository.partition("/")[0]
        self._name, self._repo = repository, f"/repos/{repository}"

    async def identity(self) -> str:
        return str((await self._api.get("/user"))["login"])

    async def pull(self, number: int) -> PullRequest:
        return self._pull(await self._api.get(f"{self._repo}/pulls/{number}"))

    async def open_pulls(self, branch: str) -> tuple[PullRequest, ...]:
        found = self._list(f"{self._repo}/pulls", state="open")
        pulls = [self._pull(item) async for item in found]
        return tuple(pull for pull in pulls if pull.branch == branch)

    async def pull_of(self, commit: str) -> PullRequest | None:
        found = await self._api.find(f"{self._repo}/commits/{commit}/pull")
        return None if found is None or not found["merged"] else self._pull(found)

    async def changed_files(self, number: int) -> tuple[str, ...]:
        files = self._list(f"{self._repo}/pulls/{number}/files")
        return tuple([str(item["filename"]) async for item in files])

    async def authors(self, number: int) -> frozenset[str]:
        logins = {(await self.pull(number)).author}
        async for item in self._list(f"{self._repo}/pulls/{number}/commits"):
            for who in (item["author"], item["committer"]):
                if who:
                    logins.add(who["login"])
        return frozenset(logins)

    async def approvals(self, number: int) -> tuple[Approval, ...]:
        last: dict[str, Any] = {}
        async for item in self._list(f"{self._repo}/pulls/{number}/reviews"):
            if item["state"] in ("APPROVED", "REQUEST_CHANGES") and item["user"]:
                last[item["user"]["login"]] = item
        return tuple(
            Approval(by=who, commit=item["commit_id"], at=_time(item["submitted_at"]))
            for who, item in last.items()
            if item["state"] == "APPROVED" and not item["dismissed"]
        )

    async def notes(self, number: int) -> tuple[Note, ...]:
        # This list comes whole, whatever page is asked for.
        found = await self._api.get(f"{self._repo}/issues/{number}/comments")
        return tuple(map(_note, found))

    async def write_note(
        self, number: int, body: str, *, replaces: str | None = None
    ) -> Note:
        if replaces is not None:
            path = f"{self._repo}/issues/comments/{replaces}"
            return _note(await self._api.call("PATCH", path, body={"body": body}))
        path = f"{self._repo}/issues/{number}/comments"
        return _note(await self._api.call("POST", path, body={"body": body}))

    async def set_status(
        self, commit: str, context: str, state: State, said: str, link: str = ""
    ) -> None:
        body = {"state": state, "context": context, "description": said[:140]}
        if link:
            body["target_url"] = link
        await self._api.call("POST", f"{self._repo}/statuses/{commit}", body=body)

    async def may_write(self, login: str) -> bool:
        path = f"{self._repo}/collaborators/{quote(login, safe='')}/permission"
        found = await self._api.find(path)
        return found is not None and found["permission"] in ("write", "admin", "owner")

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
        body = {"Do": "merge", "head_commit_id": head}
        await self._api.call("POST", f"{self._repo}/pulls/{number}/merge", body=body)

    async def branch_head(self, branch: str) -> str:
        found = await self._api.get(f"{self._repo}/branches/{quote(branch, safe='')}")
        return str(found["commit"]["id"])

    async def propose(self, proposal: Proposal) -> PullRequest:
        files = [await self._operation(proposal, path) for path in proposal.files]
        body = {
            "branch": proposal.onto,
            "new_branch": proposal.branch,
            "message": proposal.title,
            "files": files,
        }
        await self._api.call("POST", f"{self._repo}/contents", body=body)
        body = {
            "title": proposal.title,
            "body": proposal.body,
            "head": proposal.branch,
            "base": proposal.onto,
        }
        return self._pull(
            await self._api.call("POST", f"{self._repo}/pulls", body=body)
        )

    def ref_of(self, number: int) -> str:
        return f"refs/pull/{number}/head"

    async def close(self) -> None:
        await self._api.close()

    def _list(self, path: str, **query: str) -> Any:
        return self._api.pages(path, per_page="limit", **query)

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

    def _pull(self, item: Any) -> PullRequest:
        source = item["head"]["repo"]
        return PullRequest(
            number=item["number"],
            title=item["title"],
            author=item["user"]["login"],
            head=item["head"]["sha"],
            branch=item["base"]["ref"],
            # A fork that was deleted is still a fork.
            fork=source is None
            or source["full_name"] != item["base"]["repo"]["full_name"],
            open=item["state"] == "open",
            merged=item["merged"],
            merge_commit=item["merge_commit_sha"] or "" if item["merged"] else "",
            labels=frozenset(label["name"] for label in item["labels"] or ()),
            url=item["html_url"],
        )


def _note(item: Any) -> Note:
    return Note(
        id=str(item["id"]),
        author=item["user"]["login"],
        body=item["body"],
        at=_time(item["updated_at"]),
    )


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)
