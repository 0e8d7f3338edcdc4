"""Requests that come from inside: of the aiohttp side, of the gate, and shadows (I/O).

Each is an exchange like any other, with limits, tries and records; only its
client is a coroutine of this process. Made by the worker.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import orjson

from gateway.answer import Framing
from gateway.cold.call import Broken, Call
from gateway.cold.turn import Turn
from gateway.entry import request_id_of, route_of, trace_lines
from gateway.exchange import Exchange
from gateway.gating import Shadow
from gateway.openai import Op, Request, request_of
from gateway.snapshot import Key, Route

if TYPE_CHECKING:
    from gateway.runtime import Worker

__all__ = ["Calls"]

_ANY_MODEL = "omni-moderation-latest"
"""For an upstream that names no model itself: what OpenAI calls its newest."""
_MIRRORS = 256
"""Shadows that one worker talks to at once: one that is slow must not pile up."""


class Calls:
    """What one worker asks by itself."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._mirrors: set[asyncio.Task[None]] = set()

    def call(self, key: Key, request: Request, fields: Mapping[bytes, bytes]) -> Call:
        """Begin an exchange; ``fields`` are the client's, by lower-case name.

        Raises:
            BadRequest: the key may not, or nothing can.
        """
        route = route_of(key, request.model, request.op)
        return self._begin(key, route, request, fields)

    def turn(self, key: Key, request: Request, fields: Mapping[bytes, bytes]) -> Turn:
        """Ask for a turn of a session.

        Raises:
            BadRequest: the key may not, or nothing can.
        """
        worker = self._worker
        turn = Turn(
            worker,
            Call(),
            key=key,
            route=route_of(key, request.model, request.op),
            request=request,
            request_id=request_id_of(fields) or worker.new_request_id(),
            framing=Framing(keep_alive=True, chunked=False),
            trace=trace_lines(fields),
        )
        worker.admit(turn)
        return turn

    def _begin(
        self, key: Key, route: Route, request: Request, fields: Mapping[bytes, bytes]
    ) -> Call:
        worker, call = self._worker, Call()
        call.exchange = Exchange(
            worker,
            call,
            key=key,
            route=route,
            request=request,
            request_id=request_id_of(fields) or worker.new_request_id(),
            framing=Framing(keep_alive=True, chunked=False),
            trace=trace_lines(fields),
        )
        worker.admit(call.exchange)
        return call

    def mirror(self, exchange: Exchange, shadow: Shadow) -> None:
        """Ask somebody else the same, for nobody to see."""
        worker = self._worker
        route = worker.snapshot.services.get(shadow.service)
        request, key = exchange.request, exchange.key
        if route is None or request.source is not None or request.op not in route.ops:
            return
        if len(self._mirrors) >= _MIRRORS:
            worker.metrics.add("bud_gateway_shadow_skipped_total", exchange.route.name)
            return
        project = key.name.partition("/")[0]
        payer = replace(key, name=f"{project}/shadow", limiters=())
        # Its guardrails change the words of a request in place.
        copy = request._replace(document=orjson.loads(request.raw))
        heard = _listen(self._begin(payer, route, copy, {}))
        task = asyncio.get_running_loop().create_task(heard)
        self._mirrors.add(task)
        task.add_done_callback(self._mirrors.discard)

    async def ask(
        self, exchange: Exchange, upstream: str, op: Op, document: dict[str, Any]
    ) -> bytes | None:
        """Ask what judges or embeds texts, at the cost of whose exchange it is."""
        route = self._worker.snapshot.services.get(upstream)
        if route is None:
            return None  # it has just left the config
        document = {"model": _ANY_MODEL, **document}
        request = request_of(op, orjson.dumps(document), document)
        # Its limits have let the exchange in already.
        call = self._begin(replace(exchange.key, limiters=()), route, request, {})
        try:
            reply, answer = await call.reply(), await call.whole()
        except Broken:
            return None
        finally:
            call.close()
        return answer if reply.status == HTTPStatus.OK else None


async def _listen(call: Call) -> None:
    with suppress(Broken):
        await call.reply()
        async for _ in call.body():
            pass
