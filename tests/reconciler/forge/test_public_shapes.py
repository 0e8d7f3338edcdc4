"""GitHub and GitLab by the shapes that their public API documents give.

A loopback server answers with those shapes (the fields that are read, and a few that are not)
and keeps what it was asked. Nobody has run these clients against the services themselves.
"""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from reconciler.forge import Proposal, open_forge
from reconciler.forge.github import app_jwt
from schemas.errors import PermanentError, TemporaryError
from schemas.review import ForgeSettings

SHA, BASE = (
    "6dcb09b5b57875f334f61aebed695e2e4193db5e",
    "c3d0be41ecbe669545ee3e94d31ed9a4bc91ee3c",
)
AT = "2026-11-23T12:00:00Z"

GITHUB_PULL = {
    "url": "https://api.github.com/repos/t/r/pulls/7", "number": 7, "state": "closed",
    "title": "Add chat", "user": {"login": "ann", "id": 1}, "merged_at": AT,
    "merge_commit_sha": SHA, "labels": [{"id": 9, "name": "bud/plan"}],
    "html_url": "https://github.com/t/r/pull/7",
    "head": {"sha": SHA, "ref": "chat", "repo": {"full_name": "ann/r", "fork": True}},
    "base": {"sha": BASE, "ref": "main", "repo": {"full_name": "t/r"}},
}  # fmt: skip
GITHUB_NOTE = {"id": 31, "body": "hello", "user": {"login": "bud[bot]"}, "created_at": AT, "updated_at": AT}  # fmt: skip
GITHUB: dict[str, Any] = {
    "GET /user": {"login": "bud", "id": 5},
    "GET /repos/t/r/pulls/7": GITHUB_PULL,
    "GET /repos/t/r/pulls": [GITHUB_PULL | {"state": "open", "merged_at": None}],
    f"GET /repos/t/r/commits/{SHA}/pulls": [GITHUB_PULL],
    f"GET /repos/t/r/commits/{BASE}/pulls": [],
    "GET /repos/t/r/pulls/7/commits": [
        {"sha": SHA, "commit": {}, "author": {"login": "ann"}, "committer": None},
        {"sha": BASE, "commit": {}, "author": {"login": "eve"}, "committer": {"login": "web-flow"}},
    ],
    "GET /repos/t/r/pulls/7/reviews": [
        {"id": 1, "user": {"login": "bob"}, "state": "APPROVED", "commit_id": SHA, "submitted_at": AT},
        {"id": 2, "user": {"login": "bob"}, "state": "COMMENTED", "commit_id": SHA, "submitted_at": AT},
        {"id": 3, "user": {"login": "carol"}, "state": "APPROVED", "commit_id": SHA, "submitted_at": AT},
        {"id": 4, "user": {"login": "carol"}, "state": "CHANGES_REQUESTED", "commit_id": SHA, "submitted_at": AT},
        {"id": 5, "user": {"login": "dan"}, "state": "DISMISSED", "commit_id": SHA, "submitted_at": AT},
    ],
    "GET /repos/t/r/issues/7/comments": [GITHUB_NOTE],
    "POST /repos/t/r/issues/7/comments": GITHUB_NOTE,
    "PATCH /repos/t/r/issues/comments/31": GITHUB_NOTE,
    f"POST /repos/t/r/statuses/{SHA}": {"id": 1, "state": "pending"},
    "GET /repos/t/r/collaborators/bob/permission": {"permission": "write", "user": {"login": "bob"}},
    "GET /repos/t/r/collaborators/eve/permission": {"permission": "read", "user": {"login": "eve"}},
    "GET /orgs/t/teams/platform": {"id": 3, "slug": "platform"},
    "GET /orgs/t/teams/platform/members": [{"login": "bob"}, {"login": "carol"}],
    "DELETE /repos/t/r/issues/7/labels/bud%2Fplan": [],
    "PUT /repos/t/r/pulls/7/merge": {"sha": SHA, "merged": True},
    "GET /repos/t/r/branches/main": {"name": "main", "commit": {"sha": BASE}},
    "POST /repos/t/r/git/trees": {"sha": "7ree"},
    "POST /repos/t/r/git/commits": {"sha": SHA},
    "POST /repos/t/r/git/refs": {"ref": "refs/heads/revert", "object": {"sha": SHA}},
    "POST /repos/t/r/pulls": GITHUB_PULL | {"state": "open", "merged_at": None},
}  # fmt: skip

