"""One request's life: try, wait, fall back, answer, settle.

The edge starts it, its tries and the sweeper call it back, and it writes to the
client. Everything it touches is given to it: it has no clock, no randomness and
no socket of its own, so tests drive it with bytes.
"""

from __future__ import annotations

import math
from http import HTTPStatus

from gateway.accounts import charge, estimate_input
from gateway.answer import Framing
from gateway.attempt import Attempt
from gateway.dialects.choose import error_for
from gateway.limits import Amounts, Limiter, Purse
from gateway.openai import WRITES_TOKENS, BadRequest, Request
from gateway.ports import Client, Runtime, Settled
from gateway.routing import choose
from gateway.snapshot import Key, Route
from gateway.usage import Usage

__all__ = ["Exchange"]

_OK, _BAD_GATEWAY = 200, 502
_CLIENT_LEFT = 499  # as nginx says it
_NONE: frozenset[str] = frozenset()
_NOTHING = Usage()
_BACKOFF_S = 0.05
_MAX_BACKOFF_S = 1.0


class Exchange:
    """Takes one routed request to its end."""

    __slots__ = (
        "_attempt",
        "_deadline",
        "_fails",
        "_first_at",
        "_hold_until",
        "_refused",
        "_tried",
        "client",
        "framing",
        "identity",
        "key",
        "over",
        "purse",
        "request",
        "request_id",
        "reserved",
        "route",
        "runtime",
        "slot",
        "span",
        "spare",
        "started",
        "trace",
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
        self.runtime, self.client = runtime, client
        self.key, self.route, self.request = key, route, request
        self.request_id, self.framing, self.trace = request_id, framing, trace
        self.started = runtime.now()
        self._deadline = self.started + route.timeouts.total
        self._hold_until: float | None = None
        self._tried = _NONE
        self._refused = self.over = False
        self.purse: Purse = ()
        """What it has taken from, and gives back to."""
        self.reserved: Amounts = {}
        self.slot: int | None = None
        self.identity = b""
        """The start of its record: JSON, without the brace that ends it."""
        self.span: str | None = None
        """Of the trace that it is part of, if it is."""
        self.tries = self._fails = 0
        self._attempt: Attempt | None = None
        """The latest; it may be over."""
        self.spare: tuple[int, bytes] | None = None
        """An answer that was no success, for when there is no other."""
        self._first_at: float | None = None

    # Trying.

    def start(self) -> None:
        """Begin, or go on after a wait."""
        if self.over or (self._attempt is not None and self._attempt.live):
            return
        runtime = self.runtime
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
        self._attempt = attempt = Attempt(self, choice)
        attempt.begin()

    resume = start

    def _wait(self) -> None:
        """No address is left: those that were tried, or wait for one."""
        now = self.runtime.now()
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
            pause *= 0.5 + self.runtime.random() / 2
            self._fails += 1
        self._tried = _NONE
        self._refused = False
        self.runtime.wait(self, pause)

    def unreachable(self, attempt: Attempt) -> None:
        """Nobody listens there: it costs no try, but counts against the hold."""
        self._refused = True
        self._tried |= {attempt.choice.address.url}
        self.start()

    def failed(self, attempt: Attempt) -> None:
        """A try gave no answer that the client could have."""
        self._tried |= {attempt.choice.address.url}
        if self.tries >= self.route.attempts or not (
            self.runtime.retries(self.route).spend()
        ):
            self._give_up()
        else:
            self.start()

    def unsaid(self, attempt: Attempt, bad: BadRequest) -> None:  # noqa: ARG002
        """An upstream's API has no words for what is asked."""
        self.refuse(bad.status, str(bad), code=bad.code or "unsupported")

    def pass_on(self, data: bytes) -> None:
        """Give the client a part of an answer that is committed."""
        if self._first_at is None:
            self._first_at = self.runtime.now()
        if data:
            self.client.write(data)

    # Answers of our own.

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
        if self.spare is not None:
            status, data = self.spare
            self.finish(data, status, None)
        elif self.tries:
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
        self._answer(_OK, b"content-type: %b\r\n" % kind, body, route + lines)

    def refuse(
        self, status: HTTPStatus, message: str, *, code: str, lines: bytes = b""
    ) -> None:
        """Answer with an error of our own."""
        body = error_for(self.request.client, status, message, code=code)
        self._answer(status, b"content-type: application/json\r\n", body, lines)

    def _answer(self, status: int, kind: bytes, body: bytes, lines: bytes) -> None:
        lines = b"%bx-request-id: %b\r\n%b" % (kind, self.request_id, lines)
        head = self.framing.head(status, lines, length=len(body))
        self.finish(head + body, int(status), None)

    # Time, and a client that is slow or leaves.

    def sweep(self, now: float) -> None:
        """Look for what has taken too long; called a few times a second."""
        attempt = self._attempt
        if now >= self._deadline:
            self._time_out()
        elif attempt is not None and attempt.live:
            attempt.sweep(now)
        elif self._hold_until is not None and now >= self._hold_until:
            self._give_up()

    def _time_out(self) -> None:
        attempt = self._attempt
        if attempt is not None and attempt.committed:
            attempt.abandon("total_timeout")
            return
        if attempt is not None:
            attempt.stop("total_timeout", sound=False)
        self.refuse(
            HTTPStatus.GATEWAY_TIMEOUT,
            f"no answer within {self.route.timeouts.total:g} s",
            code="timeout",
        )

    def client_gone(self) -> None:
        """Nobody reads the answer any more: stop the upstream's work."""
        if self.over:
            return
        attempt = self._attempt
        if attempt is not None:
            attempt.stop("client_left", sound=None)
        answer = None if attempt is None else attempt.answer
        self._settle(_CLIENT_LEFT, None if answer is None else answer.usage)

    def client_slow(self, slow: bool) -> None:  # noqa: FBT001  as asyncio says it
        if self._attempt is not None:
            self._attempt.client_slow(slow)

    # The end.

    def finish(self, data: bytes, status: int, usage: Usage | None) -> None:
        """Give the client the last of its answer."""
        self._settle(status, usage)
        self.client.write(data)
        self.client.finish()

    def cut(self, usage: Usage | None) -> None:
        """Leave the client with half an answer: nothing can tell it why."""
        self._settle(_BAD_GATEWAY, usage)
        self.client.cut()

    def _settle(self, status: int, usage: Usage | None) -> None:
        self.over = True
        now, first = self.runtime.now(), self._first_at
        if first is None and status != _CLIENT_LEFT:
            first = now  # what it has in one piece
        # Whoever is over knows its try no more, or each would keep the other.
        attempt, self._attempt = self._attempt, None
        upstream, chunks = None, 0
        if attempt is not None:
            upstream, chunks = attempt.choice.target.upstream, attempt.chunks
        estimated = False
        if usage is None:
            usage = _NOTHING
            # Whoever reads half an answer, or leaves, has still had it made.
            begun = attempt is not None and (
                status == _OK or (status == _BAD_GATEWAY and attempt.committed)
            )
            if self.request.op in WRITES_TOKENS and (
                begun or (status == _CLIENT_LEFT and self.tries)
            ):
                estimated = True
                usage = Usage(estimate_input(self.request.raw), chunks)
        self.runtime.settled(
            self,
            Settled(
                upstream,
                status,
                usage,
                0 if upstream is None else charge(usage, upstream.price),
                estimated,
                now - self.started,
                None if first is None else first - self.started,
                chunks,
            ),
        )

    @property
    def chunks(self) -> int:
        """Events of the stream so far."""
        return 0 if self._attempt is None else self._attempt.chunks
