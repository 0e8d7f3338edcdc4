"""What each route carried of late, read off the gateway's counters (I/O: HTTP).

The planner puts it beside the routes that a change touches, and the gate's report
beside what was predicted. The first reading knows only what was carried since the
gateway started; later ones know the time between.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

__all__ = ["Traffic"]

_TIMEOUT = aiohttp.ClientTimeout(total=2)
_WINDOW = timedelta(hours=1)
_MAX_BYTES = 16 << 20
Counters = dict[str, dict[str, float]]


class Traffic:
    def __init__(
        self, url: Callable[[], str | None], clock: Callable[[], datetime]
    ) -> None:
        """``url`` says where the gateway's metrics are; None while none runs."""
        self._url, self._clock = url, clock
        self._readings: deque[tuple[datetime, Counters]] = deque(maxlen=120)

    async def __call__(self) -> Mapping[str, dict[str, Any]] | None:
        """``project/route`` -> requests, tokens and since when; None: nobody knows."""
        now, counters = self._clock(), await self.counters()
        if counters is None:
            return None
        while self._readings and now - self._readings[0][0] > _WINDOW:
            self._readings.popleft()
        before = self._readings[0] if self._readings else None
        self._readings.append((now, counters))
        if before is None or now - before[0] < timedelta(minutes=1):
            return {
                r: {**c, "since": "since the gateway started"}
                for r, c in counters.items()
            }
        minutes = max(1, round((now - before[0]).total_seconds() / 60))
        return {
            route: {
                name: max(0.0, value - before[1].get(route, {}).get(name, 0.0))
                for name, value in found.items()
            }
            | {"since": f"in {minutes} minutes"}
            for route, found in counters.items()
        }

    async def counters(self) -> Counters | None:
        """Everything since the gateway started; None: nobody knows."""
        if (url := self._url()) is None:
            return None
        try:
            async with (
                aiohttp.ClientSession(timeout=_TIMEOUT) as session,
                session.get(f"{url}/metrics") as answer,
            ):
                text = (await answer.content.read(_MAX_BYTES)).decode()
        except (aiohttp.ClientError, TimeoutError, OSError):
            return None
        return _counted(text)


def _counted(text: str) -> Counters:
    found: Counters = {}
    names = {
        "bud_gateway_requests_total": "requests",
        "bud_gateway_tokens_total": "tokens",
        "bud_gateway_time_to_first_chunk_seconds_sum": "ttftSum",
        "bud_gateway_time_to_first_chunk_seconds_count": "ttftCount",
        "bud_gateway_time_per_output_chunk_seconds_sum": "tpotSum",
        "bud_gateway_time_per_output_chunk_seconds_count": "tpotCount",
    }
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            name, route = names.get(sample.name), sample.labels.get("route")
            if name is not None and route:
                counters = found.setdefault(route, dict.fromkeys(names.values(), 0.0))
                counters[name] += sample.value
    return found
