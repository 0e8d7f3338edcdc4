"""What requests did, counted for each route and operation.

Called by the worker when a request is over. The counts of a route are plain
attributes, which cost a fraction of a look-up by labels; they become series when
somebody asks.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict

from gateway.exchange import Exchange
from gateway.metrics import FAMILIES, Metrics
from gateway.ports import Settled

__all__ = ["Meters"]

_DURATION = "bud_gateway_request_duration_seconds"
_BOUNDS = FAMILIES[_DURATION].bounds


class _Meter:
    __slots__ = ("durations", "input", "output", "statuses")

    def __init__(self, durations: list[float]) -> None:
        self.durations = durations
        """Of the histogram: counts by bound, the rest, and the sum."""
        self.statuses: defaultdict[int, int] = defaultdict(int)
        self.input = self.output = 0


class Meters:
    """All routes of one worker."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._meters: dict[tuple[str, str], _Meter] = {}

    def count(self, exchange: Exchange, outcome: Settled) -> None:
        """Add what a request did."""
        named = exchange.route.name, exchange.request.op
        meter = self._meters.get(named)
        if meter is None:
            durations = self._metrics.counts(_DURATION, *named)
            meter = self._meters[named] = _Meter(durations)
        seconds, usage = outcome.seconds, outcome.usage
        meter.statuses[outcome.status] += 1
        meter.durations[bisect_left(_BOUNDS, seconds)] += 1
        meter.durations[-1] += seconds
        meter.input += usage.input
        meter.output += usage.output
        if outcome.chunks and outcome.first_seconds is not None:
            self._count_stream(named[0], outcome, outcome.first_seconds)

    def _count_stream(self, route: str, outcome: Settled, first: float) -> None:
        observe = self._metrics.observe
        observe(first, "bud_gateway_time_to_first_chunk_seconds", route)
        if outcome.chunks > 1:
            mean = (outcome.seconds - first) / (outcome.chunks - 1)
            observe(mean, "bud_gateway_time_per_output_chunk_seconds", route)

    def publish(self) -> None:
        """Write the counts as series."""
        tokens: defaultdict[tuple[str, str], int] = defaultdict(int)
        for (route, operation), meter in self._meters.items():
            for status, count in meter.statuses.items():
                series = "bud_gateway_requests_total", route, operation, str(status)
                self._metrics.set(*series, to=count)
            tokens[route, "input"] += meter.input
            tokens[route, "output"] += meter.output
        for (route, kind), count in tokens.items():
            if count:
                self._metrics.set("bud_gateway_tokens_total", route, kind, to=count)
