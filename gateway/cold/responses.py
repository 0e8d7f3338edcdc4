"""Responses: asked, kept, continued, run in the background (I/O).

The gateway keeps the state, so any upstream may answer any turn: what a request
continues is put in front of its input, and the upstream is asked to keep nothing.
Without a store, requests pass to upstreams that speak the API themselves.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any

import orjson
from aiohttp import web
from aiohttp.typedefs import Handler

from gateway.cold.call import Broken, Call
from gateway.cold.jobs import RENEW_S, Job
from gateway.cold.relay import ColdRuntime, ask, relay, send
from gateway.cold.stored import (
    answer,
    body_of,
    change,
    document_of,
    limit_of,
    list_page,
    new_id,
    newest_first,
    project_of,
    store_of,
)
from gateway.dialects import Cutter
from gateway.dialects.responses_client import chat_request, items_of, skeleton
from gateway.documents import Document
from gateway.entry import route_of
from gateway.openai import BadRequest, Request, read_object, request_of
from gateway.snapshot import Key

__all__ = ["ResponseRunner", "handlers"]

_LAST = frozenset({"response.completed", "response.incomplete", "response.failed"})
_OVER = frozenset({"completed", "incomplete", "failed", "cancelled"})
_OWN = ("id", "store", "background", "created_at", "previous_response_id")
_OK = 200
_PAGE = 20


def handlers(runtime: ColdRuntime) -> dict[str, Handler]:
    responses = Responses(runtime)
    return {
        "create-response": responses.create,
        "response": responses.get,
        "delete-response": responses.delete,
        "cancel-response": responses.cancel,
        "input-items": responses.items,
    }


def _request_for(key: Key, body: dict[str, Any]) -> Request:
    """Write the request for an upstream; ``body`` as it is kept.

    Raises:
        BadRequest: nothing can answer it, or chat cannot say it.
    """
    document, echo = body["asked"], body["response"]
    items = body["history"] + body["input"]
    route = route_of(key, request_of("responses", b"", document).model)
    if "responses" in route.ops:
        asked = {n: v for n, v in document.items() if n != "background"}
        asked["store"] = False
        if body["history"]:
            asked["input"] = items
        asked.pop("previous_response_id", None)
        return request_of("responses", orjson.dumps(asked), asked)
    chat = chat_request(document, items)
    request = request_of("chat", orjson.dumps(chat), chat, client="responses")
    return request._replace(echo=echo, wants_usage=True)


class Responses:
    """Handlers of ``/v1/responses``."""

    def __init__(self, runtime: ColdRuntime) -> None:
        self._runtime = runtime

    async def create(self, request: web.Request) -> web.StreamResponse:
        key: Key = request["key"]
        document = await body_of(request)
        if self._runtime.store is None and self._passes(key, document):
            raw = orjson.dumps(document)
            what = request_of("responses", raw, document)
            return await relay(
                request, self._runtime.call(key, what, request["fields"])
            )
        kept = await self._body(request, document)
        what = _request_for(key, kept)
        if document.get("background"):
            return await self._later(key, kept)
        call = self._runtime.call(key, what, request["fields"])
        if not kept["response"]["store"]:
            return await relay(request, call)
        try:
            reply = await call.reply()
            if reply.status == _OK and what.stream:
                body = self._kept_stream(call, key, kept)
                return await send(request, reply.status, reply.fields, body)
            whole = await call.whole()
        finally:
            call.close()
        if reply.status == _OK:
            whole = orjson.dumps(await self._keep(key, kept, read_object(whole)))
        return web.Response(status=reply.status, headers=reply.fields, body=whole)

    def _passes(self, key: Key, document: dict[str, Any]) -> bool:
        model = document.get("model")
        return isinstance(model, str) and "responses" in route_of(key, model).ops

    async def _body(
        self, request: web.Request, document: dict[str, Any]
    ) -> dict[str, Any]:
        """Write down what is asked, with all that it continues."""
        now = int(self._runtime.wall())
        background = bool(document.get("background"))
        keep = self._runtime.store is not None and document.get("store") is not False
        if background and (not keep or document.get("stream")):
            raise BadRequest(
                "cannot answer in the background: it must be stored and not streamed",
                param="background",
            )
        history: list[dict[str, Any]] = []
        previous = document.get("previous_response_id")
        if previous is not None:
            found = await document_of(self._runtime, request, "response", str(previous))
            last = found.body["response"]
            if last["status"] not in _OVER:
                raise BadRequest(
                    f"cannot go on from {found.id!r}: it is {last['status']}",
                    param="previous_response_id",
                )
            history = found.body["history"] + found.body["input"] + last["output"]
        return {
            "asked": document,
            "response": skeleton(document, name=new_id("resp_"), now=now, store=keep),
            "input": items_of(document),
            "history": history,
        }

    async def _later(self, key: Key, kept: dict[str, Any]) -> web.Response:
        kept["response"]["status"] = "queued"
        await self._add(key, kept, lease_until=0)
        self._runtime.wake_jobs()
        return answer(kept["response"])

    async def _keep(
        self, key: Key, kept: dict[str, Any], response: dict[str, Any]
    ) -> dict[str, Any]:
        """Keep an answer; give it as it is kept."""
        previous = kept["response"]["previous_response_id"]
        response |= {"store": True, "previous_response_id": previous}
        await self._add(key, kept | {"response": response})
        return response

    async def _add(self, key: Key, body: dict[str, Any], **more: Any) -> None:
        now, store = int(self._runtime.wall()), store_of(self._runtime)
        table = self._runtime.snapshot.listener.store
        life = int(table.keep.seconds) if table is not None else 0
        document = Document(
            project=project_of(key),
            kind="response",
            id=str(body["response"].get("id")),
            body=body,
            created_at=now,
            expires_at=now + life,
            key=key.name,
            **more,
        )
        await asyncio.to_thread(store.add, document)

    async def _kept_stream(
        self, call: Call, key: Key, kept: dict[str, Any]
    ) -> AsyncIterator[bytes]:
        """Pass a stream on; keep what it ends with before its end is seen."""
        cutter = Cutter()
        async for part in call.body():
            for event in cutter.feed(part):
                if event.get("type") in _LAST:
                    await self._keep(key, kept, event["response"])
            yield part

    async def get(self, request: web.Request) -> web.Response:
        found = await document_of(self._runtime, request, "response")
        if request.query.get("stream") == "true":
            raise BadRequest("cannot stream a response that is kept", param="stream")
        return answer(found.body["response"])

    async def delete(self, request: web.Request) -> web.Response:
        found = await document_of(self._runtime, request, "response")
        gone = await asyncio.to_thread(store_of(self._runtime).remove, found)
        return answer({"id": found.id, "object": "response", "deleted": gone})

    async def cancel(self, request: web.Request) -> web.Response:
        found = await document_of(self._runtime, request, "response")
        if not found.body["response"]["background"]:
            raise BadRequest(
                f"cannot cancel {found.id!r}: it is not answered in the background"
            )

        def cancel(document: Document) -> dict[str, Any] | None:
            response = document.body["response"]
            if response["status"] in _OVER:
                return None
            return document.body | {"response": response | {"status": "cancelled"}}

        found = await change(store_of(self._runtime), found, cancel)
        return answer(found.body["response"])

    async def items(self, request: web.Request) -> web.Response:
        found = await document_of(self._runtime, request, "response")
        suffix = found.id.removeprefix("resp_")
        items = [
            {"id": f"item_{suffix}_{number}", "status": "completed", **item}
            for number, item in enumerate(found.body["input"])
        ]
        if newest_first(request):
            items.reverse()
        after, limit = request.query.get("after"), limit_of(request, _PAGE)
        ids = [item["id"] for item in items]
        rest = items[ids.index(after) + 1 if after in ids else 0 :]
        return answer(list_page(rest[:limit], more=len(rest) > limit))


class ResponseRunner:
    """Answers what was asked for in the background."""

    def __init__(self, runtime: ColdRuntime) -> None:
        self._runtime = runtime

    async def run(self, job: Job) -> None:
        """Bring a response to its end.

        Raises:
            Lost: another worker has it.
        """
        if job.body["response"]["status"] != "cancelled":
            asking = asyncio.ensure_future(self._ask(job))
            try:
                await self._watch(job, asking)
            finally:
                asking.cancel()
                await asyncio.wait({asking})
        await job.end(lambda body: body)

    async def _watch(self, job: Job, asking: asyncio.Future[dict[str, Any]]) -> None:
        result: Mapping[str, Any] = {"status": "in_progress"}

        def told(body: dict[str, Any]) -> dict[str, Any]:
            response = body["response"]
            if response["status"] == "cancelled":
                return body
            return body | {"response": response | result}

        while True:
            await job.write(told)
            if job.body["response"]["status"] in _OVER:
                return
            done, _ = await asyncio.wait({asking}, timeout=RENEW_S)
            if done:
                result = asking.result()

    async def _ask(self, job: Job) -> dict[str, Any]:
        """Give the fields that the answer brings."""
        echo = job.body["response"]
        own = {n: echo[n] for n in _OWN}
        key = self._runtime.snapshot.key_named(
            job.document.key, now=self._runtime.wall()
        )
        try:
            if key is None:
                return _failed("the key of this response is no longer valid")
            what = _request_for(key, job.body)
            reply, whole = await ask(self._runtime, key.name, what)
            found = read_object(whole)
        except (BadRequest, Broken) as wrong:
            return _failed(str(wrong) or "the upstream broke off")
        if reply.status != _OK:
            error = found.get("error")
            return _failed(
                str(error.get("message") if isinstance(error, dict) else error)
            )
        return found | own


def _failed(message: str) -> dict[str, Any]:
    error = {"code": "server_error", "message": message}
    return {"status": "failed", "error": error}
