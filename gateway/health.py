"""What is known of each address: how busy, how fast, how often it failed.

A breaker for each address opens after failures in a row, lets one probe through
when its time is over, and closes with a success. It is advice: when every
address is out, they are tried all the same, because a refusal would be certain
and a try is not. Pure: time is an argument.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque
from typing import NamedTuple

__all__ = ["Health", "Recent", "Reported", "RetryBudget"]

FAILURES = 3
"""In a row, until an address is left alone. One may be chance; a replica that
died fails every request, and each costs a client the time of a retry."""
FIRST_PAUSE_S = 1.0
MAX_PAUSE_S = 10.0
"""A probe costs one try of one request; a replica that is back should not wait."""
_SMOOTHING = 0.2
"""Weight of the newest answer in the mean latency: about the last ten count."""


_BELIEVED_S = 10.0
"""What an engine said of itself is older than a typical answer by then."""
_FULL = 0.95
"""Of an engine's KV cache: beyond it, requests are put off or recomputed."""


class Reported(NamedTuple):
    """What an engine says of itself."""

    running: float
    waiting: float
    kv: float
    """Share of its KV cache that is in use."""


class Recent:
    """How long the latest answers of one kind took, at one address."""

    __slots__ = ("_by_age", "_by_size")

    KEPT = 128
    NEEDED = 20
    """Fewer have no 95th percentile."""

    def __init__(self) -> None:
        self._by_age: deque[float] = deque()
        self._by_size: list[float] = []

    def add(self, seconds: float) -> None:
        if len(self._by_age) == self.KEPT:
            del self._by_size[bisect_left(self._by_size, self._by_age.popleft())]
        self._by_age.append(seconds)
        insort(self._by_size, seconds)

    def percentile(self, percent: int) -> float | None:
        """Say what so many of a hundred were below; None: too few are known."""
        known = len(self._by_size)
        return self._by_size[known * percent // 100] if known >= self.NEEDED else None


class Health:
    """One address, as one worker sees it."""

    __slots__ = (
        "_failures",
        "_heard_at",
        "_heard_in_flight",
        "_opened",
        "_recent",
        "_reported",
        "_until",
        "in_flight",
        "latency_s",
    )

    def __init__(self) -> None:
        self.in_flight = 0
        self.latency_s = 0.0
        """Mean time to the first byte of an answer; 0: none yet."""
        self._failures = 0
        self._opened = 0
        self._until = 0.0
        self._reported: Reported | None = None
        self._heard_at = 0.0
        self._heard_in_flight = 0
        self._recent: dict[tuple[str, bool], Recent] = {}

    def recent(self, op: str, *, stream: bool) -> Recent:
        """Give the times until content, which whoever hedges keeps and needs."""
        return self._recent.setdefault((op, stream), Recent())

    def hear(self, reported: Reported, now: float) -> None:
        """Take what the engine says of itself."""
        self._reported, self._heard_at = reported, now
        self._heard_in_flight = self.in_flight

    def load(self, now: float) -> float:
        """Say how many requests are there, as far as can be known.

        An engine hears of more than we send it; we know what we sent since it
        spoke. One that must wait weighs twice one that runs.
        """
        told = self._reported
        if told is None or now - self._heard_at > _BELIEVED_S:
            return self.in_flight
        since = self.in_flight - self._heard_in_flight
        load = max(told.running + 2 * told.waiting + since, self.in_flight)
        return load * 2 if told.kv > _FULL else load

    def usable(self, now: float) -> bool:
        if self._until == 0.0:
            return True
        # Half open: one at a time finds out.
        return now >= self._until and self.in_flight == 0

    @property
    def is_open(self) -> bool:
        return self._until > 0.0

    def succeeded(self, seconds: float) -> None:
        self._failures = self._opened = 0
        self._until = 0.0
        old = self.latency_s
        self.latency_s = seconds if old == 0.0 else old + _SMOOTHING * (seconds - old)

    def failed(self, now: float) -> bool:
        """Count a failure; true: it opened the breaker."""
        self._failures += 1
        if self._failures < FAILURES and not self.is_open:
            return False
        pause = min(FIRST_PAUSE_S * 2**self._opened, MAX_PAUSE_S)
        self._opened += 1
        self._until = now + pause
        return True

    def rest(self, now: float, seconds: float) -> None:
        """Leave it alone for as long as it asked for."""
        self._until = max(self._until, now + min(seconds, MAX_PAUSE_S))


class RetryBudget:
    """Bounds retries to a part of the requests, so that they cannot pile up.

    When everything behind us fails, each request would otherwise become
    ``attempts`` of them, just when the upstreams can bear it least.
    """

    __slots__ = ("_level", "_part")

    RESERVE = 50.0
    """Retries that a quiet gateway may make at once."""

    def __init__(self, percent: int) -> None:
        self._part = percent / 100
        self._level = self.RESERVE if percent else 0.0

    def earn(self) -> None:
        """Count a request."""
        self._level = min(self._level + self._part, self.RESERVE)

    def spend(self) -> bool:
        """Take one retry; false: there is none left."""
        if self._level < 1:
            return False
        self._level -= 1
        return True
