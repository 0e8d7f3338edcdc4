"""What GitHub and Gitea have in common: Gitea took its API from GitHub's (I/O).

`github` and `gitea` are this with what differs: how one logs in, which reviews are in
force, how a commit is made.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime
from typing import Any, ClassVar
from urllib.parse import quote

from reconciler.forge.api import Api
from reconciler.forge.base import Note, Proposal, PullRequest, State

__all__ = ["GitHubLike"]


class GitHubLike:
    commit_key: ClassVar[str]
    """What a branch calls the SHA of its commit."""
    page_key: ClassVar[str]
    """What a list calls the length of a page."""

    def __init__(self, api: Api, repository: str) -> None:
        self._api = api
        self._owner, self._repo = repository.partition("/")[0], f"/repos/{repository}"

    async def identity(self) -> str:
        return str((await self._api.get("/user"))["login"])

    async def pull(self, number: int) -> PullRequest:
        return self._pull(await self._api.get(f"{self._repo}/pulls/{number}"))

    async def authors(self, number: int) -> frozenset[str]:
        logins = {(await self.pull(number)).author}
        async for item in self._list(f"{self._repo}/pulls/{number}/commits"):
            for who in (item["author"], item["committer"]):
                if who:
                    logins.add(who["login"])
        return frozenset(logins)

    async def write_note(
        self, number: int, body: str, *, replaces: str | None = None
    ) -> Note:
        if replaces is not None:
            verb, path = "PATCH", f"{self._repo}/issues/comments/{replaces}"
        else:
            verb, path = "POST", f"{self._repo}/issues/{number}/comments"
        return self._note(await self._api.call(verb, path, body={"body": body}))

    async def set_status(
        self, commit: str, context: str, state: State, said: str, link: str = ""
    ) -> None:
        body = {"state": state, "context": context, "description": said[:140]}
        if link:
            body["target_url"] = link
        await self._post(f"/statuses/{commit}", **body)

    async def may_write(self, login: str) -> bool:
        path = f"{self._repo}/collaborators/{quote(login, safe='')}/permission"
        found = await self._api.find(path)
        # "owner" is Gitea's; GitHub calls an owner an admin.
        return found is not None and found["permission"] in ("write", "admin", "owner")

    async def branch_head(self, branch: str) -> str:
        found = await self._api.get(f"{self._repo}/branches/{quote(branch, safe='')}")
        return str(found["commit"][self.commit_key])

    def ref_of(self, number: int) -> str:
        return f"refs/pull/{number}/head"

    async def close(self) -> None:
        await self._api.close()

    def _list(self, path: str, **query: str) -> AsyncIterator[Any]:
        return self._api.pages(path, per_page=self.page_key, **query)

    async def _post(self, path: str, **body: object) -> Any:
        return await self._api.call("POST", f"{self._repo}{path}", body=body)

    async def _open(self, proposal: Proposal) -> PullRequest:
        """A pull request of a branch that is there."""
        made = await self._post(
            "/pulls",
            title=proposal.title,
            body=proposal.body,
            head=proposal.branch,
            base=proposal.onto,
        )
        return self._pull(made)

    def _pull(self, item: Any) -> PullRequest:
        source, merged = item["head"]["repo"], bool(item["merged_at"])
        return PullRequest(
            number=item["number"],
            title=item["title"],
            author=item["user"]["login"],
            head=item["head"]["sha"],
            branch=item["base"]["ref"],
            source=item["head"]["ref"],
            # A fork that was deleted is still a fork.
            fork=source is None
            or source["full_name"] != item["base"]["repo"]["full_name"],
            open=item["state"] == "open",
            merged=merged,
            merge_commit=item["merge_commit_sha"] or "" if merged else "",
            labels=frozenset(label["name"] for label in item["labels"] or ()),
            url=item["html_url"],
        )

    def _note(self, item: Any) -> Note:
        return Note(
            id=str(item["id"]),
            author=item["user"]["login"],
            body=item["body"] or "",
            at=datetime.fromisoformat(item["updated_at"]),
        )
