"""The Realtime API: a websocket on each side, and what goes between them (I/O).

A session is opened like any request: key, route, limits, tries at one address
after another. Each of its responses then counts as a request of its own, so that
limits and budgets hold within a session, and a kill loses no more than one.
Messages pass one at a time, so whoever is slow slows the other side.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

import aiohttp
import orjson
from aiohttp import web
from aiohttp.typedefs import Handler

from gateway.cold.relay import ColdRuntime
from gateway.cold.turn import Line, Refusal, Turn
from gateway.openai import BadRequest, Request, error_body
from gateway.routing import choose
from gateway.snapshot import Choice, Key
from gateway.usage import Usage

__all__ = ["Realtime", "bearer_of"]

_MAX_MESSAGE = 16 << 20
"""OpenAI's own bound of one event of audio is 15 MiB."""
_BEAT_S = 30.0
"""Between two pings: whoever does not answer one is gone."""
_CLOSE_S = 2.0
"""A side that does not say goodbye is left without it."""
_IN_PROTOCOL = "openai-insecure-api-key."
"""How a browser, which can set no field, names its key."""
_OPENED, _CREATED, _DONE = "session.created", '"response.created"', '"response.done"'
_OK, _LEFT, _BROKEN = 200, 499, 502
_GOING_AWAY, _POLICY, _FAILED = 1001, 1008, 1011
_MAX_CLOSE = 5000
_NO_CLOSE = frozenset({1004, 1005, 1006, 1015})
"""Codes that stand for no close frame, and may be in none (RFC 6455, 7.4.1)."""


def bearer_of(fields: Mapping[bytes, bytes]) -> bytes | None:
    """Read a key from the subprotocols; None: there is none."""
    for name in fields.get(b"sec-websocket-protocol", b"").split(b","):
        _, found, key = name.strip().partition(_IN_PROTOCOL.encode())
        if found:
            return b"Bearer " + key
    return None


class Realtime:
    """The handler of ``/v1/realtime``, and the connections of its sessions."""

    def __init__(self, runtime: ColdRuntime) -> None:
        self._runtime = runtime
        self._client: aiohttp.ClientSession | None = None

    def handlers(self) -> dict[str, Handler]:
        return {"realtime": self.serve}

    async def close(self) -> None:
        if self._client is not None:
            await self._client.close()

    async def serve(self, request: web.Request) -> web.StreamResponse:
        """Serve one session."""
        ready = web.WebSocketResponse(
            protocols=("realtime",),
            heartbeat=_BEAT_S,
            max_msg_size=_MAX_MESSAGE,
            compress=False,
            timeout=_CLOSE_S,
        )
        if not ready.can_prepare(request).ok:
            raise BadRequest("cannot begin a session: this is no websocket")
        model = request.query.get("model", "")
        if not model:
            raise BadRequest("cannot choose a model: `model` is missing", param="model")
        key: Key = request["key"]
        asked = Request("realtime", b"", {"model": model}, model, True, True)
        turn = self._runtime.turn(key, asked, request["fields"])
        try:
            refusal = await turn.admitted
            if refusal is None:
                upstream, line = await self._dial(turn)
        except BaseException:
            turn.end(_LEFT, None)
            raise
        if refusal is not None:
            return _refused(refusal)
        try:
            async with upstream:
                session = _Session(self._runtime, key, asked, turn, line)
                for name, value in session.told():
                    ready.headers[name] = value
                await ready.prepare(request)
                await session.run(ready, upstream)
        finally:
            line.stop("ok", sound=True)
        return ready

    async def _dial(self, turn: Turn) -> tuple[aiohttp.ClientWebSocketResponse, Line]:
        """Connect to one address after another.

        Raises:
            BadRequest: none of them takes the session.
        """
        runtime, tried = self._runtime, set[str]()
        while turn.tries < turn.route.attempts:
            choice = choose(
                turn.route,
                turn.request,
                tried,
                runtime.healths,
                now=runtime.now(),
                random=runtime.random(),
            )
            if choice is None or (
                turn.tries and not runtime.retries(turn.route).spend()
            ):
                break
            line = Line(turn, choice)
            tried.add(choice.address.url)
            try:
                upstream = await self._open(turn, choice)
            except (aiohttp.ClientError, OSError, TimeoutError) as error:
                status = getattr(error, "status", None)
                line.stop(f"status_{status}" if status else "unreachable", sound=False)
                continue
            line.opened()
            turn.on(line)
            return upstream, line
        turn.end(_BROKEN, None)
        raise BadRequest(
            f"no upstream of {turn.request.model!r} takes a session",
            code="upstream_failed",
            status=HTTPStatus.BAD_GATEWAY,
        )

    async def _open(
        self, turn: Turn, choice: Choice
    ) -> aiohttp.ClientWebSocketResponse:
        if self._client is None:
            # Sessions are bounded by limits, not by the library's hundred.
            self._client = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0),
                cookie_jar=aiohttp.DummyCookieJar(),
                middlewares=(_stay,),
            )
        target, address, model = choice.target, choice.address, turn.request.model
        first, *lines = choice.head.decode().split("\r\n")
        path = first.split(" ")[1]
        named = f"model={quote(target.model or model, safe='')}"
        fields = dict(line.split(": ", 1) for line in lines if line)
        del fields["host"], fields["accept-encoding"]
        scheme = "wss" if address.tls else "ws"
        async with asyncio.timeout(turn.route.timeouts.connect):
            return await self._client.ws_connect(
                f"{scheme}://{address.authority.decode()}{path}"
                f"{'&' if '?' in path else '?'}{named}",
                headers={**fields, "x-request-id": turn.request_id.decode()},
                ssl=self._runtime.tls_of(address) if address.tls else True,
                heartbeat=_BEAT_S,
                max_msg_size=_MAX_MESSAGE,
                timeout=aiohttp.ClientWSTimeout(ws_close=_CLOSE_S),
            )


