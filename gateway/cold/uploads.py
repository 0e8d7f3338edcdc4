"""Requests whose body is not held: forms with files, and large JSON (I/O).

Called by the aiohttp application. The body goes through a spool to the
upstream as it comes; who may, who answers and what it costs are decided by the
same functions as for a small request.
"""

from __future__ import annotations

import asyncio

from aiohttp import web
from aiohttp.typedefs import Handler

from gateway.cold.forms import read_form, too_large
from gateway.cold.relay import ColdRuntime, relay
from gateway.cold.spool import Form, JsonBody, Spool
from gateway.entry import route_of
from gateway.openai import (
    HOT_PATHS,
    PATH_OF,
    UPLOADS,
    BadRequest,
    Op,
    Request,
    read_request,
    request_of,
)
from gateway.snapshot import Key, Route

__all__ = ["handlers"]

_SAME_SHAPE = frozenset({"openai", "azure"})


def handlers(runtime: ColdRuntime) -> dict[str, Handler]:
    uploads = Uploads(runtime)
    found: dict[str, Handler] = dict.fromkeys(UPLOADS, uploads.form)
    return found | dict.fromkeys(HOT_PATHS.values(), uploads.large)


class Uploads:
    """Handlers of requests with large bodies."""

    def __init__(self, runtime: ColdRuntime) -> None:
        self._runtime = runtime

    async def form(self, request: web.Request) -> web.StreamResponse:
        """Serve a form; its request begins as soon as its model is known."""
        op = next(op for op in UPLOADS if PATH_OF[op].decode() == request.path)
        form = Form()
        try:
            async with asyncio.TaskGroup() as tasks:
                reading = tasks.create_task(self._read(request, form))
                await form.known.wait()
                response = await self._answer(request, op, form)
                reading.cancel()
                return response
        except BaseExceptionGroup as group:
            raise group.exceptions[0] from None
        finally:
            form.spool.close()

    async def _answer(
        self, request: web.Request, op: Op, form: Form
    ) -> web.StreamResponse:
        # Whether it streams shows in the answer; until then it may take as long
        # as its upload does.
        what = Request(op, b"", form.fields, str(form.model), False, True, source=form)
        return await relay(
            request, self._runtime.call(request["key"], what, request["fields"])
        )

    async def _read(self, request: web.Request, form: Form) -> None:
        listener = self._runtime.snapshot.listener
        most, quiet_s = listener.max_upload.bytes, listener.idle.seconds
        await read_form(request, form, most=most, quiet_s=quiet_s)
        if form.model is None:
            raise BadRequest("cannot choose a model: `model` is missing", param="model")
        form.end()

    async def large(self, request: web.Request) -> web.StreamResponse:
        """Serve a large JSON body, without holding it where nobody must read it."""
        key: Key = request["key"]
        op = HOT_PATHS[request.path.encode()]
        spool = Spool()
        try:
            most = self._runtime.snapshot.listener.max_body.bytes
            quiet = self._runtime.snapshot.listener.idle.seconds
            while True:
                async with asyncio.timeout(quiet):
                    data = await request.content.readany()
                if not data:
                    break
                if spool.size + len(data) > most:
                    raise too_large(most)
                spool.append(data)
            spool.end()
            body = await asyncio.to_thread(JsonBody, spool)
            what = request_of(op, b"", body.members)
            route = route_of(key, what.model, op)
            if op not in route.gated and _passes(route, op):
                if what.stream and not what.wants_usage:
                    body.ask_usage()
                what = what._replace(source=body)
            else:
                raw = b"".join([part async for part in spool.read()])
                what = await asyncio.to_thread(read_request, op, raw)
            return await relay(
                request, self._runtime.call(key, what, request["fields"])
            )
        finally:
            spool.close()


def _passes(route: Route, op: Op) -> bool:
    """Tell whether all that may answer read the body as it is."""
    return all(
        choice.target.upstream.dialect in _SAME_SHAPE
        for tier in route.choices[op]
        for choice in tier
    )
