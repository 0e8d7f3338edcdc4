"""One request's life: try, hold, fall back, pass the answer on, settle.

The edge starts it, upstream connections and the sweeper call it back, and it
writes to the client. Everything it touches is given to it: it has no clock, no
randomness and no socket of its own, so tests drive it with bytes.
"""

from __future__ import annotations

import math
from http import HTTPStatus

from gateway.accounts import charge, estimate_input
from gateway.answer import (
    Answer,
    Framing,
    Malformed,
    PlainAnswer,
    StreamAnswer,
    UpstreamHead,
)
from gateway.dialects.choose import body_for, error_for, head_for, translation
from gateway.health import Health
from gateway.http1 import response_head
from gateway.limits import Amounts, Limiter
from gateway.openai import WRITES_TOKENS, BadRequest, Request, Source
from gateway.ports import Client, Connection, Runtime, Settled
from gateway.routing import Choice, choose
from gateway.snapshot import Key, Route, Timeouts, Upstream
from gateway.usage import Usage

__all__ = ["Exchange"]

_OK, _BAD_REQUEST = 200, 400
# Not those of an address that is ill: too much asked of it, or not for it.
_SAYS_NOTHING = frozenset({401, 403, 404, 429})
_CLIENT_LEFT = 499  # as nginx says it
_MADE = frozenset({_OK, 502})
_NOTHING = Usage()
# Statuses that say nothing about the request: another try may go through.
_RETRY = frozenset({408, 429, 500, 502, 503, 504, 529})
# Ours or that upstream's fault, never the client's, whose key we have checked.
_REFUSED_US = frozenset({401, 403, 404})
_OVERFLOW = (b"context_length_exceeded", b"maximum context length")
_BACKOFF_S = 0.05
_MAX_BACKOFF_S = 1.0
HOLD_STREAM_S = 5.0
"""How long life signs are held back for the sake of a fallback. Longer, and a
client's own timeout for the first byte would fire."""


