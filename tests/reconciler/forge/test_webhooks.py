"""A delivery is believed only so far: who sent it, and which pull request it names."""

from __future__ import annotations

import hashlib
import hmac
import json
from typing import Any

import pytest

from reconciler.forge.webhooks import Kind, Refused, read_delivery

SECRET = "s3cret-of-a-test"
HOOKS: list[tuple[Kind, dict[str, Any], int | None]] = [
    ("gitea", {"repository": {"full_name": "t/r"}, "pull_request": {"number": 7}}, 7),
    ("gitea", {"repository": {"full_name": "t/r"}, "issue": {"number": 8}}, 8),
    ("gitea", {"repository": {"full_name": "t/r"}, "ref": "refs/heads/main"}, None),
    ("github", {"repository": {"full_name": "t/r"}, "pull_request": {"number": 7}}, 7),
    ("github", {"repository": {"full_name": "t/r"}, "pull_request": "7"}, None),
    ("gitlab", {"project": {"path_with_namespace": "t/r"}, "object_kind": "merge_request",
                "object_attributes": {"iid": 7}}, 7),
    ("gitlab", {"project": {"path_with_namespace": "t/r"}, "object_kind": "note",
                "merge_request": {"iid": 9}}, 9),
]  # fmt: skip


def headers(kind: Kind, body: bytes, *, secret: str = SECRET) -> dict[str, str]:
    signature = hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
    match kind:
        case "gitea":
            return {"X-Gitea-Delivery": "d", "X-Gitea-Signature": signature}
        case "github":
            return {
                "X-GitHub-Delivery": "d",
                "X-Hub-Signature-256": f"sha256={signature}",
            }
        case "gitlab":
            return {"X-Gitlab-Event-UUID": "d", "X-Gitlab-Token": secret}


@pytest.mark.parametrize(("kind", "data", "pull"), HOOKS)
def test_a_delivery_names_its_pull_request(
    kind: Kind, data: dict[str, Any], pull: int | None
) -> None:
    body = json.dumps(data).encode()
    found = read_delivery(
        kind, headers(kind, body), body, secret=SECRET, repository="t/r"
    )

    assert (found.id, found.pull) == ("d", pull)


@pytest.mark.parametrize("kind", ["gitea", "github", "gitlab"])
def test_without_our_secret_nothing_is_read(kind: Kind) -> None:
    body = b"no JSON at all"
    for told in (headers(kind, body, secret="another"), {}):
        with pytest.raises(Refused, match="forged"):
            read_delivery(kind, told, body, secret=SECRET, repository="t/r")


@pytest.mark.parametrize(
    ("body", "drop", "why"),
    [
        (b"[" * 100_000, "", "no JSON"),
        (b"7", "", "another repository"),
        (b'{"repository": {"full_name": "t/other"}}', "", "another repository"),
        (
            b'{"repository": {"full_name": "t/r"}}',
            "X-GitHub-Delivery",
            "no delivery id",
        ),
    ],
)
def test_what_is_signed_and_wrong_is_refused_with_its_reason(
    body: bytes, drop: str, why: str
) -> None:
    told = headers("github", body)
    told.pop(drop, None)
    with pytest.raises(Refused, match=why):
        read_delivery("github", told, body, secret=SECRET, repository="t/r")
