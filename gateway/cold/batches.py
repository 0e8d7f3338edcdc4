"""Batches as clients see them: made, looked at, listed, cancelled (I/O).

Nothing is run here; the executor of any worker takes a batch up from the store.
"""

from __future__ import annotations

import asyncio
from typing import Any

from aiohttp import web
from aiohttp.typedefs import Handler

from gateway.batch import ENDPOINTS, MAX_BYTES, batch_body, moved
from gateway.cold.relay import ColdRuntime
from gateway.cold.stored import (
    answer,
    body_of,
    change,
    document_of,
    new_id,
    page_of,
    project_of,
    store_of,
)
from gateway.documents import Document
from gateway.openai import BadRequest

__all__ = ["handlers"]

_PAGE = 20
_WINDOW_S = 86_400
_MAX_METADATA = 16  # as OpenAI's
_OVER = frozenset({"completed", "failed", "expired", "cancelled", "cancelling"})


def handlers(runtime: ColdRuntime) -> dict[str, Handler]:
    batches = Batches(runtime)
    return {
        "create-batch": batches.create,
        "batches": batches.list,
        "batch": batches.get,
        "cancel-batch": batches.cancel,
    }


class Batches:
    """Handlers of ``/v1/batches``."""

    def __init__(self, runtime: ColdRuntime) -> None:
        self._runtime = runtime

    async def create(self, request: web.Request) -> web.Response:
        store, key = store_of(self._runtime), request["key"]
        given = await body_of(request)
        _check(given)
        source = await document_of(
            self._runtime, request, "file", given["input_file_id"]
        )
        if source.body["purpose"] != "batch" or source.bytes > MAX_BYTES:
            raise BadRequest(
                f"cannot run {source.id!r}: its purpose is {source.body['purpose']!r} "
                f"and it has {source.bytes} bytes, of at most {MAX_BYTES}",
                param="input_file_id",
            )
        now = int(self._runtime.wall())
        body = batch_body(new_id("batch_"), given, now=now, expires_at=now + _WINDOW_S)
        document = Document(
            project=project_of(key),
            kind="batch",
            id=body["id"],
            body=body,
            created_at=now,
            key=key.name,
            lease_until=0,
        )
        await asyncio.to_thread(store.add, document)
        self._runtime.wake_jobs()
        return answer(body)

    async def list(self, request: web.Request) -> web.Response:
        return await page_of(self._runtime, request, "batch", default=_PAGE)

    async def get(self, request: web.Request) -> web.Response:
        return answer((await document_of(self._runtime, request, "batch")).body)

    async def cancel(self, request: web.Request) -> web.Response:
        document = await document_of(self._runtime, request, "batch")
        now = int(self._runtime.wall())

        def cancel(found: Document) -> dict[str, Any] | None:
            if found.body["status"] in _OVER:
                return None
            return moved(found.body, "cancelling", now=now)

        document = await change(store_of(self._runtime), document, cancel)
        return answer(document.body)


def _check(given: dict[str, Any]) -> None:
    if not isinstance(given.get("input_file_id"), str):
        raise BadRequest("cannot make a batch: no file", param="input_file_id")
    endpoint, window = given.get("endpoint"), given.get("completion_window")
    if not isinstance(endpoint, str) or endpoint not in ENDPOINTS:
        raise BadRequest(
            f"cannot run a batch of {endpoint!r}: one of {', '.join(ENDPOINTS)}",
            param="endpoint",
        )
    if window != "24h":
        raise BadRequest(
            f"cannot complete a batch within {window!r}: only 24h is offered",
            param="completion_window",
        )
    metadata = given.get("metadata")
    small = isinstance(metadata, dict) and len(metadata) <= _MAX_METADATA
    if metadata is not None and not (
        small and all(isinstance(value, str) for value in metadata.values())
    ):
        raise BadRequest(
            f"cannot keep the metadata: at most {_MAX_METADATA} texts", param="metadata"
        )