class Exchange:
    """Takes one routed request to its end."""

    __slots__ = (
        "_answer",
        "_choice",
        "_connection",
        "_deadline",
        "_fails",
        "_first_at",
        "_framing",
        "_health",
        "_heard_at",
        "_hold_until",
        "_last_at",
        "_refused",
        "_response",
        "_runtime",
        "_sent_at",
        "_trace",
        "_tried",
        "_upstream",
        "client",
        "identity",
        "key",
        "limiters",
        "over",
        "request",
        "request_id",
        "reserved",
        "route",
        "slot",
        "span",
        "started",
        "tries",
    )

    def __init__(
        self,
        runtime: Runtime,
        client: Client,
        *,
        key: Key,
        route: Route,
        request: Request,
        request_id: bytes,
        framing: Framing,
        trace: bytes = b"",
    ) -> None:
        self._trace = trace
        self._runtime, self.client = runtime, client
        self.key, self.route, self.request = key, route, request
        self.request_id, self._framing = request_id, framing
        self.started = runtime.now()
        self._deadline = self.started + route.timeouts.total
        self._hold_until: float | None = None
        self._tried: set[str] = set()
        self._refused = self.over = False
        self.limiters: tuple[Limiter, ...] = ()
        self.reserved: Amounts = {}
        self.slot: int | None = None
        self.identity = b""
        """The start of its record: JSON, without the brace that ends it."""
        self.span: str | None = None
        """Of the trace that it is part of, if it is."""
        self.tries = self._fails = 0
        self._choice: Choice | None = None
        self._upstream: Upstream | None = None
        self._health: Health | None = None
        self._heard_at: float | None = None
        self._connection: Connection | None = None
        self._answer: Answer | None = None
        self._response: tuple[int, bytes] | None = None
        self._sent_at: float | None = None
        self._first_at: float | None = None
        self._last_at = self.started

    # Trying.

    def start(self) -> None:
        """Begin, or go on after a wait."""
        if self.over or self._choice is not None:
            return
        runtime = self._runtime
        # The route of now: addresses come and go while a request waits.
        self.route = runtime.snapshot.routes.get(self.route.name, self.route)
        choice = choose(
            self.route,
            self.request,
            self._tried,
            runtime.healths,
            now=runtime.now(),
            random=runtime.random(),
        )
        if choice is None:
            self._wait()
            return
        self._choice, self._upstream = choice, choice.target.upstream
        self._health = runtime.health(choice.address.url)
        self._health.in_flight += 1
        self._begin(choice, fresh=False)

    resume = start

    def _begin(self, choice: Choice, *, fresh: bool) -> None:
        self._answer = None
        self._sent_at = None
        self._last_at = self._runtime.now()
        self._runtime.connect(choice.address, self, fresh=fresh)

    def _wait(self) -> None:
        """No address is left: those that were tried, or wait for one."""
        now = self._runtime.now()
        if self._tried and not self._refused and self.tries >= self.route.attempts:
            self._give_up()
            return
        if self._hold_until is None:
            self._hold_until = min(now + self.route.hold, self._deadline)
        if now >= self._hold_until:
            self._give_up()
            return
        pause: float | None = None
        if self._tried:
            pause = min(_BACKOFF_S * 2**self._fails, _MAX_BACKOFF_S)
            pause *= 0.5 + self._runtime.random() / 2
            self._fails += 1
        self._tried.clear()
        self._refused = False
        self._runtime.wait(self, pause)

    def connected(self, connection: Connection) -> None:
        choice = self._choice
        if self.over or choice is None:
            connection.abort()
            return
        self._connection = connection
        self.tries += 1
        self._sent_at = self._last_at = self._runtime.now()
        source = self.request.source
        if source is not None:
            self._stream_out(source, connection, choice)
            return
        try:
            body = body_for(self.request, choice.target)
        except BadRequest as bad:
            # It was lent for nothing: not a byte was sent on it.
            connection.abort()
            self._leave("unsaid", sound=None)
            self.refuse(bad.status, str(bad), code=bad.code or "unsupported")
            return
        head = head_for(self.request, choice, body, now=self._runtime.wall())
        connection.send(
            b"%b%bx-request-id: %b\r\ncontent-type: application/json\r\n"
            b"content-length: %d\r\n\r\n%b"
            % (head, self._trace, self.request_id, len(body), body),
            self,
        )

    def _stream_out(
        self, source: Source, connection: Connection, choice: Choice
    ) -> None:
        """Send a body that is not held."""
        model = choice.target.model or self.request.model
        head = choice.target.upstream.heads[choice.address.url, self.request.op]
        length = source.length(model)
        framing = (
            b"transfer-encoding: chunked"
            if length is None
            else b"content-length: %d" % length
        )
        connection.send(
            b"%b%bx-request-id: %b\r\ncontent-type: %b\r\n%b\r\n\r\n"
            % (head, self._trace, self.request_id, source.kind.encode(), framing),
            self,
        )
        connection.upload(source.read(model), chunked=length is None)

    def connect_failed(self, reason: str) -> None:
        """Nobody listens there: it costs no try, but counts against the hold."""
        choice = self._choice
        if self.over or choice is None:
            return
        self._leave(reason, sound=False)
        self._refused = True
        self._tried.add(choice.address.url)
        self.start()

    def _next_try(self, outcome: str, *, sound: bool | None = False) -> None:
        """Leave a try that gave no answer that the client could have."""
        choice = self._choice
        assert choice is not None
        self._leave(outcome, sound=sound)
        self._tried.add(choice.address.url)
        self._answer = None
        if self.tries >= self.route.attempts or not (
            self._runtime.retries(self.route).spend()
        ):
            self._give_up()
        else:
            self.start()

    def _leave(self, outcome: str, *, sound: bool | None) -> None:
        """End a try: ``sound`` says what it tells of the address, None: nothing."""
        choice, health = self._choice, self._health
        if choice is None or health is None:
            return
        self._choice = self._health = self._connection = None
        health.in_flight -= 1
        name, metrics = choice.target.upstream.name, self._runtime.metrics
        metrics.add("bud_gateway_tries_total", name, outcome)
        if sound:
            begun = self._sent_at if self._sent_at is not None else self.started
            heard = self._heard_at if self._heard_at is not None else begun
            health.succeeded(heard - begun)
        elif sound is False and health.failed(self._runtime.now()):
            metrics.add("bud_gateway_ejections_total", name)

    def deny(self, limiter: Limiter, retry_after_s: float) -> None:
        """Refuse, naming who is limited, how, and until when."""
        spent = limiter.kind == "budget"
        seconds = max(1, math.ceil(retry_after_s))
        self.refuse(
            HTTPStatus.TOO_MANY_REQUESTS,
            f"{limiter.scope} has used {limiter.describe()}; try again in {seconds} s",
            code="insufficient_quota" if spent else "rate_limit_exceeded",
            lines=b"retry-after: %d\r\nx-bud-limiter: %b\r\n"
            % (seconds, limiter.id.encode()),
        )

    def _give_up(self) -> None:
        if self._response is not None:
            status, data = self._response
            self._finish(data, status, None)
            return
        if self.tries:
            self.refuse(
                HTTPStatus.BAD_GATEWAY,
                f"no upstream of {self.request.model!r} answered",
                code="upstream_failed",
            )
        else:
            self.refuse(
                HTTPStatus.SERVICE_UNAVAILABLE,
                f"no replica of {self.request.model!r} is ready",
                code="no_replica",
                lines=b"retry-after: 5\r\n",
            )

    def serve(self, kind: bytes, body: bytes, lines: bytes) -> None:
        """Answer with what an upstream said before; ``lines`` tell the client so."""
        route = b"x-bud-route: %b\r\n" % self.route.name.encode()
        head = response_head(
            _OK,
            b"content-type: %b\r\n%b%b%b" % (kind, self._framing.lines, route, lines),
            length=len(body),
            keep_alive=self._framing.keep_alive,
        )
        self._finish(head + body, _OK, None)

    def refuse(
        self,
        status: HTTPStatus,
        message: str,
        *,
        code: str,
        lines: bytes = b"",
    ) -> None:
        """Answer with an error of our own."""
        body = error_for(self.request.client, status, message, code=code)
        head = response_head(
            status,
            b"content-type: application/json\r\n" + lines + self._framing.lines,
            length=len(body),
            keep_alive=self._framing.keep_alive,
        )
        self._finish(head + body, status, None)

    # The answer.

    def answered(self, head: UpstreamHead) -> None:
        """The head of an answer is here."""
        self._heard_at = self._last_at = self._runtime.now()
        choice = self._choice
        assert choice is not None
        framing = self._framing
        framing.lines = b"x-request-id: %b\r\n%bx-bud-tries: %d\r\n" % (
            self.request_id,
            choice.target.lines,
            self.tries,
        )
        way = translation(self.request, choice.target)
        self._answer = (
            StreamAnswer(head, framing, way, hide_usage=not self.request.wants_usage)
            if head.event_stream
            else PlainAnswer(head, framing, way)
        )

    def received(self, data: bytes) -> None:
        """Bytes of the answer's body are here."""
        answer = self._answer
        assert answer is not None
        self._last_at = now = self._runtime.now()
        try:
            out = answer.feed(data)
        except Malformed:
            self._abandon("malformed")
            return
        if not answer.committed:
            if isinstance(answer, StreamAnswer) and answer.error is not None:
                self._abandon("stream_error")
            return
        if self._first_at is None:
            self._first_at = now
        if out:
            self.client.write(out)

    def passed(self, framed: bytes) -> bool:
        """Pass one whole chunk on as it came; false: `received` must have it."""
        answer = self._answer
        if not (isinstance(answer, StreamAnswer) and answer.passes(framed)):
            return False
        self._last_at = self._runtime.now()
        self.client.write(framed)
        return True

    def completed(self) -> None:
        """The answer is whole."""
        answer = self._answer
        assert answer is not None
        self._connection = None
        try:
            if self._is_no_answer(answer):
                return
            last = answer.end()
        except Malformed:
            if answer.committed:
                self._break_off(answer, "malformed")
            else:
                self._next_try("malformed")
            return
        status = answer.head.status
        self._leave("ok" if status < _BAD_REQUEST else "refused", sound=True)
        self._finish(last, status, answer.usage)

    def _is_no_answer(self, answer: Answer) -> bool:
        """Go on elsewhere with what is whole but no answer for the client."""
        if answer.committed:
            return False
        if isinstance(answer, StreamAnswer):
            if answer.error is not None:
                self._next_try("stream_error")
                return True
            return False
        assert isinstance(answer, PlainAnswer)
        return self._should_retry(answer)

    def _should_retry(self, answer: PlainAnswer) -> bool:
        """Go on elsewhere if another upstream may do better."""
        status, body = answer.head.status, answer.body
        overflow = status == _BAD_REQUEST and any(m in body for m in _OVERFLOW)
        if not overflow and status not in _RETRY and status not in _REFUSED_US:
            return False
        # A refusal of our credential must not look like one of the client's.
        self._response = None if status in {401, 403} else (status, answer.end())
        if status == HTTPStatus.TOO_MANY_REQUESTS and self._health is not None:
            asked = answer.head.fields.get(b"retry-after", b"")
            if asked.isdigit():
                self._health.rest(self._runtime.now(), int(asked[:9]))
        sound = None if overflow or status in _SAYS_NOTHING else False
        self._next_try(f"status_{status}", sound=sound)
        return True

    def lost(self, reason: str) -> None:
        """The upstream's connection is gone before the answer was whole."""
        connection, self._connection = self._connection, None
        answer, choice = self._answer, self._choice
        if self.over or choice is None:
            return
        if answer is None and connection is not None and connection.reused:
            # It was closed while idle, which says nothing about the upstream.
            self.tries -= 1
            self._begin(choice, fresh=True)
        elif answer is None or not answer.committed:
            self._next_try(reason)
        elif isinstance(answer, StreamAnswer) and answer.done:
            self._leave("ok", sound=True)
            self._finish(answer.end(), _OK, answer.usage)
        else:
            self._break_off(answer, reason)

    def _break_off(self, answer: Answer, reason: str) -> None:
        name = self._upstream.name if self._upstream is not None else ""
        self._leave(reason, sound=False)
        last = answer.broken(f"the upstream {name!r} broke off: {reason}")
        if last is None:
            self._settle(HTTPStatus.BAD_GATEWAY, answer.usage)
            self.client.cut()
        else:
            self._finish(last, HTTPStatus.BAD_GATEWAY, answer.usage)

    # Time, and a client that leaves.

    def sweep(self, now: float) -> None:
        """Look for what has taken too long; called a few times a second."""
        times = self.route.timeouts
        if now >= self._deadline:
            self._time_out("total_timeout", times)
        elif self._choice is None:
            if self._hold_until is not None and now >= self._hold_until:
                self._give_up()
        elif self._sent_at is not None:
            self._sweep_answer(now, times)

    def _sweep_answer(self, now: float, times: Timeouts) -> None:
        answer = self._answer
        assert self._sent_at is not None
        if isinstance(answer, StreamAnswer) and not answer.committed:
            if answer.events and now - self._sent_at >= HOLD_STREAM_S:
                self._first_at = now
                self.client.write(answer.commit())
            elif now - self._sent_at >= times.first:
                self._abandon("first_timeout")
        elif answer is None:
            if self.request.stream and now - self._sent_at >= times.first:
                self._abandon("first_timeout")
        elif now - self._last_at >= times.stall:
            self._abandon("stall_timeout")

    def _abandon(self, outcome: str) -> None:
        """Leave the upstream, which stops its work, and go on without it."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.abort()
        answer = self._answer
        if answer is not None and answer.committed:
            self._break_off(answer, outcome)
        else:
            self._next_try(outcome)

    def _time_out(self, outcome: str, times: Timeouts) -> None:
        if self._answer is not None and self._answer.committed:
            self._abandon(outcome)
            return
        if self._connection is not None:
            self._connection.abort()
        self._leave(outcome, sound=False)
        self.refuse(
            HTTPStatus.GATEWAY_TIMEOUT,
            f"no answer within {times.total:g} s",
            code="timeout",
        )

    def client_gone(self) -> None:
        """Nobody reads the answer any more: stop the upstream's work."""
        if self.over:
            return
        if self._connection is not None:
            self._connection.abort()
        self._leave("client_left", sound=None)
        answer = self._answer
        self._settle(_CLIENT_LEFT, answer.usage if answer is not None else None)

    def client_slow(self, slow: bool) -> None:  # noqa: FBT001  as asyncio says it
        if self._connection is not None:
            (self._connection.pause if slow else self._connection.resume)()
            # A silence that the client imposes is not the upstream's.
            self._last_at = math.inf if slow else self._runtime.now()

    # The end.

    def _finish(self, data: bytes, status: int, usage: Usage | None) -> None:
        if self._first_at is None:
            self._first_at = self._runtime.now()
        self._settle(status, usage)
        self.client.write(data)
        self.client.finish()

    def _settle(self, status: int, usage: Usage | None) -> None:
        self.over = True
        now, answer = self._runtime.now(), self._answer
        estimated = False
        if usage is None:
            usage = _NOTHING
            # Whoever reads half an answer, or leaves, has still had it made.
            begun = answer is not None and answer.committed and status in _MADE
            if self.request.op in WRITES_TOKENS and (
                begun or (status == _CLIENT_LEFT and self.tries)
            ):
                estimated = True
                usage = Usage(estimate_input(self.request.raw), self.chunks)
        first, upstream = self._first_at, self._upstream
        self._runtime.settled(
            self,
            Settled(
                upstream,
                int(status),
                usage,
                0 if upstream is None else charge(usage, upstream.price),
                estimated,
                now - self.started,
                None if first is None else first - self.started,
                self.chunks,
            ),
        )

    @property
    def chunks(self) -> int:
        """Events of the stream so far."""
        answer = self._answer
        return answer.events if isinstance(answer, StreamAnswer) else 0
