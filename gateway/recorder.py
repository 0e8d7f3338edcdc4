"""What a request leaves behind: numbers, and a record on disk (I/O).

Called by the worker when a request begins, now and then while it runs, and when
it is over, which is before its client sees the end.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson

from gateway.accounts import estimate_input
from gateway.exchange import Exchange
from gateway.metrics import Metrics
from gateway.ports import Settled
from gateway.spool import InFlight, Records

__all__ = ["Recorder", "count"]


class Recorder:
    """Writes the records of one worker."""

    def __init__(self, folder: Path, name: str) -> None:
        self._records = Records(folder, name)
        self._in_flight = InFlight(folder, name)

    def began(self, exchange: Exchange, *, at: float) -> None:
        """Note what is known; ``at`` in seconds since the epoch."""
        request, price = exchange.request, exchange.route.price
        identity = {
            "at": round(at, 3),
            "id": exchange.request_id.decode("ascii"),
            "key": exchange.key.name,
            "route": exchange.route.name,
            "model": request.model,
            "operation": request.op,
        }
        if exchange.span is not None:
            identity["trace"] = exchange.span
        exchange.identity = orjson.dumps(identity)[:-1]
        exchange.slot = self._in_flight.begin(
            b'%b,"input":%d,"price":[%d,%d]}'
            % (
                exchange.identity,
                estimate_input(request.raw),
                price.input,
                price.output,
            )
        )

    def passed(self, exchange: Exchange) -> None:
        """Note how far a stream has come."""
        if exchange.slot is not None:
            self._in_flight.passed(exchange.slot, exchange.chunks)

    def settled(self, exchange: Exchange, outcome: Settled) -> None:
        """Write the record; one that never began leaves none."""
        if exchange.slot is None:
            return
        upstream, usage = outcome.upstream, outcome.usage
        record: dict[str, Any] = {
            "upstream": upstream.name if upstream is not None else None,
            "status": outcome.status,
            "stream": outcome.chunks > 0,
            "tries": exchange.tries,
            "input": usage.input,
            "output": usage.output,
            "cached": usage.cached,
            "reasoning": usage.reasoning,
            "estimated": outcome.estimated,
            "cost_nano_usd": outcome.cost,
            "seconds": round(outcome.seconds, 6),
        }
        if outcome.first_seconds is not None:
            record["first_seconds"] = round(outcome.first_seconds, 6)
        self._records.write(b"%b,%b\n" % (exchange.identity, orjson.dumps(record)[1:]))
        self._in_flight.end(exchange.slot)

    def flush(self) -> None:
        """Put what was recorded where others read it."""
        self._records.flush()

    @property
    def dropped(self) -> int:
        return self._records.dropped

    def close(self) -> None:
        """Say that nothing is in flight any more."""
        self._records.close()
        self._in_flight.close()


def count(metrics: Metrics, exchange: Exchange, outcome: Settled) -> None:
    """Add what a request did to the numbers."""
    route, operation = exchange.route.name, exchange.request.op
    add, observe, usage = metrics.add, metrics.observe, outcome.usage
    add("bud_gateway_requests_total", route, operation, str(outcome.status))
    observe(outcome.seconds, "bud_gateway_request_duration_seconds", route, operation)
    if usage.input:
        add("bud_gateway_tokens_total", route, "input", n=usage.input)
        add("bud_gateway_tokens_total", route, "output", n=usage.output)
    if outcome.chunks and outcome.first_seconds is not None:
        first = outcome.first_seconds
        observe(first, "bud_gateway_time_to_first_chunk_seconds", route)
        if outcome.chunks > 1:
            mean = (outcome.seconds - first) / (outcome.chunks - 1)
            observe(mean, "bud_gateway_time_per_output_chunk_seconds", route)
