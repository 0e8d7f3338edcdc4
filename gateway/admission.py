"""Who may start now: a worker's requests, its slices, and what it asks for more.

A request whose limits have room starts in the same call. Otherwise it waits,
in order, for one answer from the supervisor about the limiter that it lacks.
Called by the worker; knows no socket, only whom to tell.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

from gateway.accounts import reserve
from gateway.exchange import Exchange
from gateway.limits import Amounts, Limiter, Purse, Slices, settle, take
from gateway.queueing import Places
from gateway.snapshot import Key, Queue, Route

__all__ = ["Admission"]


class Admission:
    """Admits the requests of one worker."""

    def __init__(
        self,
        tell: Callable[[dict[str, Any]], None],
        begin: Callable[[Exchange], None],
        places: Places,
    ) -> None:
        self._tell, self._begin = tell, begin
        self._places = places
        self._asked: set[str] = set()
        """For places, by limiter."""
        self._wanted: set[str] = set()
        """Limiters whose places other workers wait for."""
        self.freed: set[str] = set()
        """Limiters of which a place may be free, for `go_on`."""
        self._slices = Slices()
        self._purses: dict[tuple[Key, Route], Purse] = {}
        self._waiting: dict[str, deque[tuple[Exchange, Limiter, Purse]]] = {}
        """By limiter: who waits for its answer, the asked-for one first."""

    def admit(self, exchange: Exchange) -> None:
        """Begin it, or let it wait for what it needs."""
        key, route, request = exchange.key, exchange.route, exchange.request
        if not key.limiters and not route.limiters:
            self._begin(exchange)
            return
        exchange.reserved = reserve(request.document, request.raw, route.price)
        purse = self._purses.get((key, route))
        if purse is None:
            purse = self._slices.purse(key.limiters + route.limiters)
            self._purses[key, route] = purse
        self._try(exchange, purse)

    def forget(self) -> None:
        """Hear that keys and routes are others from now on."""
        self._purses.clear()

    def _try(self, exchange: Exchange, purse: Purse, *, called: bool = False) -> None:
        """Begin it if it may; ``called``: it has waited, and is next."""
        rule = exchange.route.queue
        if rule is not None and not called and self._places.waits(rule.name):
            self._queue(exchange, purse, rule)  # nobody overtakes
            return
        lacking = take(purse, exchange.reserved)
        if rule is not None:
            if lacking is None:
                self._places.started(exchange, rule.name)
            elif lacking.id == rule.name:
                self._queue(exchange, purse, rule)
                return
        if lacking is None:
            # From here on it holds something, and gives it back when it is over.
            exchange.purse = purse
            self._begin(exchange)
            return
        queue = self._waiting.setdefault(lacking.id, deque())
        queue.append((exchange, lacking, purse))
        if len(queue) == 1:
            self._ask(lacking, exchange)

    def _ask(self, limiter: Limiter, exchange: Exchange) -> None:
        need = self._slices.missing(limiter, exchange.reserved[limiter.kind])
        self._tell({"op": "lease", "limiter": tuple(limiter), "need": need})

    def _queue(self, exchange: Exchange, purse: Purse, rule: Queue) -> None:
        limiter = next(one for _, _, one in purse if one.id == rule.name)
        self._places.push(exchange, purse, limiter, rule)
        self._ask_place(limiter)

    def _ask_place(self, limiter: Limiter) -> None:
        if limiter.id not in self._asked:
            self._asked.add(limiter.id)
            asked = {"limiter": tuple(limiter), "need": 1, "queued": True}
            self._tell({"op": "lease", **asked})

    def go_on(self) -> None:
        """Give places that have become free to who is next."""
        freed, self.freed = self.freed, set()
        for name in freed:
            held = self._slices.held(name)
            if name in self._wanted and held.amount > 0:
                self._tell({"op": "return", "id": name, "amount": held.amount})
                held.amount = 0
            self._serve(name)
        for waiter in self._places.waiting():
            self._ask_place(waiter.limiter)

    def _serve(self, name: str) -> None:
        held = self._slices.held(name)
        while held.amount > 0 and (waiter := self._places.next(name)) is not None:
            self._try(waiter.exchange, waiter.purse, called=True)

    def wanted(self, name: str, *, by_others: bool) -> None:
        """Hear whether other workers wait for places of a limiter."""
        (self._wanted.add if by_others else self._wanted.discard)(name)

    def sweep(self, now: float) -> None:
        """Refuse what waited too long, and ask again for the rest."""
        self._places.sweep(now)
        self.go_on()

    def granted(
        self, name: str, amount: int, retry_after_s: float, *, reachable: bool
    ) -> None:
        """Hear the answer about a limiter: go on with those who waited for it."""
        self._slices.put(name, amount)
        if name in self._asked or self._places.waits(name):
            self._asked.discard(name)
            if not reachable:
                self._places.refuse_all(name, _unknown)
            self._serve(name)
            if amount:
                self.go_on()  # there may be more
            return
        queue = self._waiting.pop(name, deque())
        if amount == 0 and queue:
            exchange, limiter, _ = queue.popleft()
            if not exchange.over and reachable:
                exchange.deny(limiter, retry_after_s)
            elif not exchange.over:
                _unknown(exchange, limiter)
        for exchange, _, purse in queue:
            if not exchange.over:
                self._try(exchange, purse)

    def settle(self, exchange: Exchange, actual: Amounts) -> None:
        """Give back what a request that is over did not use."""
        settle(exchange.purse, exchange.reserved, actual)
        # Not by its route, which may have got or lost its queue meanwhile.
        if self._places.running:
            name = self._places.ended(exchange)
            if name is not None:
                self.freed.add(name)

    def give_back(self) -> None:
        """Return what nobody has needed since the last call."""
        for name, amount in self._slices.surplus():
            self._tell({"op": "return", "id": name, "amount": amount})


def _unknown(exchange: Exchange, limiter: Limiter) -> None:
    exchange.refuse(
        HTTPStatus.SERVICE_UNAVAILABLE,
        f"cannot check {limiter.scope}: nobody knows its limits now",
        code="limits_unavailable",
        lines=b"retry-after: 1\r\n",
    )
