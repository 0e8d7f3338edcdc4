"""A forge's webhooks: who sent it, which delivery, which pull request (pure).

`receiver` asks it. A delivery is a reason to look at one pull request and nothing
else in it is believed, so that one that is forged, replayed or lost can do no more
than cost a look, or delay one until the next poll.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import orjson

__all__ = ["Delivery", "Refused", "read_delivery"]

Kind = Literal["gitea", "github", "gitlab"]


class Refused(Exception):
    """Why a delivery is not taken; in words for the ledger."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    id: str
    pull: int | None
    """None: look at every open one."""


_ID = {
    "gitea": "X-Gitea-Delivery",
    "github": "X-GitHub-Delivery",
    "gitlab": "X-Gitlab-Event-UUID",
}
_LONGEST_ID = 128


def read_delivery(
    kind: Kind,
    headers: Mapping[str, str],
    body: bytes,
    *,
    secret: str,
    repository: str,
) -> Delivery:
    """The delivery, once it is known who sent it.

    Raises:
        Refused: no good signature, no id, another repository, no JSON.
    """
    if not _authentic(kind, headers, body, secret):
        raise Refused("forged: its signature is not of our secret")
    delivery = headers.get(_ID[kind], "")
    if not 0 < len(delivery) <= _LONGEST_ID:
        raise Refused("it has no delivery id")
    try:
        data = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise Refused("it is no JSON") from error
    if not isinstance(data, dict) or _repository(kind, data) != repository:
        raise Refused("it is of another repository")
    return Delivery(id=delivery, pull=_pull(kind, data))


def _authentic(
    kind: Kind, headers: Mapping[str, str], body: bytes, secret: str
) -> bool:
    if kind == "gitlab":
        # GitLab sends the secret itself, not a signature: use TLS.
        told = headers.get("X-Gitlab-Token", "")
        return hmac.compare_digest(told.encode(), secret.encode())
    expected = hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
    if kind == "gitea":
        told = headers.get("X-Gitea-Signature", "")
    else:
        told = headers.get("X-Hub-Signature-256", "").removeprefix("sha256=")
    return hmac.compare_digest(told.encode(), expected.encode())


def _repository(kind: Kind, data: Mapping[str, Any]) -> str:
    where, name = (
        ("project", "path_with_namespace")
        if kind == "gitlab"
        else ("repository", "full_name")
    )
    found = data.get(where)
    return str(found.get(name)) if isinstance(found, dict) else ""


def _pull(kind: Kind, data: Mapping[str, Any]) -> int | None:
    if kind == "gitlab":
        event = data.get("object_attributes" if data.get("object_kind") == "merge_request"
                         else "merge_request")  # fmt: skip
        number = event.get("iid") if isinstance(event, dict) else None
    else:
        event = data.get("pull_request") or data.get("issue")
        number = event.get("number") if isinstance(event, dict) else None
    return number if isinstance(number, int) else None
