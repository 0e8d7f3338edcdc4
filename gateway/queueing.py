"""What waits for a place on a full route, in one worker: how long, and who is next.

Admission asks it before anybody else gets a place and tells it who has one. It
refuses what waited too long, or came when too many did. Time is given to it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from http import HTTPStatus
from typing import NamedTuple

from gateway.exchange import Exchange
from gateway.fairness import FairQueue
from gateway.limits import Limiter, Purse
from gateway.metrics import Metrics
from gateway.snapshot import Queue

__all__ = ["Places", "Waiter"]


class Waiter(NamedTuple):
    exchange: Exchange
    purse: Purse
    limiter: Limiter
    queue: Queue
    since: float


class Places:
    """The queues of all full routes, by the limiter that is exhausted."""

    def __init__(self, metrics: Metrics, now: Callable[[], float]) -> None:
        self._metrics, self._now = metrics, now
        self._lines: dict[str, FairQueue[Waiter]] = {}
        self.running: dict[Exchange, tuple[str, str]] = {}
        """What has a place: its limiter, and the key that it counts for."""

    def waits(self, name: str) -> bool:
        line = self._lines.get(name)
        return bool(line)

    def waiting(self) -> Iterator[Waiter]:
        """Give one waiter of each queue that has any."""
        for line in self._lines.values():
            if line:
                yield line.first()[1]

    def push(
        self, exchange: Exchange, purse: Purse, limiter: Limiter, queue: Queue
    ) -> None:
        """Let a request wait, or refuse it where too many do."""
        line = self._line(queue.name)
        waiter = Waiter(exchange, purse, limiter, queue, self._now())
        if len(line) >= queue.length:
            self._drop_gone(line)
        if len(line) >= queue.length:
            _refuse(waiter, f"{len(line)} more wait for a place, which is all that may")
            return
        line.push(exchange.key.name, waiter)

    def next(self, name: str) -> Waiter | None:
        """Take out who is next."""
        line = self._line(name)
        while line:
            key, waiter = line.first()
            line.remove(key, waiter)
            if not waiter.exchange.over:
                route = waiter.exchange.route.name
                waited = self._now() - waiter.since
                self._metrics.observe(waited, "bud_gateway_queue_seconds", route)
                return waiter
        return None

    def started(self, exchange: Exchange, name: str) -> None:
        self._line(name).started(exchange.key.name)
        self.running[exchange] = name, exchange.key.name

    def ended(self, exchange: Exchange) -> str | None:
        """Count a request out; give the limiter that it had a place of."""
        name, key = self.running.pop(exchange, (None, ""))
        if name is not None:
            self._line(name).ended(key)
        return name

    def sweep(self, now: float) -> None:
        """Refuse what has waited for as long as it may."""
        for line in self._lines.values():
            self._drop_gone(line)
            for waiter in [w for w in line if now - w.since >= w.queue.wait_s]:
                line.remove(waiter.exchange.key.name, waiter)
                _refuse(waiter, f"no place was free within {waiter.queue.wait_s:g} s")

    def refuse_all(
        self, name: str, refuse: Callable[[Exchange, Limiter], None]
    ) -> None:
        while (waiter := self.next(name)) is not None:
            refuse(waiter.exchange, waiter.limiter)

    def __len__(self) -> int:
        return sum(map(len, self._lines.values()))

    def _line(self, name: str) -> FairQueue[Waiter]:
        return self._lines.setdefault(name, FairQueue())

    def _drop_gone(self, line: FairQueue[Waiter]) -> None:
        for waiter in [w for w in line if w.exchange.over]:
            line.remove(waiter.exchange.key.name, waiter)


def _refuse(waiter: Waiter, why: str) -> None:
    limiter = waiter.limiter
    waiter.exchange.refuse(
        HTTPStatus.TOO_MANY_REQUESTS,
        f"{limiter.scope} has {limiter.describe()}, and {why}; try again in 1 s",
        code="rate_limit_exceeded",
        # Any request that has a place may end by then.
        lines=b"retry-after: 1\r\nx-bud-limiter: %b\r\n" % limiter.id.encode(),
    )
