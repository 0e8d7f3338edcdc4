"""A request that is asked a second time when its first try is late.

An exchange like any other until its try has had no content for the route's
`hedge`. Then another address is asked as well, once; the first content of the two
is the answer, and the other is left at once. Made by the edge, so that nothing
but what a client sends whole and is safe to ask twice is ever hedged.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

import orjson

from gateway.accounts import charge, estimate_input
from gateway.attempt import Attempt
from gateway.exchange import Exchange
from gateway.health import Recent
from gateway.openai import STATELESS, BadRequest, Request
from gateway.routing import choose
from gateway.snapshot import Hedge
from gateway.usage import Usage

__all__ = ["Hedged", "is_safe"]


def is_safe(request: Request) -> bool:
    """Say whether a request may be asked twice."""
    return request.op in STATELESS and not request.document.get("store")


class Hedged(Exchange):
    """Takes one request to its end by one try, or two at once."""

    __slots__ = ("_due", "_rival", "_rival_at", "_spent", "_tried_at")

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self._rival: Attempt | None = None
        """The second try, while it is not known which of them answers."""
        self._spent = False
        """There has been a second try."""
        self._due = self._tried_at = self._rival_at = 0.0

    # When.

    def start(self) -> None:
        before = self._attempt
        super().start()
        attempt = self._attempt
        if attempt is None or attempt is before or not attempt.live:
            return
        self._tried_at = now = self.runtime.now()
        if not self._spent and self.route.hedge is not None:
            delay = self._delay(attempt, self.route.hedge)
            self._due = now + delay
            self.runtime.wait(self, delay)

    def _delay(self, attempt: Attempt, hedge: Hedge) -> float:
        usual = None
        if hedge.percentile is not None:
            usual = self._usual(attempt).percentile(hedge.percentile)
        return hedge.after_s if usual is None else usual

    def _usual(self, attempt: Attempt) -> Recent:
        health = self.runtime.health(attempt.choice.address.url)
        # A whole answer takes longer than the first of a stream.
        return health.recent(self.request.op, stream=self.request.stream)

    def resume(self) -> None:
        attempt = self._attempt
        if attempt is None or not attempt.live:
            self.start()
        elif not self._spent and not attempt.committed:
            left = self._due - self.runtime.now()
            if left > 0:
                self.runtime.wait(self, left)  # the snapshot changed
            else:
                self._hedge(attempt)

    def _hedge(self, first: Attempt) -> None:
        self._spent = True
        runtime, route, now = self.runtime, self.route, self.runtime.now()
        choice = choose(
            route,
            self.request,
            self._tried | {first.choice.address.url},
            runtime.healths,
            now=now,
            random=runtime.random(),
        )
        # An address that is left alone would only cost a second failure.
        if (
            choice is None
            or not runtime.health(choice.address.url).usable(now)
            or self.tries >= route.attempts
            or not runtime.retries(route).spend()
        ):
            return
        self._rival, self._rival_at = Attempt(self, choice), now
        self._rival.begin()

    # Who.

    def pass_on(self, data: bytes) -> None:
        if self._first_at is None:
            self._decide()
        super().pass_on(data)

    def finish(self, data: bytes, status: int, usage: Usage | None) -> None:
        if self._first_at is None and self._attempt is not None:
            self._decide(sound=status == HTTPStatus.OK)
        super().finish(data, status, usage)

    def _decide(self, *, sound: bool = True) -> None:
        """Somebody has an answer: the other is asked no more."""
        winner, rival = self._attempt, self._rival
        assert winner is not None
        now, began = self.runtime.now(), self._tried_at
        # Whoever has ended just now did so with an answer.
        if rival is not None and (rival.committed or not rival.live):
            # The first took at least so long; without it, the usual would be that
            # of the fast alone, and ever more would be late.
            self._usual(winner).add(now - began)
            self._attempt, self._rival = rival, winner
            winner, began = rival, self._rival_at
        if sound:
            self._usual(winner).add(now - began)
        if rival is not None:
            self._part("won" if winner is rival else "lost")

    def _part(self, outcome: str) -> None:
        """Leave whoever runs beside the other, and keep what that cost."""
        loser, self._rival = self._rival, None
        if loser is None:
            return
        self.runtime.metrics.add("bud_gateway_hedges_total", self.route.name, outcome)
        if loser.asked:
            # No upstream says before its first content what it has used.
            read = estimate_input(self.request.raw)
            upstream = loser.choice.target.upstream
            cost = charge(Usage(read), upstream.price)
            lost = {"upstream": upstream.name, "input": read, "cost_nano_usd": cost}
            self.identity += b',"hedge":%b' % orjson.dumps(lost)
        loser.stop("hedged", sound=None)

    # Failures of one of two.

    def failed(self, attempt: Attempt) -> None:
        if not self._goes_on_without(attempt):
            super().failed(attempt)

    def unreachable(self, attempt: Attempt) -> None:
        if not self._goes_on_without(attempt):
            super().unreachable(attempt)

    def unsaid(self, attempt: Attempt, bad: BadRequest) -> None:
        if not self._goes_on_without(attempt):
            super().unsaid(attempt, bad)

    def _goes_on_without(self, attempt: Attempt) -> bool:
        """The other of two is all that is left: it was the retry."""
        first, rival = self._attempt, self._rival
        if rival is None:
            return False
        self._rival = None
        self._tried |= {attempt.choice.address.url}
        if attempt is first:
            self._attempt, self._tried_at = rival, self._rival_at
        outcome = "failed" if attempt is rival else "won"
        self.runtime.metrics.add("bud_gateway_hedges_total", self.route.name, outcome)
        return True

    # Time, and a client that is slow or leaves.

    def sweep(self, now: float) -> None:
        if now >= self._deadline:
            self._part("left")
        elif self._rival is not None:
            self._rival.sweep(now)
        if not self.over:
            super().sweep(now)

    def client_gone(self) -> None:
        self._part("left")
        super().client_gone()

    def client_slow(self, slow: bool) -> None:  # noqa: FBT001  as asyncio says it
        super().client_slow(slow)
        if self._rival is not None:
            self._rival.client_slow(slow)
