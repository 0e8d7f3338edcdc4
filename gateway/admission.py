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
from gateway.snapshot import Key, Route

__all__ = ["Admission"]


class Admission:
    """Admits the requests of one worker."""

    def __init__(
        self,
        tell: Callable[[dict[str, Any]], None],
        begin: Callable[[Exchange], None],
    ) -> None:
        self._tell, self._begin = tell, begin
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

    def _try(self, exchange: Exchange, purse: Purse) -> None:
        lacking = take(purse, exchange.reserved)
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

    def granted(
        self, name: str, amount: int, retry_after_s: float, *, reachable: bool
    ) -> None:
        """Hear the answer about a limiter: go on with those who waited for it."""
        self._slices.put(name, amount)
        queue = self._waiting.pop(name, deque())
        if amount == 0 and queue:
            exchange, limiter, _ = queue.popleft()
            if not exchange.over and reachable:
                exchange.deny(limiter, retry_after_s)
            elif not exchange.over:
                exchange.refuse(
                    HTTPStatus.SERVICE_UNAVAILABLE,
                    f"cannot check {limiter.scope}: nobody knows its limits now",
                    code="limits_unavailable",
                    lines=b"retry-after: 1\r\n",
                )
        for exchange, _, purse in queue:
            if not exchange.over:
                self._try(exchange, purse)

    def settle(self, exchange: Exchange, actual: Amounts) -> None:
        """Give back what a request that is over did not use."""
        settle(exchange.purse, exchange.reserved, actual)

    def give_back(self) -> None:
        """Return what nobody has needed since the last call."""
        for name, amount in self._slices.surplus():
            self._tell({"op": "return", "id": name, "amount": amount})