MERGE_REQUEST = {
    "id": 1, "iid": 7, "project_id": 3, "title": "Add chat", "state": "merged",
    "author": {"id": 1, "username": "ann"}, "sha": SHA, "source_branch": "chat",
    "target_branch": "main", "source_project_id": 4, "target_project_id": 3,
    "merge_commit_sha": SHA, "squash_commit_sha": None, "labels": ["bud/plan"],
    "web_url": "https://gitlab.example/t/r/-/merge_requests/7",
}  # fmt: skip
GITLAB_NOTE = {"id": 31, "body": "hello", "author": {"username": "bud"}, "system": False, "created_at": AT, "updated_at": AT}  # fmt: skip
P = "/projects/t%2Fr"
GITLAB: dict[str, Any] = {
    "GET /user": {"id": 5, "username": "bud"},
    f"GET {P}/merge_requests/7": MERGE_REQUEST,
    f"GET {P}/merge_requests": [MERGE_REQUEST | {"state": "opened"}],
    f"GET {P}/repository/commits/{SHA}/merge_requests": [MERGE_REQUEST],
    f"GET {P}/repository/commits/{BASE}/merge_requests": [],
    f"GET {P}/merge_requests/7/commits": [
        {"id": SHA, "author_email": "eve@example.org", "committer_email": "eve@example.org"},
    ],
    "GET /users": [{"id": 8, "username": "eve"}],
    f"GET {P}/merge_requests/7/approvals": {
        "approved": True,
        "approved_by": [{"user": {"username": "bob"}, "approved_at": AT}],
    },
    f"GET {P}/merge_requests/7/notes": [GITLAB_NOTE, GITLAB_NOTE | {"id": 32, "system": True}],
    f"POST {P}/merge_requests/7/notes": GITLAB_NOTE,
    f"PUT {P}/merge_requests/7/notes/31": GITLAB_NOTE,
    f"POST {P}/statuses/{SHA}": {"id": 1, "status": "pending"},
    f"GET {P}/members/all": [
        {"username": "bob", "access_level": 30}, {"username": "eve", "access_level": 20},
    ],
    "GET /groups/platform": {"id": 3, "path": "platform"},
    "GET /groups/platform/members/all": [{"username": "bob"}, {"username": "carol"}],
    f"PUT {P}/merge_requests/7": MERGE_REQUEST,
    f"PUT {P}/merge_requests/7/merge": MERGE_REQUEST,
    f"GET {P}/repository/branches/main": {"name": "main", "commit": {"id": BASE}},
    f"POST {P}/repository/commits": {"id": SHA},
    f"POST {P}/merge_requests": MERGE_REQUEST | {"state": "opened"},
}  # fmt: skip


@dataclass
class Service:
    answers: dict[str, Any]
    asked: list[tuple[str, Any, dict[str, str]]] = field(default_factory=list)

    async def answer(self, request: web.Request) -> web.Response:
        what = f"{request.method} {request.rel_url.raw_path}"
        body = await request.json() if request.can_read_body else None
        self.asked.append((what, body, dict(request.headers)))
        if what not in self.answers:
            return web.json_response({"message": "Not Found"}, status=404)
        found = self.answers[what]
        return found if isinstance(found, web.Response) else web.json_response(found)

    def body_of(self, what: str) -> Any:
        return next(body for asked, body, _ in self.asked if asked == what)


@pytest.fixture(params=["github", "gitlab"])
async def both(request: pytest.FixtureRequest) -> AsyncIterator[tuple[Any, Service]]:
    service = Service(GITHUB if request.param == "github" else GITLAB)
    async for forge in serving(service, request.param, {"token": {"env": "T"}}):
        yield forge, service


async def serving(service: Service, kind: str, login: Any) -> AsyncIterator[Any]:
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", service.answer)
    async with TestServer(app) as server:
        settings = ForgeSettings.model_validate_json(json.dumps({
            "kind": kind, "url": f"http://127.0.0.1:{server.port}", "repository": "t/r",
            "webhookSecret": {"env": "S"}, **login,
        }))  # fmt: skip
        forge = open_forge(
            settings, lambda _: KEY if "app" in login else "t0ken", lambda: NOW
        )
        yield forge
        await forge.close()


NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
PRIVATE = rsa.generate_private_key(65537, 2048)
KEY = PRIVATE.private_bytes(
    serialization.Encoding.PEM,
    serialization.PrivateFormat.TraditionalOpenSSL,
    serialization.NoEncryption(),
).decode()


