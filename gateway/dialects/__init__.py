"""Other APIs than OpenAI's, as pure functions: documents and events in and out.

Inside, a request and its answer are always in OpenAI's shape. An *upstream's*
dialect translates on the far side of that, a *client's* on the near side; where
both speak the same, nothing is translated and the bytes pass.
"""

from __future__ import annotations

from typing import Any, Protocol

import orjson

from gateway.sse import parse_event, split_events

__all__ = ["Cutter", "StreamTranslator", "frame"]


class StreamTranslator(Protocol):
    """Turns the events of one API into those of another, as they come."""

    def feed(self, data: bytes) -> bytes: ...

    def end(self) -> bytes:
        """Give what is left when the stream is over."""
        ...


class Cutter:
    """Cuts a stream into the JSON objects of its whole events."""

    __slots__ = ("_carry",)

    def __init__(self) -> None:
        self._carry = b""

    def feed(self, data: bytes) -> list[dict[str, Any]]:
        data = self._carry + data if self._carry else data
        events = split_events(data)
        last = events[-1] if events else b""
        whole = last.endswith((b"\n\n", b"\r\n\r\n"))
        self._carry = b"" if whole else last
        found = (parse_event(event) for event in (events if whole else events[:-1]))
        return [document for document in found if document is not None]


def frame(document: dict[str, Any], *, name: str = "") -> bytes:
    """Write one event."""
    lead = f"event: {name}\n".encode() if name else b""
    return lead + b"data: " + orjson.dumps(document) + b"\n\n"
