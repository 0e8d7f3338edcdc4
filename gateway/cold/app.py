"""What is not hot, on the same port: an aiohttp application (I/O).

The edge hands a whole connection over at the first bytes of a request for any
path that it does not serve itself. Every answer closes the connection, so that
a client's next hot request finds the edge again.
"""

from __future__ import annotations

import asyncio
from http import HTTPStatus

import structlog
from aiohttp import web
from aiohttp.typedefs import Handler

from gateway.cold import batches, counting, files, responses, uploads
from gateway.cold.batch_run import BatchRunner
from gateway.cold.call import Broken
from gateway.cold.jobs import Jobs, Trade
from gateway.cold.realtime import Realtime, bearer_of
from gateway.cold.relay import JSON, ColdRuntime
from gateway.dialects.choose import error_for
from gateway.documents import Kind
from gateway.entry import NO_KEY, key_of, route_of
from gateway.openai import BadRequest, Client, model_body
from gateway.openapi import document
from gateway.operations import COUNT_TOKENS, OPENAPI, OPERATIONS, REALTIME
from gateway.snapshot import Key

__all__ = ["ColdSide"]

_log = structlog.get_logger("gateway")
_BATCHES, _RESPONSES = 4, 64
"""That one worker runs together; a response is one request, a batch many."""


class ColdSide:
    """Makes protocols for connections that are handed over."""

    def __init__(self, runtime: ColdRuntime) -> None:
        self._runtime = runtime
        app = web.Application(
            middlewares=[self._guard],
            client_max_size=runtime.snapshot.listener.max_body.bytes,
        )
        app.router.add_get(OPENAPI, _openapi, allow_head=False)
        handlers: dict[str, Handler] = {"model": self._model}
        for part in (uploads, files, batches, responses, counting):
            handlers |= part.handlers(runtime)
        self._realtime = Realtime(runtime)
        handlers |= self._realtime.handlers()
        for operation in OPERATIONS:
            # What has no handler here is small and hot: the edge's.
            if operation.id in handlers:
                path = operation.path.replace("{model}", "{model:.+}")
                app.router.add_route(operation.method, path, handlers[operation.id])
        self._jobs: Jobs | None = None
        self._working: asyncio.Task[None] | None = None
        if runtime.store is not None:
            runner = BatchRunner(runtime, runtime.store)
            answering = responses.ResponseRunner(runtime)
            trades: dict[Kind, Trade] = {
                "response": Trade(do=answering.run, at_once=_RESPONSES),
                "batch": Trade(do=runner.run, at_once=_BATCHES),
            }
            self._jobs = Jobs(runtime.store, trades, runtime.wall)
        # A client that leaves cancels its handler, which stops the upstream.
        self._runner = web.AppRunner(
            app, access_log=None, handle_signals=False, handler_cancellation=True
        )

    async def start(self) -> None:
        await self._runner.setup()
        if self._jobs is not None:
            loop = asyncio.get_running_loop()
            self._working = loop.create_task(self._jobs.run())

    def wake_jobs(self) -> None:
        if self._jobs is not None:
            self._jobs.wake()

    async def hand_on(self) -> None:
        """Stop what outlives requests; another worker goes on with it."""
        if self._working is not None:
            self._working.cancel()
            await asyncio.wait({self._working})

    async def close(self) -> None:
        await self.hand_on()
        await self._runner.cleanup()
        await self._realtime.close()

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
        if request.path == OPENAPI:
            return _closing(await handler(request))  # the same for everybody
        if request.path == REALTIME and (given := bearer_of(fields)) is not None:
            fields.setdefault(b"authorization", given)
        key = key_of(runtime.snapshot, fields, now=runtime.wall())
        if key is None:
            answer = _error(request, HTTPStatus.UNAUTHORIZED, NO_KEY)
            answer.headers["www-authenticate"] = "Bearer"
            return _closing(answer)
        request["key"], request["fields"] = key, fields
        try:
            return _closing(await handler(request))
        except BadRequest as bad:
            error = _error(
                request, bad.status, str(bad), code=bad.code, param=bad.param
            )
        except Broken:
            error = _error(request, HTTPStatus.BAD_GATEWAY, "the upstream broke off")
        except TimeoutError:
            error = _error(
                request, HTTPStatus.REQUEST_TIMEOUT, "the body stopped coming"
            )
        except web.HTTPException as found:
            message = f"{request.method} {request.path!r}: {found.reason.lower()}"
            error = _error(request, HTTPStatus(found.status), message)
            if "allow" in found.headers:
                error.headers["allow"] = found.headers["allow"]
        except Exception:  # noqa: BLE001
            # A client is told in its own API's shape, whatever is wrong here.
            _log.exception("cannot answer", method=request.method, path=request.path)
            error = _error(
                request, HTTPStatus.INTERNAL_SERVER_ERROR, "the gateway failed"
            )
        return _closing(error)

    async def _model(self, request: web.Request) -> web.Response:
        key: Key = request["key"]
        name = request.match_info["model"]
        route = route_of(key, name)
        return web.json_response(model_body(name, route.name.partition("/")[0]))


async def _openapi(_: web.Request) -> web.Response:
    return web.json_response(document())


def _error(
    request: web.Request,
    status: int,
    message: str,
    *,
    code: str | None = None,
    param: str | None = None,
) -> web.Response:
    client: Client = "anthropic" if request.path == COUNT_TOKENS else "openai"
    body = error_for(client, status, message, code=code, param=param)
    return web.Response(status=status, body=body, content_type=JSON)


def _closing(response: web.StreamResponse) -> web.StreamResponse:
    response.force_close()
    return response