class _Session:
    """One open session: its two sides, and the turn that runs or is awaited."""

    def __init__(
        self, runtime: ColdRuntime, key: Key, asked: Request, turn: Turn, line: Line
    ) -> None:
        self._runtime, self._key, self._asked = runtime, key, asked
        self._line = line
        self._turn = turn
        self._answering = 0
        """Responses that have begun and are not done."""
        self._leave = asyncio.Event()
        turn.swept = self._look

    def told(self) -> list[tuple[str, str]]:
        """Fields that tell the client who answers."""
        lines = self._line.choice.target.lines.decode()
        lines += f"x-request-id: {self._turn.request_id.decode()}\r\n"
        return [(n, v) for n, _, v in (p.partition(": ") for p in lines.splitlines())]

    def _look(self) -> None:
        """Have it end when its key, its address or this process is about to."""
        runtime, key = self._runtime, self._key
        stays = (
            not runtime.draining
            and self._line.choice.address.url in runtime.snapshot.urls
            and runtime.snapshot.key_named(key.name, now=runtime.wall()) is not None
        )
        if not stays and not self._answering:
            self._leave.set()

    async def run(
        self, client: web.WebSocketResponse, upstream: aiohttp.ClientWebSocketResponse
    ) -> None:
        """Pass messages both ways until a side ends it, or it must."""
        inward = asyncio.ensure_future(self._inward(client, upstream))
        outward = asyncio.ensure_future(self._outward(upstream, client))
        leave = asyncio.ensure_future(self._leave.wait())
        tasks = {inward, outward, leave}
        status, code, why = _OK, _GOING_AWAY, b"the gateway or its upstream goes away"
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if outward in done:
                code, why = outward.result()
                status = _BROKEN
            elif inward in done:
                inward.result()
                code, why = _closing_code(client.close_code), b""
                status = _LEFT
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            try:
                await asyncio.gather(
                    client.close(code=code, message=why), upstream.close(code=code)
                )
            finally:
                # A process that drains waits for it, so both sides know by now.
                if self._answering:
                    self._turn.end(status, None)
                else:
                    self._turn.end(_OK, Usage())

    async def _inward(
        self, client: web.WebSocketResponse, upstream: aiohttp.ClientWebSocketResponse
    ) -> None:
        async for message in client:
            if message.type is aiohttp.WSMsgType.BINARY:
                await upstream.send_bytes(message.data)
            elif message.type is aiohttp.WSMsgType.TEXT:
                wrong = _mistake(message.data)
                if wrong is None:
                    await upstream.send_str(message.data)
                else:
                    await client.send_str(_error_event(wrong, "invalid_request"))

    async def _outward(
        self, upstream: aiohttp.ClientWebSocketResponse, client: web.WebSocketResponse
    ) -> tuple[int, bytes]:
        """Pass on what the upstream says; give the code that ends it and why."""
        async for message in upstream:
            data = message.data
            if message.type is aiohttp.WSMsgType.BINARY:
                await client.send_bytes(data)
                continue
            refusal = None
            if '.delta"' in data:
                self._turn.heard()
            elif _CREATED in data:
                self._answering += 1
            elif _DONE in data:
                refusal = await self._done(orjson.loads(data))
            await client.send_str(data)
            if refusal is not None:
                await client.send_str(_error_event(refusal.message, refusal.code))
                return _POLICY, refusal.code.encode()
        code = upstream.close_code
        if self._answering:
            name = self._line.choice.target.upstream.name
            said = _error_event(f"the upstream {name!r} broke off", "upstream_lost")
            with suppress(ConnectionError):
                await client.send_str(said)
        return _closing_code(code, otherwise=_FAILED), b""

    async def _done(self, event: dict[str, Any]) -> Refusal | None:
        """Settle a response before its client sees its end, and ask for the next."""
        self._answering = max(0, self._answering - 1)
        self._turn.end(_OK, _usage_of(event))
        self._turn = turn = self._runtime.turn(
            self._key, self._asked, {b"x-request-id": self._turn.request_id}
        )
        refusal = await turn.admitted
        if refusal is None:
            turn.on(self._line)
            turn.swept = self._look
        return refusal


