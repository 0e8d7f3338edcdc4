"""The client's side: one connection, one request at a time (I/O).

Reads a request, checks its key before its body is taken in, answers what needs
no upstream and starts an exchange for the rest. A path that is not hot is
handed, bytes and all, to the aiohttp application. It never chooses an upstream.
"""

from __future__ import annotations

import asyncio
import math
from http import HTTPStatus
from typing import NamedTuple, Protocol, cast

import orjson

from gateway.answer import Framing
from gateway.dialects.anthropic_client import chat_request
from gateway.dialects.choose import error_for
from gateway.entry import NO_KEY, key_of, request_id_of, route_of, trace_lines
from gateway.exchange import Exchange
from gateway.hedging import Hedged, is_safe
from gateway.http1 import Head, Refused, RequestReader, response_head
from gateway.openai import (
    HELD_BYTES,
    HOT_PATHS,
    BadRequest,
    Client,
    Op,
    Request,
    read_object,
    read_request,
    request_of,
)
from gateway.ports import Runtime
from gateway.snapshot import Key, Snapshot

__all__ = ["Downstream", "EdgeRuntime"]

_MAX_WAITING = 64 * 1024
"""Bytes of a next request that are taken in while one is being answered."""
_LINGER_S = 2.0
"""How long a refused client may go on sending before it is cut."""
_MIN_RATE = 1024
"""Bytes a second that a body must come with once its head timeout is over."""
_MODELS = b"/v1/models"
_MESSAGES = b"/v1/messages"
_ALSO_HOT = frozenset({_MODELS, _MESSAGES})
_JSON = b"content-type: application/json\r\n"


class EdgeRuntime(Runtime, Protocol):
    """What the worker lends to its client connections."""

    draining: bool

    def new_request_id(self) -> bytes: ...
    def admit(self, exchange: Exchange) -> None:
        """Start it, now or once its limits let it, behind the gate if it has one."""
        ...

    def joined(self, connection: Downstream) -> bool:
        """Count a connection in; false: there are too many."""
        ...

    def left(self, connection: Downstream) -> None: ...
    def cold(self) -> asyncio.Protocol:
        """Make the protocol that serves what is not hot."""
        ...


class Caller(NamedTuple):
    """Who sends a head, as far as it can be known from it and a snapshot."""

    head: Head
    snapshot: Snapshot
    key: Key
    op: Op | None
    client: Client
    request_id: bytes | None
    """The client's own."""
    trace: bytes

    def holds(self, runtime: Runtime) -> bool:
        """Say whether all of it would be found again behind the same head."""
        expires = self.key.expires
        return self.snapshot is runtime.snapshot and (
            expires is None or runtime.wall() < expires
        )