async def test_a_pull_request_is_read_as_it_is_documented(
    both: tuple[Any, Service],
) -> None:
    forge, _ = both
    pull = await forge.pull(7)

    assert (pull.number, pull.author, pull.head, pull.branch) == (7, "ann", SHA, "main")
    assert (pull.fork, pull.open, pull.merged, pull.merge_commit) == (
        True,
        False,
        True,
        SHA,
    )
    assert pull.labels == {"bud/plan"}
    [other] = await forge.open_pulls("main")
    assert (other.open, other.merged, other.merge_commit) == (True, False, "")
    assert (await forge.pull_of(SHA)).number == 7
    assert await forge.pull_of(BASE) is None
    assert pull.source == "chat"
    assert {"ann", "eve"} <= await forge.authors(7)


async def test_only_approvals_in_force_count(both: tuple[Any, Service]) -> None:
    forge, _ = both
    [approval] = await forge.approvals(7)

    assert (approval.by, approval.at) == ("bob", NOW)
    assert await forge.may_write("bob")
    assert not await forge.may_write("eve")
    assert not await forge.may_write("nobody")
    assert await forge.members("platform") == {"bob", "carol"}
    assert await forge.members("no-such-team") == frozenset()


async def test_what_is_written_is_what_is_documented(both: tuple[Any, Service]) -> None:
    forge, service = both
    [note] = await forge.notes(7)
    assert (note.id, note.body, note.at) == ("31", "hello", NOW)
    assert (await forge.write_note(7, "new")).id == "31"
    assert (await forge.write_note(7, "again", replaces="31")).id == "31"
    await forge.set_status(SHA, "bud/production", "failure", "x" * 300, "http://x")
    await forge.remove_label(7, "bud/plan")
    await forge.merge(7, SHA)
    assert await forge.branch_head("main") == BASE

    bodies = [
        body
        for what, body, _ in service.asked
        if what.startswith(("PUT", "PATCH", "POST"))
    ]
    status = next(b for b in bodies if "description" in b)
    assert len(status["description"]) <= 140
    assert status.get("state") in ("failure", "failed")
    assert any(b.get("sha") == SHA for b in bodies), "a merge names the head"


async def test_a_proposal_is_a_branch_with_one_commit_and_a_pull_request(
    both: tuple[Any, Service],
) -> None:
    forge, service = both
    made = await forge.propose(
        Proposal(title="Revert chat", body="why", branch="revert", onto="main", base=BASE,
                 files={"spec/endpoint/chat.yaml": b"x: 1\n", "spec/endpoint/old.yaml": None})
    )  # fmt: skip

    assert made.number == 7
    said = json.dumps([body for _, body, _ in service.asked])
    assert "spec/endpoint/chat.yaml" in said
    assert "spec/endpoint/old.yaml" in said
    assert BASE in said, "it says which commit it changes"


async def test_an_app_proves_itself_and_keeps_its_token_for_its_hour() -> None:
    expires = (NOW + timedelta(hours=1)).isoformat()
    service = Service(
        GITHUB
        | {
            "POST /app/installations/11/access_tokens": {
                "token": "ghs_x",
                "expires_at": expires,
            },
            "GET /app": {"id": 10, "slug": "bud"},
        }
    )
    login = {"app": {"id": 10, "installation": 11, "key": {"env": "K"}}}
    async for forge in serving(service, "github", login):
        await forge.pull(7)
        await forge.pull(7)
        assert await forge.identity() == "bud[bot]"

    tokens = [
        h["Authorization"] for what, _, h in service.asked if what.endswith("pulls/7")
    ]
    assert tokens == ["Bearer ghs_x"] * 2
    assert sum(what.endswith("access_tokens") for what, _, _ in service.asked) == 1

    head, claims, signature = app_jwt(10, KEY, NOW).split(".")
    raw = base64.urlsafe_b64decode(signature + "==")
    PRIVATE.public_key().verify(
        raw, f"{head}.{claims}".encode(), padding.PKCS1v15(), hashes.SHA256()
    )
    data = json.loads(base64.urlsafe_b64decode(claims + "=="))
    assert data["exp"] - data["iat"] <= 600
    assert data["iss"] == "10"


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (403, PermanentError),
        (429, TemporaryError),
        (502, TemporaryError),
        (302, PermanentError),
    ],
)
async def test_a_failure_says_whether_to_try_again_and_shows_no_token(
    status: int, error: type[Exception]
) -> None:
    answer = web.Response(
        status=status,
        text="no",
        headers={"Location": "http://169.254.169.254/", "Retry-After": "7"},
    )
    service = Service({"GET /repos/t/r/pulls/7": answer})
    async for forge in serving(service, "github", {"token": {"env": "T"}}):
        with pytest.raises(error) as caught:
            await forge.pull(7)

    assert "t0ken" not in str(caught.value)
    assert len(service.asked) == 1, "a redirect is not followed"
    if isinstance(caught.value, TemporaryError):
        assert caught.value.retry_after_s == 7