def _usage_of(event: dict[str, Any]) -> Usage | None:
    response = event.get("response")
    usage = response.get("usage") if isinstance(response, dict) else None
    if not isinstance(usage, dict):
        return None
    details = usage.get("input_token_details") or {}
    return Usage(
        usage.get("input_tokens", 0),
        usage.get("output_tokens", 0),
        details.get("cached_tokens", 0),
    )


def _mistake(data: str) -> str | None:
    """Say what is wrong with a client's event; None: nothing."""
    try:
        event = orjson.loads(data)
    except orjson.JSONDecodeError:
        return "cannot read the event as JSON"
    if not isinstance(event, dict):
        return "cannot read the event: it is not a JSON object"
    session = event.get("session")
    if isinstance(session, dict) and "model" in session:
        # The route, its limits and its price were chosen by the first one.
        return "cannot change `session.model`: it was chosen with the session"
    return None


def _error_event(message: str, code: str) -> str:
    error = orjson.loads(error_body(HTTPStatus.BAD_REQUEST, message, code=code))
    return orjson.dumps({"type": "error", **error}).decode()


def _closing_code(code: int | None, *, otherwise: int = 1000) -> int:
    if code is None or code in _NO_CLOSE or not 1000 <= code < _MAX_CLOSE:  # noqa: PLR2004  the codes' range
        return otherwise
    return code


def _refused(refusal: Refusal) -> web.Response:
    lines = (line.partition(b": ") for line in refusal.lines.splitlines())
    return web.Response(
        status=refusal.status,
        body=error_body(refusal.status, refusal.message, code=refusal.code),
        content_type="application/json",
        headers={name.decode(): value.decode() for name, _, value in lines},
    )


async def _stay(
    request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
) -> aiohttp.ClientResponse:
    """Follow no redirect: it would take the credential where nobody configured it."""
    response = await handler(request)
    if response.status // 100 == 3:  # noqa: PLR2004  the class of redirects
        response.close()
        raise aiohttp.ClientConnectionError("it redirects")
    return response
