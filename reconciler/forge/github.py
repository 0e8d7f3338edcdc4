"""GitHub: pull requests over its REST API, with a token or as an App (I/O).

Tested against the shapes that its public documents give, not against GitHub.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import quote

import orjson
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from reconciler.forge.api import Api
from reconciler.forge.base import Approval, Note, Proposal, PullRequest, State
from schemas.errors import PermanentError
from schemas.review import ForgeApp

__all__ = ["AppLogin", "GitHub", "app_jwt"]

_EARLY = timedelta(minutes=5)
"""Before a token expires another is asked for."""


class GitHub:
    def __init__(self, api: Api, repository: str, app: AppLogin | None = None) -> None:
        self._api, self._app = api, app
        self._owner, self._repo = repository.partition("/")[0], f"/repos/{repository}"
        self._name = repository

    async def identity(self) -> str:
        if self._app is not None:
            return await self._app.identity()
        return str((await self._api.get("/user"))["login"])

    async def pull(self, number: int) -> PullRequest:
        return self._pull(await self._api.get(f"{self._repo}/pulls/{number}"))

    async def open_pulls(self, branch: str) -> tuple[PullRequest, ...]:
        found = self._api.pages(f"{self._repo}/pulls", state="open", base=branch)
        return tuple([self._pull(item) async for item in found])

    async def pull_of(self, commit: str) -> PullRequest | None:
        async for item in self._api.pages(f"{self._repo}/commits/{commit}/pulls"):
            if item["merged_at"] and item["merge_commit_sha"] == commit:
                return self._pull(item)
        return None

    async def changed_files(self, number: int) -> tuple[str, ...]:
        found = self._api.pages(f"{self._repo}/pulls/{number}/files")
        return tuple([str(item["filename"]) async for item in found])

    async def authors(self, number: int) -> frozenset[str]:
        logins = {(await self.pull(number)).author}
        async for item in self._api.pages(f"{self._repo}/pulls/{number}/commits"):
            for who in (item["author"], item["committer"]):
                if who:
                    logins.add(who["login"])
        return frozenset(logins)

    async def approvals(self, number: int) -> tuple[Approval, ...]:
        last: dict[str, Any] = {}
        async for item in self._api.pages(f"{self._repo}/pulls/{number}/reviews"):
            # A comment takes nothing back; what was dismissed says so itself.
            if item["state"] != "COMMENTED" and item["user"]:
                last[item["user"]["login"]] = item
        return tuple(
            Approval(
                by=who,
                commit=item["commit_id"],
                at=datetime.fromisoformat(item["submitted_at"]),
            )
            for who, item in last.items()
            if item["state"] == "APPROVED"
        )

    async def notes(self, number: int) -> tuple[Note, ...]:
        found = self._api.pages(f"{self._repo}/issues/{number}/comments")
        return tuple([_note(item) async for item in found])

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
        return found is not None and found["permission"] in ("write", "admin")

    async def members(self, team: str) -> frozenset[str]:
        path = f"/orgs/{self._owner}/teams/{quote(team, safe='')}"
        if await self._api.find(path) is None:
            return frozenset()
        people = self._api.pages(f"{path}/members")
        return frozenset([str(who["login"]) async for who in people])

    async def remove_label(self, number: int, label: str) -> None:
        path = f"{self._repo}/issues/{number}/labels/{quote(label, safe='')}"
        await self._api.call("DELETE", path, missing=True)

    async def merge(self, number: int, head: str) -> None:
        body = {"sha": head, "merge_method": "merge"}
        await self._api.call("PUT", f"{self._repo}/pulls/{number}/merge", body=body)

    async def branch_head(self, branch: str) -> str:
        found = await self._api.get(f"{self._repo}/branches/{quote(branch, safe='')}")
        return str(found["commit"]["sha"])

    async def propose(self, proposal: Proposal) -> PullRequest:
        onto = await self.branch_head(proposal.onto)
        tree = await self._post("/git/trees", base_tree=onto, tree=[
            {"path": path, "mode": "100644", "type": "blob"}
            | ({"sha": None} if content is None else {"content": content.decode()})
            for path, content in proposal.files.items()
        ])  # fmt: skip
        commit = await self._post(
            "/git/commits", message=proposal.title, tree=tree["sha"], parents=[onto]
        )
        ref = f"refs/heads/{proposal.branch}"
        await self._post("/git/refs", ref=ref, sha=commit["sha"])
        made = await self._post(
            "/pulls",
            title=proposal.title,
            body=proposal.body,
            head=proposal.branch,
            base=proposal.onto,
        )
        return self._pull(made)

    def ref_of(self, number: int) -> str:
        return f"refs/pull/{number}/head"

    async def close(self) -> None:
        await self._api.close()
        if self._app is not None:
            await self._app.close()

    async def _post(self, path: str, **body: object) -> Any:
        return await self._api.call("POST", f"{self._repo}{path}", body=body)

    def _pull(self, item: Any) -> PullRequest:
        source = item["head"]["repo"]
        merged = bool(item["merged_at"])
        return PullRequest(
            number=item["number"],
            title=item["title"],
            author=item["user"]["login"],
            head=item["head"]["sha"],
            branch=item["base"]["ref"],
            fork=source is None
            or source["full_name"] != item["base"]["repo"]["full_name"],
            open=item["state"] == "open",
            merged=merged,
            merge_commit=item["merge_commit_sha"] or "" if merged else "",
            labels=frozenset(label["name"] for label in item["labels"]),
            url=item["html_url"],
        )


class AppLogin:
    """Tokens of an App's installation: each lives an hour and is asked for anew."""

    def __init__(
        self, url: str, app: ForgeApp, key: str, clock: Callable[[], datetime]
    ) -> None:
        self._app, self._key, self._clock = app, key, clock
        self._api = Api(url, self._as_app)
        self._token, self._expires = "", clock()

    async def __call__(self) -> Mapping[str, str]:
        now = self._clock()
        if not self._token or now + _EARLY >= self._expires:
            path = f"/app/installations/{self._app.installation}/access_tokens"
            made = await self._api.call("POST", path)
            self._token = made["token"]
            self._expires = datetime.fromisoformat(made["expires_at"])
        return {"Authorization": f"Bearer {self._token}"}

    async def identity(self) -> str:
        return f"{(await self._api.get('/app'))['slug']}[bot]"

    async def close(self) -> None:
        await self._api.close()

    async def _as_app(self) -> Mapping[str, str]:
        token = app_jwt(self._app.id, self._key, self._clock())
        return {"Authorization": f"Bearer {token}"}


def app_jwt(app: int, key: str, now: datetime) -> str:
    """What an App proves itself with: RS256, good for nine minutes of the ten allowed.

    Raises:
        PermanentError: the key is no RSA key in PEM.
    """
    try:
        private = serialization.load_pem_private_key(key.encode(), password=None)
    except ValueError as error:
        raise PermanentError("cannot log in as an App: its key is no PEM") from error
    if not isinstance(private, rsa.RSAPrivateKey):
        raise PermanentError("cannot log in as an App: its key is no RSA key")
    at = int(now.timestamp())
    # A minute back: GitHub refuses what its own clock takes to be of the future.
    claims = {"iat": at - 60, "exp": at + 540, "iss": str(app)}
    signed = b".".join(
        _url64(orjson.dumps(p)) for p in ({"alg": "RS256", "typ": "JWT"}, claims)
    )
    signature = private.sign(signed, padding.PKCS1v15(), hashes.SHA256())
    return (signed + b"." + _url64(signature)).decode()


def _url64(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def _note(item: Any) -> Note:
    return Note(
        id=str(item["id"]),
        author=item["user"]["login"],
        body=item["body"] or "",
        at=datetime.fromisoformat(item["updated_at"]),
    )
