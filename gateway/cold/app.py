"""What is not hot, on the same port: an aiohttp application (I/O).

The edge hands a whole connection over at the first bytes of a request for any
path that it does not serve itself. Every answer closes the connection, so that
a client's next hot request finds the edge again.
"""

from __future__ import annotations

import asyncio
from http import HTTPStatus

from aiohttp import web
from aiohttp.typedefs import Handler

from gateway.cold import uploads
from gateway.cold.relay import JSON, ColdRuntime
from gateway.entry import NO_KEY, key_of, route_of
from gateway.openai import BadRequest, error_body, model_body
from gateway.snapshot import Key

__all__ = ["ColdSide"]


class ColdSide:
    """Makes protocols for connections that are handed over."""

    def __init__(self, runtime: ColdRuntime) -> None:
        self._runtime = runtime
        app = web.Application(middlewares=[self._guard])
        app.router.add_get("/v1/models/{model:.+}", self._model)
        uploads.add_routes(app, runtime)
        # A client that leaves cancels its handler, which stops the upstream.
        self._runner = web.AppRunner(
            app, access_log=None, handle_signals=False, handler_cancellation=True
        )

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
        fields = {name.lower(): value for name, value in request.raw_headers}
        runtime = self._runtime
        key = key_of(runtime.snapshot, fields, now=runtime.wall())
        if key is None:
            answer = _error(HTTPStatus.UNAUTHORIZED, NO_KEY)
            answer.headers["www-authenticate"] = "Bearer"
            return _closing(answer)
        request["key"], request["fields"] = key, fields
        try:
            return _closing(await handler(request))
        except BadRequest as bad:
            error = _error(bad.status, str(bad), code=bad.code, param=bad.param)
        except TimeoutError:
            error = _error(HTTPStatus.REQUEST_TIMEOUT, "the body stopped coming")
        except web.HTTPException as found:
            message = f"{request.method} {request.path!r}: {found.reason.lower()}"
            error = _error(HTTPStatus(found.status), message)
        return _closing(error)

    async def _model(self, request: web.Request) -> web.Response:
        key: Key = request["key"]
        name = request.match_info["model"]
        route = route_of(key, name)
        return web.json_response(model_body(name, route.name.partition("/")[0]))


def _error(
    status: int, message: str, *, code: str | None = None, param: str | None = None
) -> web.Response:
    body = error_body(status, message, code=code, param=param)
    return web.Response(status=status, body=body, content_type=JSON)


def _closing(response: web.StreamResponse) -> web.StreamResponse:
    response.force_close()
    return response
