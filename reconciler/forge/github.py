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
from reconciler.forge.base import Approval, Note, Proposal, PullRequest
from reconciler.forge.githublike import GitHubLike
from schemas.errors import PermanentError
from schemas.review import ForgeApp

__all__ = ["AppLogin", "GitHub", "app_jwt"]

_EARLY = timedelta(minutes=5)
"""Before a token expires another is asked for."""


class GitHub(GitHubLike):
    commit_key, page_key = "sha", "per_page"

    def __init__(self, api: Api, repository: str, app: AppLogin | None = None) -> None:
        super().__init__(api, repository)
        self._app = app

    async def identity(self) -> str:
        if self._app is not None:
            return await self._app.identity()
        return await super().identity()

    async def open_pulls(self, branch: str) -> tuple[PullRequest, ...]:
        found = self._list(f"{self._repo}/pulls", state="open", base=branch)
        return tuple([self._pull(item) async for item in found])

    async def pull_of(self, commit: str) -> PullRequest | None:
        async for item in self._list(f"{self._repo}/commits/{commit}/pulls"):
            if item["merged_at"] and item["merge_commit_sha"] == commit:
                return self._pull(item)
        return None

    async def approvals(self, number: int) -> tuple[Approval, ...]:
        last: dict[str, Any] = {}
        async for item in self._list(f"{self._repo}/pulls/{number}/reviews"):
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
        found = self._list(f"{self._repo}/issues/{number}/comments")
        return tuple([self._note(item) async for item in found])

    async def members(self, team: str) -> frozenset[str]:
        path = f"/orgs/{self._owner}/teams/{quote(team, safe='')}"
        if await self._api.find(path) is None:
            return frozenset()
        people = self._list(f"{path}/members")
        return frozenset([str(who["login"]) async for who in people])

    async def remove_label(self, number: int, label: str) -> None:
        path = f"{self._repo}/issues/{number}/labels/{quote(label, safe='')}"
        await self._api.call("DELETE", path, missing=True)

    async def merge(self, number: int, head: str) -> None:
        body = {"sha": head, "merge_method": "merge"}
        await self._api.call("PUT", f"{self._repo}/pulls/{number}/merge", body=body)

    async def propose(self, proposal: Proposal) -> PullRequest:
        tree = await self._post("/git/trees", base_tree=proposal.base, tree=[
            {"path": path, "mode": "100644", "type": "blob"}
            | ({"sha": None} if content is None else {"content": content.decode()})
            for path, content in proposal.files.items()
        ])  # fmt: skip
        commit = await self._post(
            "/git/commits",
            message=proposal.title,
            tree=tree["sha"],
            parents=[proposal.base],
        )
        ref = f"refs/heads/{proposal.branch}"
        await self._post("/git/refs", ref=ref, sha=commit["sha"])
        return await self._open(proposal)

    async def close(self) -> None:
        await super().close()
        if self._app is not None:
            await self._app.close()


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
