"""One response of a realtime session, as a request like any other.

It has the limits and the record of one, but no answer of its own to give: the
session speaks to both sides, tells it how far it has come and when it is over.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from http import HTTPStatus
from typing import Any, NamedTuple

from gateway.attempt import Attempt
from gateway.exchange import Exchange
from gateway.snapshot import Choice
from gateway.usage import Usage

__all__ = ["Line", "Refusal", "Turn"]


class Refusal(NamedTuple):
    """Why a turn may not begin."""

    status: HTTPStatus
    message: str
    code: str
    lines: bytes


class Line(Attempt):
    """A session's try at one address, from the handshake to its end."""

    __slots__ = ()

    def __init__(self, turn: Turn, choice: Choice) -> None:
        super().__init__(turn, choice)
        turn.tries += 1
        self._sent_at = self._runtime.now()

    @property
    def committed(self) -> bool:
        return True  # a session that breaks off has been answered

    def opened(self) -> None:
        """The handshake is done; that it took no longer speaks for the address."""
        self._heard_at = self._runtime.now()


class Turn(Exchange):
    """Waits for its limits, then for the session to end it."""

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self.admitted: asyncio.Future[Refusal | None] = (
            asyncio.get_running_loop().create_future()
        )
        self.passed = 0
        """Events that brought something of the answer."""
        self.swept: Callable[[], None] | None = None
        """Called a few times a second while it runs."""

    def start(self) -> None:
        if not self.admitted.done():
            self.admitted.set_result(None)

    def refuse(
        self, status: HTTPStatus, message: str, *, code: str, lines: bytes = b""
    ) -> None:
        self._settle(status, None)
        if not self.admitted.done():
            self.admitted.set_result(Refusal(status, message, code, lines))

    def sweep(self, now: float) -> None:  # noqa: ARG002  a session takes as long as it takes
        if self.swept is not None:
            self.swept()

    def on(self, line: Line) -> None:
        """Say who answers."""
        self._attempt = line

    def heard(self) -> None:
        """An event brought something of the answer."""
        self.passed += 1
        if self._first_at is None:
            self._first_at = self.runtime.now()

    def end(self, status: int, usage: Usage | None) -> None:
        if not self.over:
            self._settle(status, usage)

    @property
    def chunks(self) -> int:
        return self.passed
