"""What the handlers of stored objects share: the store, names, pages (I/O).

Everything that is read or written here is of the project of the request's key.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import orjson
from aiohttp import web

from gateway.cold.relay import ColdRuntime
from gateway.documents import Document, Kind
from gateway.openai import BadRequest, read_object
from gateway.snapshot import Key

if TYPE_CHECKING:
    from gateway.store import Store

__all__ = [
    "answer",
    "body_of",
    "change",
    "document_of",
    "limit_of",
    "list_page",
    "new_id",
    "newest_first",
    "page_of",
    "project_of",
    "store_of",
]

_MAX_PAGE = 10_000  # what OpenAI's list of files allows
_MAX_TRIES = 20


def project_of(key: Key) -> str:
    return key.name.partition("/")[0]


def store_of(runtime: ColdRuntime) -> Store:
    """Raises: BadRequest: there is none."""
    if runtime.store is None:
        raise BadRequest(
            "files, batches and stored responses are not served: this gateway has no "
            "store",
            code="no_store",
            status=HTTPStatus.NOT_IMPLEMENTED,
        )
    return runtime.store


def new_id(prefix: str) -> str:
    return prefix + os.urandom(16).hex()


def answer(document: dict[str, Any], status: int = HTTPStatus.OK) -> web.Response:
    body = orjson.dumps(document)
    return web.Response(status=status, body=body, content_type="application/json")


async def body_of(request: web.Request) -> dict[str, Any]:
    """Raises: BadRequest: not a JSON object."""
    return read_object(await request.read())


async def document_of(
    runtime: ColdRuntime, request: web.Request, kind: Kind, name: str | None = None
) -> Document:
    """Find what a path names.

    Raises:
        BadRequest: the project has no such thing.
    """
    name = request.match_info["id"] if name is None else name
    store, project = store_of(runtime), project_of(request["key"])
    found = await asyncio.to_thread(store.get, project, kind, name)
    if found is None or _is_over(found, runtime.wall()):
        raise BadRequest(
            f"cannot find the {kind} {name!r}",
            code="not_found",
            status=HTTPStatus.NOT_FOUND,
        )
    return found


def _is_over(document: Document, now: float) -> bool:
    return document.expires_at is not None and document.expires_at <= now


async def change(
    store: Store, document: Document, how: Callable[[Document], dict[str, Any] | None]
) -> Document:
    """Change what others may be changing too; ``how`` gives None to leave it."""
    for _ in range(_MAX_TRIES):
        body = how(document)
        if body is None:
            return document
        done = await asyncio.to_thread(store.change, document, body)
        if done is not None:
            return done
        newer = await asyncio.to_thread(
            store.get, document.project, document.kind, document.id
        )
        if newer is None:
            break
        document = newer
    raise BadRequest(
        f"cannot change the {document.kind} {document.id!r}: others are changing it",
        status=HTTPStatus.CONFLICT,
    )


async def page_of(
    runtime: ColdRuntime, request: web.Request, kind: Kind, *, default: int
) -> web.Response:
    """List a project's documents, as the query asks."""
    query = request.query
    limit, newest = limit_of(request, default), newest_first(request)
    after, purpose = query.get("after"), query.get("purpose")
    store, project = store_of(runtime), project_of(request["key"])
    found: list[dict[str, Any]] = []
    while len(found) <= limit:
        page = await asyncio.to_thread(
            store.page, project, kind, limit=limit + 1, after=after, newest=newest
        )
        found += [d.body for d in page if purpose in {None, d.body.get("purpose")}]
        if len(page) <= limit:
            break
        after = page[-1].id
    return answer(list_page(found[:limit], more=len(found) > limit))


def newest_first(request: web.Request) -> bool:
    """Raises: BadRequest: the query asks for an order that there is none of."""
    order = request.query.get("order", "desc")
    if order not in {"asc", "desc"}:
        raise BadRequest(
            f"cannot list in the order {order!r}: asc or desc", param="order"
        )
    return order == "desc"


def list_page(data: list[dict[str, Any]], *, more: bool) -> dict[str, Any]:
    return {
        "object": "list",
        "data": data,
        "first_id": data[0]["id"] if data else None,
        "last_id": data[-1]["id"] if data else None,
        "has_more": more,
    }


def limit_of(request: web.Request, default: int) -> int:
    """Raises: BadRequest: the query asks for fewer than one or for too many."""
    text = request.query.get("limit")
    if text is None:
        return default
    if not text.isdigit() or not 1 <= int(text[:9]) <= _MAX_PAGE:
        raise BadRequest(
            f"cannot list so many: {text!r} is not in 1..{_MAX_PAGE}", param="limit"
        )
    return int(text)
