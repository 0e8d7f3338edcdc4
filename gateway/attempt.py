"""One try of one request at one address: connect, ask, pass the answer on.

An exchange begins it and is told how it ended; in between the pool, the
connection and the sweeper call it. It says what became of its address and its
answer, and never what is tried next.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from gateway.answer import (
    TAIL,
    Answer,
    Malformed,
    PlainAnswer,
    StreamAnswer,
    UpstreamHead,
)
from gateway.dialects.choose import body_for, head_for, translation
from gateway.openai import BadRequest, Source, upstream_body
from gateway.ports import Connection
from gateway.snapshot import Choice
from gateway.sse import StreamScanner
from gateway.usage import find_usage
from gateway.verdict import verdict_of

if TYPE_CHECKING:
    from gateway.exchange import Exchange

__all__ = ["HOLD_STREAM_S", "Attempt"]

_OK, _BAD_REQUEST, _BAD_GATEWAY = 200, 400, 502
_JSON_ENDS = (b"}", b"}\n")
"""What ends otherwise is looked at more closely: it may have been cut."""
HOLD_STREAM_S = 5.0
"""How long life signs are held back for the sake of a fallback. Longer, and a
client's own timeout for the first byte would fire."""


class Attempt:
    """Takes one try from the choice of an address to the end of its answer."""

    __slots__ = (
        "_connection",
        "_exchange",
        "_health",
        "_heard_at",
        "_last_at",
        "_runtime",
        "_scanner",
        "_sent_at",
        "answer",
        "choice",
        "live",
    )

    def __init__(self, exchange: Exchange, choice: Choice) -> None:
        self._exchange = exchange
        self._runtime = runtime = exchange.runtime
        self.choice = choice
        self._health = health = runtime.health(choice.address.url)
        health.in_flight += 1
        self.live = True
        self.answer: Answer | None = None
        self._scanner: StreamScanner | None = None
        """Looks at chunks that go on as they came."""
        self._connection: Connection | None = None
        self._sent_at: float | None = None
        self._heard_at: float | None = None
        self._last_at = 0.0

    @property
    def committed(self) -> bool:
        """The client has had something of the answer."""
        return self.answer is not None and self.answer.committed

    @property
    def chunks(self) -> int:
        """Events of the stream so far."""
        return 0 if self.answer is None else self.answer.events

    @property
    def asked(self) -> bool:
        """The upstream has the request."""
        return self._sent_at is not None

    # Asking.

    def begin(self, *, fresh: bool = False) -> None:
        """Ask for a connection; ``fresh``: for one that nobody has used."""
        self._sent_at = None
        limit_s = self._exchange.route.timeouts.connect
        self._runtime.connect(self.choice.address, self, limit_s=limit_s, fresh=fresh)

    def connected(self, connection: Connection) -> None:
        if not self.live:
            connection.abort()
            return
        exchange, choice = self._exchange, self.choice
        self._connection = connection
        exchange.tries += 1
        self._sent_at = self._last_at = self._runtime.now()
        request = exchange.request
        if request.source is not None:
            self._stream_out(request.source, connection)
            return
        if choice.plain:
            head, body = choice.head, upstream_body(request, choice.target.model)
        else:
            try:
                body = body_for(request, choice.target)
            except BadRequest as bad:
                # It was lent for nothing: not a byte was sent on it.
                self.stop("unsaid", sound=None)
                exchange.unsaid(self, bad)
                return
            head = head_for(request, choice, body, now=self._runtime.wall())
        connection.send(
            b"%b%bx-request-id: %b\r\ncontent-type: application/json\r\n"
            b"content-length: %d\r\n\r\n%b"
            % (head, exchange.trace, exchange.request_id, len(body), body),
            self,
        )

    def _stream_out(self, source: Source, connection: Connection) -> None:
        """Send a body that is not held."""
        exchange, choice = self._exchange, self.choice
        model = choice.target.model or exchange.request.model
        length = source.length(model)
        framing = (
            b"transfer-encoding: chunked"
            if length is None
            else b"content-length: %d" % length
        )
        kind = source.kind.encode()
        connection.send(
            b"%b%bx-request-id: %b\r\ncontent-type: %b\r\n%b\r\n\r\n"
            % (choice.head, exchange.trace, exchange.request_id, kind, framing),
            self,
        )
        connection.upload(source.read(model), chunked=length is None)

    def connect_failed(self, reason: str) -> None:
        if self.live:
            self._leave(reason, sound=False)
            self._exchange.unreachable(self)

    # The answer.

    def answered(self, head: UpstreamHead) -> None:
        """The head of an answer is here."""
        self._heard_at = self._last_at = self._runtime.now()
        exchange, lines = self._exchange, self._lines()
        framing, request = exchange.framing, exchange.request
        way = translation(request, self.choice.target)
        self.answer = (
            StreamAnswer(head, framing, lines, way, hide_usage=not request.wants_usage)
            if head.event_stream
            else PlainAnswer(head, framing, lines, way)
        )

    def _lines(self) -> bytes:
        """Tell the client who answered."""
        return b"x-request-id: %b\r\n%bx-bud-tries: %d\r\n" % (
            self._exchange.request_id,
            self.choice.target.lines,
            self._exchange.tries,
        )

    def received(self, data: bytes) -> None:
        """Bytes of the answer's body are here."""
        answer = self.answer
        assert answer is not None
        self._last_at = self._runtime.now()
        try:
            out = answer.feed(data)
        except Malformed:
            self.abandon("malformed")
            return
        if answer.committed:
            if isinstance(answer, StreamAnswer):
                self._scanner = answer.raw_scanner
            self._exchange.pass_on(out)
        elif isinstance(answer, StreamAnswer) and answer.error is not None:
            self.abandon("stream_error")

    def passed(self, framed: bytes) -> bool:
        """Pass whole chunks on as they came; false: `received` must have them."""
        scanner = self._scanner
        if scanner is None or not scanner.passes(framed):
            return False
        self._last_at = self._runtime.now()
        self._exchange.client.write(framed)
        return True

    def whole(self, head: UpstreamHead, body: bytes) -> None:
        """An answer with status 200, and no stream, is here in one piece."""
        exchange = self._exchange
        self._connection = None  # it may be another's already
        if (
            not self.choice.plain
            or exchange.request.client != "openai"
            or not body.endswith(_JSON_ENDS)
        ):
            self.answered(head.with_length(len(body)))
            self.received(body)
            self.completed()
            return
        self._heard_at = self._runtime.now()
        lines, length = head.told + self._lines(), len(body)
        self._leave("ok", sound=True)
        answer = exchange.framing.head(_OK, lines, length=length) + body
        exchange.finish(answer, _OK, find_usage(body[-TAIL:]))

    def completed(self) -> None:
        """The answer is whole."""
        answer = self.answer
        assert answer is not None
        self._connection = None
        try:
            if not answer.committed and self._is_no_answer(answer):
                return
            last = answer.end()
        except Malformed:
            self.abandon("malformed")
            return
        status = answer.head.status
        self._leave("ok" if status < _BAD_REQUEST else "refused", sound=True)
        self._exchange.finish(last, status, answer.usage)

    def _is_no_answer(self, answer: Answer) -> bool:
        """Give up what is whole, but no answer for the client while others may do."""
        if isinstance(answer, StreamAnswer):
            if answer.error is not None:
                self._fail("stream_error")
            return answer.error is not None
        assert isinstance(answer, PlainAnswer)
        status = answer.head.status
        verdict = verdict_of(status, answer.head.fields, answer.body)
        if verdict is None:
            return False
        self._exchange.spare = (status, answer.end()) if verdict.shown else None
        if verdict.rest_s:
            self._health.rest(self._runtime.now(), verdict.rest_s)
        self._fail(f"status_{status}", sound=verdict.sound)
        return True

    def lost(self, reason: str) -> None:
        """The connection is gone before the answer was whole."""
        connection, self._connection = self._connection, None
        if not self.live:
            return
        answer = self.answer
        if answer is None and connection is not None and connection.reused:
            # It was closed while idle, which says nothing about the upstream.
            self._exchange.tries -= 1
            self.begin(fresh=True)
        elif isinstance(answer, StreamAnswer) and answer.committed and answer.done:
            self._leave("ok", sound=True)
            self._exchange.finish(answer.end(), _OK, answer.usage)
        else:
            self.abandon(reason)

    # Its end.

    def abandon(self, outcome: str) -> None:
        """Leave the upstream, which stops its work, and go on without it."""
        if self._connection is not None:
            self._connection.abort()
        if self.answer is not None and self.answer.committed:
            self._break_off(self.answer, outcome)
        else:
            self._fail(outcome)

    def _fail(self, outcome: str, *, sound: bool | None = False) -> None:
        self._leave(outcome, sound=sound)
        self.answer = None
        self._exchange.failed(self)

    def _break_off(self, answer: Answer, reason: str) -> None:
        self._leave(reason, sound=False)
        name = self.choice.target.upstream.name
        last = answer.broken(f"the upstream {name!r} broke off: {reason}")
        if last is None:
            self._exchange.cut(answer.usage)
        else:
            self._exchange.finish(last, _BAD_GATEWAY, answer.usage)

    def stop(self, outcome: str, *, sound: bool | None) -> None:
        """End it if it still goes on; nobody waits for its answer."""
        if self._connection is not None:
            self._connection.abort()
        self._leave(outcome, sound=sound)

    def _leave(self, outcome: str, *, sound: bool | None) -> None:
        """Count how it ended: ``sound`` is what that says of the address."""
        if not self.live:
            return
        self.live, self._connection = False, None
        health, metrics = self._health, self._runtime.metrics
        health.in_flight -= 1
        name = self.choice.target.upstream.name
        metrics.add("bud_gateway_tries_total", name, outcome)
        if sound:
            begun = self._exchange.started if self._sent_at is None else self._sent_at
            heard = begun if self._heard_at is None else self._heard_at
            health.succeeded(heard - begun)
        elif sound is False and health.failed(self._runtime.now()):
            metrics.add("bud_gateway_ejections_total", name)

    # Time, and a client that is slow.

    def sweep(self, now: float) -> None:
        """Look for what has taken too long; called a few times a second."""
        if self._sent_at is None:
            return  # the pool bounds how long it takes to connect
        answer, times = self.answer, self._exchange.route.timeouts
        waited = now - self._sent_at
        if not self.committed and waited >= times.attempt:
            self.abandon("attempt_timeout")
        elif isinstance(answer, StreamAnswer) and not answer.committed:
            if answer.alive and waited >= HOLD_STREAM_S:
                self._exchange.pass_on(answer.commit())
            elif waited >= times.first:
                self.abandon("first_timeout")
        elif answer is None:
            if self._exchange.request.stream and waited >= times.first:
                self.abandon("first_timeout")
        elif now - self._last_at >= times.stall:
            self.abandon("stall_timeout")

    def client_slow(self, slow: bool) -> None:  # noqa: FBT001  as asyncio says it
        if self._connection is not None:
            (self._connection.pause if slow else self._connection.resume)()
            # A silence that the client imposes is not the upstream's.
            self._last_at = math.inf if slow else self._runtime.now()
