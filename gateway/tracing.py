"""W3C trace context: which requests get a span, and what an upstream is told (pure).

Called by the worker when telemetry is on. The span itself is made of the
request's record, far from the data path.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

__all__ = ["Traced", "traced"]

_PARENT = re.compile(
    rb"traceparent: 00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})\r\n"
)
_SAMPLED = 1


class Traced(NamedTuple):
    lines: bytes
    """Fields for the upstream, each line with its CRLF."""
    span: str | None
    """``<trace>-<span>-<parent>``; None: this request has none of ours."""


def traced(lines: bytes, *, sample: float, random: Callable[[], float]) -> Traced:
    """Begin a span if the client's own is sampled, or by chance if it has none."""
    found = _PARENT.search(lines)
    if found is None:
        if random() >= sample:
            return Traced(lines, None)
        trace, parent = b"%032x" % int(random() * (1 << 128) + 1), b""
    elif int(found[3], 16) & _SAMPLED:
        trace, parent = found[1], found[2]
    else:
        return Traced(lines, None)
    span = b"%016x" % int(random() * (1 << 64) + 1)
    # What the upstream records is a child of ours, and so of the client's.
    line = b"traceparent: 00-%b-%b-01\r\n" % (trace, span)
    rest = lines if found is None else lines.replace(found[0], b"")
    return Traced(line + rest, b"-".join((trace, span, parent)).decode())
