"""What a request leaves behind: a record on disk (I/O).

Called by the worker when a request begins, now and then while it runs, and when
it is over, which is before its client sees the end.
"""

from __future__ import annotations

import functools
from pathlib import Path

import orjson

from gateway.accounts import estimate_input
from gateway.exchange import Exchange
from gateway.ports import Settled
from gateway.spool import InFlight, Records

__all__ = ["Recorder"]

_NAMES = 4096
"""Names that are kept as JSON; those of a config are far fewer."""


class Recorder:
    """Writes the records of one worker."""

    def __init__(self, folder: Path, name: str) -> None:
        self._records = Records(folder, name)
        self._in_flight = InFlight(folder, name)

    def began(self, exchange: Exchange, *, at: float) -> None:
        """Note what is known; ``at`` in seconds since the epoch."""
        request, price = exchange.request, exchange.route.price
        exchange.identity = identity = b'{"at":%.3f,"id":%b,%b' % (
            at,
            _quoted_id(exchange.request_id),
            _names(exchange.key.name, exchange.route.name, request.model, request.op),
        )
        if exchange.span is not None:
            exchange.identity = b'%b,"trace":"%b"' % (identity, exchange.span.encode())
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
        upstream, status, usage, cost, estimated, seconds, first, chunks = outcome
        # A dictionary and its encoding would cost twice as much as this.
        self._records.write(
            b'%b,"upstream":%b,"status":%d,"stream":%b,"tries":%d,"input":%d,'
            b'"output":%d,"cached":%d,"reasoning":%d,"estimated":%b,'
            b'"cost_nano_usd":%d,"seconds":%.6f%b}\n'
            % (
                exchange.identity,
                b"null" if upstream is None else _quoted(upstream.name),
                status,
                b"true" if chunks else b"false",
                exchange.tries,
                *usage,
                b"true" if estimated else b"false",
                cost,
                seconds,
                b"" if first is None else b',"first_seconds":%.6f' % first,
            )
        )
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


@functools.lru_cache(maxsize=_NAMES)
def _quoted(text: str) -> bytes:
    return orjson.dumps(text)


@functools.lru_cache(maxsize=_NAMES)
def _names(key: str, route: str, model: str, operation: str) -> bytes:
    names = {"key": key, "route": route, "model": model, "operation": operation}
    return orjson.dumps(names)[1:-1]


def _quoted_id(request_id: bytes) -> bytes:
    if b'"' in request_id or b"\\" in request_id:  # of a client's own
        return orjson.dumps(request_id.decode("ascii"))
    return b'"%b"' % request_id
