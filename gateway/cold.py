"""What is not hot, on the same port: an aiohttp application (I/O).

The edge hands a whole connection over at the first bytes of a request for any
path that it does not serve itself. Every answer closes the connection, so that
a client's next hot request finds the edge again.
"""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import Protocol

from aiohttp import web
from aiohttp.typedefs import Handler

from gateway.openai import error_body, model_body
from gateway.snapshot import Key, Snapshot

__all__ = ["ColdRuntime", "ColdSide"]

_JSON = "application/json"


class ColdRuntime(Protocol):
    snapshot: Snapshot

    def wall(self) -> float: ...


class ColdSide:
    """Makes protocols for connections that are handed over."""

    def __init__(self, runtime: ColdRuntime) -> None:
        self._runtime = runtime
        app = web.Application(middlewares=[self._guard])
        app.router.add_get("/v1/models/{model:.+}", self._model)
        self._runner = web.AppRunner(app, access_log=None, handle_signals=False)

    async def start(self) -> None:
        await self._runner.setup()

    async def close(self) -> None:
        await self._runner.cleanup()

    def protocol(self) -> asyncio.Protocol:
        assert self._runner.server is not None
        protocol: asyncio.Protocol = self._runner.server()
        return protocol

    @web.middleware
    async def _guard(
        self, request: web.Request, handler: Handler
    ) -> web.StreamResponse:
        key = self._authenticate(request)
        if key is None:
            answer = _error(
                HTTPStatus.UNAUTHORIZED, "the API key is missing or not valid"
            )
            answer.headers["www-authenticate"] = "Bearer"
            return _closing(answer)
        request["key"] = key
        try:
            return _closing(await handler(request))
        except web.HTTPException as error:
            message = f"{request.method} {request.path!r}: {error.reason.lower()}"
            return _closing(_error(HTTPStatus(error.status), message))

    def _authenticate(self, request: web.Request) -> Key | None:
        scheme, _, secret = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            return None
        data = secret.strip().encode("utf-8", "surrogateescape")
        return self._runtime.snapshot.key_for(data, now=self._runtime.wall())

    async def _model(self, request: web.Request) -> web.Response:
        key: Key = request["key"]
        name = request.match_info["model"]
        route = key.routes.get(name)
        if route is None:
            return _error(
                HTTPStatus.NOT_FOUND,
                f"the model {name!r} does not exist or this key may not use it",
                code="model_not_found",
            )
        return web.json_response(model_body(name, route.name.partition("/")[0]))


def _error(
    status: HTTPStatus, message: str, *, code: str | None = None
) -> web.Response:
    body = error_body(status, message, code=code)
    return web.Response(status=status, body=body, content_type=_JSON)


def _closing(response: web.StreamResponse) -> web.StreamResponse:
    response.force_close()
    return response