class Downstream(asyncio.Protocol):
    """One connection of one client."""

    def __init__(self, runtime: EdgeRuntime) -> None:
        self._runtime = runtime
        listener = runtime.snapshot.listener
        self._reader = RequestReader(
            max_head=listener.max_head.bytes, max_body=listener.max_body.bytes
        )
        self._transport: asyncio.Transport | None = None
        self._exchange: Exchange | None = None
        self._caller: Caller | None = None
        self._keep_alive = True
        self._paused = self._advancing = self._lingering = False
        self._request_id = b""
        self._client: Client = "openai"
        self._framing = Framing(keep_alive=True, chunked=True)
        self._begun_at = self._quiet_since = runtime.now()
        self.slow_since: float | None = None

    # What asyncio calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports do not derive from asyncio's, but are used alike.
        self._transport = cast("asyncio.Transport", transport)
        if not self._runtime.joined(self):
            self.cut()

    def connection_lost(self, error: Exception | None) -> None:  # noqa: ARG002
        self._transport = None
        self._runtime.left(self)
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.client_gone()

    def eof_received(self) -> bool:
        # Clients that give up close both ways, and look just like one that only
        # will not send any more; the GPU's work is worth more than the latter.
        return False

    def data_received(self, data: bytes) -> None:
        if self._lingering:
            return
        runtime, reader, caller = self._runtime, self._reader, self._caller
        if caller is not None and self._exchange is None:
            # Programs send one head again and again: then only the body is new.
            body = reader.again(data)
            if body is not None and len(body) <= HELD_BYTES and caller.holds(runtime):
                self._repeat(caller, body)
                return
        if not reader.received:
            self._begun_at = runtime.now()
        reader.push(data)
        if self._exchange is None:
            self._advance()
        elif reader.waiting > _MAX_WAITING and not self._paused:
            self._paused = True
            assert self._transport is not None
            self._transport.pause_reading()

    def pause_writing(self) -> None:
        self.slow_since = self._runtime.now()
        if self._exchange is not None:
            self._exchange.client_slow(True)

    def resume_writing(self) -> None:
        self.slow_since = None
        if self._exchange is not None:
            self._exchange.client_slow(False)

    # Reading.

    def _advance(self) -> None:
        """Take in as many requests as are here and can be answered at once."""
        if self._advancing:
            return
        self._advancing = True
        while self._exchange is None and self._transport is not None and self._step():
            pass
        self._advancing = False

    def _step(self) -> bool:
        """Read on; false: nothing more can be done with what is here."""
        reader = self._reader
        try:
            if reader.head is None and not (reader.read_head() and self._admit()):
                return False
            if not reader.read_body():
                return False
            assert self._caller is not None
            self._serve(self._caller, reader.body())
        except Refused as refused:
            self._runtime.metrics.add(
                "bud_gateway_refused_total", str(int(refused.status))
            )
            self._keep_alive = False
            self._lingering = True
            self._reply(
                refused.status,
                error_for(self._client, refused.status, str(refused)),
                refused.lines,
            )
        except BadRequest as bad:
            self._reject(bad)
        return self._reader.waiting > 0 and not self._lingering

    def _repeat(self, caller: Caller, body: bytes) -> None:
        """Serve a request that came whole, from whom the last one was from."""
        self._frame(caller.head, caller.request_id)
        try:
            self._serve(caller, body)
        except BadRequest as bad:
            self._reject(bad)

    def _reject(self, bad: BadRequest) -> None:
        self._runtime.metrics.add("bud_gateway_refused_total", str(int(bad.status)))
        body = error_for(
            self._client, bad.status, str(bad), code=bad.code, param=bad.param
        )
        self._reply(bad.status, body)

    def _admit(self) -> bool:
        """Judge the head: is the body worth taking in?"""
        head, runtime, length = self._reader.head, self._runtime, self._reader.length
        assert head is not None
        caller, self._caller = self._caller, None
        if (
            caller is not None
            and caller.head is head
            and length <= HELD_BYTES
            and caller.holds(runtime)
        ):
            self._caller = caller
            self._frame(head, caller.request_id)
            self._expect(head)
            return True
        given = request_id_of(head.fields)
        self._frame(head, given)
        self._client = "anthropic" if head.path == _MESSAGES else "openai"
        if _is_cold(head, length, runtime.snapshot.listener.max_body.bytes):
            self._hand_over()
            return False
        key = self._authenticate(head)
        if head.path != _MODELS and head.method != b"POST":
            raise Refused(
                HTTPStatus.METHOD_NOT_ALLOWED,
                "only POST is served here",
                b"allow: POST\r\n",
            )
        coding = head.fields.get(b"content-encoding")
        if coding is not None and coding.lower() != b"identity":
            raise Refused(
                HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "a compressed body is not read"
            )
        self._caller = Caller(
            head,
            runtime.snapshot,
            key,
            HOT_PATHS.get(head.path),
            self._client,
            given,
            trace_lines(head.fields),
        )
        self._expect(head)
        return True

    def _frame(self, head: Head, given: bytes | None) -> None:
        runtime, framing = self._runtime, self._framing
        self._request_id = given or runtime.new_request_id()
        self._keep_alive = head.keep_alive and not runtime.draining
        framing.keep_alive, framing.chunked = self._keep_alive, not head.http10

    def _expect(self, head: Head) -> None:
        expected = head.fields.get(b"expect")
        if expected is None:
            return
        if expected.lower() != b"100-continue":
            raise Refused(HTTPStatus.EXPECTATION_FAILED, "only 100-continue is known")
        if not self._reader.waiting:
            self.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _authenticate(self, head: Head) -> Key:
        runtime = self._runtime
        key = key_of(runtime.snapshot, head.fields, now=runtime.wall())
        if key is None:
            raise Refused(
                HTTPStatus.UNAUTHORIZED, NO_KEY, b"www-authenticate: Bearer\r\n"
            )
        return key

    def _hand_over(self) -> None:
        """Give the connection to the aiohttp application, for good."""
        transport, self._transport = self._transport, None
        assert transport is not None
        self._runtime.left(self)
        protocol = self._runtime.cold()
        transport.set_protocol(protocol)
        protocol.connection_made(transport)
        protocol.data_received(self._reader.take_raw())

    # Answering.

    def _serve(self, caller: Caller, body: bytes) -> None:
        if caller.op is not None:
            self._start(caller, read_request(caller.op, body))
        elif caller.client == "anthropic":
            document = chat_request(read_object(body))
            raw = orjson.dumps(document)
            request = request_of("chat", raw, document, client="anthropic")
            self._start(caller, request)
        elif caller.head.method != b"GET":
            raise Refused(
                HTTPStatus.METHOD_NOT_ALLOWED,
                "only GET is served here",
                b"allow: GET\r\n",
            )
        else:
            self._reply(HTTPStatus.OK, caller.key.models)

    def _start(self, caller: Caller, request: Request) -> None:
        key = caller.key
        route = route_of(key, request.model, request.op)
        twice = route.hedge is not None and is_safe(request)
        kind = Hedged if twice else Exchange
        self._exchange = exchange = kind(
            self._runtime,
            self,
            key=key,
            route=route,
            request=request,
            request_id=self._request_id,
            framing=self._framing,
            trace=caller.trace,
        )
        self._runtime.admit(exchange)

    def _reply(self, status: int, body: bytes, lines: bytes = b"") -> None:
        """Answer from here, without an exchange."""
        request_id = self._request_id or self._runtime.new_request_id()
        fields = b"%bx-request-id: %b\r\n%b" % (_JSON, request_id, lines)
        head = response_head(
            status,
            fields,
            length=len(body),
            keep_alive=self._keep_alive,
        )
        self.write(head + body)
        self._ended()

    def write(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.write(data)

    def finish(self) -> None:
        """End what an exchange answered; the next request may be waiting."""
        if self._exchange is None:
            return  # the client is gone
        self._exchange = None
        self._ended()
        if self._paused and self._transport is not None:
            self._paused = False
            self._transport.resume_reading()
        if self._reader.waiting:
            self._advance()

    def _ended(self) -> None:
        self._begun_at = self._quiet_since = self._runtime.now()
        self._request_id = b""
        self._reader.next()
        transport = self._transport
        if transport is None or self._keep_alive:
            return
        if self._lingering and transport.can_write_eof():
            # Closing now, with bytes unread, would reset the connection and the
            # client might never see the answer: say that it is over and wait.
            transport.write_eof()
        else:
            transport.close()
            self._transport = None

    def cut(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    # What the sweeper calls.

    def sweep(self, now: float) -> None:
        """Cut what is silent, dribbles, or never reads what it asked for."""
        listener = self._runtime.snapshot.listener
        if self._lingering:
            late = now - self._quiet_since >= _LINGER_S
        elif self.slow_since is not None:
            late = now - self.slow_since >= listener.idle.seconds
        elif self._exchange is not None:
            late = False  # its exchange keeps the time
        elif self._reader.received:
            over = now - self._begun_at - listener.head_timeout.seconds
            floor = over * _MIN_RATE if self._reader.head is not None else math.inf
            late = over >= 0 and self._reader.received <= floor
        else:
            late = now - self._quiet_since >= listener.idle.seconds
        if late:
            self.cut()

    def close_if_idle(self) -> None:
        if self._exchange is None and self._transport is not None:
            self._transport.close()
        self._keep_alive = False
        self._framing.keep_alive = False


def _is_cold(head: Head, length: int, max_body: int) -> bool:
    """Tell what the aiohttp application serves: other paths, and large bodies."""
    if head.path in HOT_PATHS:
        return head.method == b"POST" and HELD_BYTES < length <= max_body
    return head.path not in _ALSO_HOT
