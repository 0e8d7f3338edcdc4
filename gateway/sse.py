"""Server-sent events of an answer, passed on whole.

Bytes go through untouched; only event boundaries are looked for, so that a
failure never leaves a client with half an event, plus the first content (until
then another upstream can still take over) and the usage at the end. Used by
the exchange, one scanner for each try.
"""

from __future__ import annotations

from typing import Any

import orjson

from gateway.usage import Usage, find_usage

__all__ = ["StreamScanner"]

MAX_EVENT = 256 * 1024
"""An event larger than this is passed on in pieces rather than held."""
_DATA = b"data:"
_DONE = b"data: [DONE]"


class StreamScanner:
    """Cuts a stream at its events and notes what matters in them."""

    __slots__ = ("_carry", "content", "done", "error", "events", "hide_usage", "usage")

    def __init__(self, *, hide_usage: bool) -> None:
        self.hide_usage = hide_usage
        self._carry = b""
        self.content = False
        """An event with something for the reader has been seen."""
        self.done = False
        self.error: dict[str, Any] | None = None
        """What the upstream said instead of any content."""
        self.events = 0
        """From the first content on: what comes before is no part of the answer."""
        self.usage: Usage | None = None

    def feed(self, data: bytes) -> bytes:
        """Take bytes of the stream, give the events that they complete."""
        if self._carry:
            data = self._carry + data
            self._carry = b""
        if not data.endswith((b"\n\n", b"\r\n\r\n")):
            cut = _last_boundary(data)
            if len(data) - cut > MAX_EVENT:
                cut = len(data)
            data, self._carry = data[:cut], data[cut:]
            if not data:
                return data
        self.events += data.count(b"\n\n") or data.count(b"\r\n\r\n")
        if not self.content:
            self.events -= self._look_for_content(data)
        if b"[DONE]" in data[-20:] and _DONE in data:
            self.done = True
            self.events -= 1
        if b'"usage"' in data and find_usage(data) is not None:
            data = self._take_usage(data)
        return data

    def passes(self, data: bytes) -> bool:
        """Note whole events that need no look inside; false: `feed` must have them."""
        if self._carry or b'"usage"' in data or _DONE in data:
            return False
        self.events += data.count(b"\n\n")
        return True

    def rest(self) -> bytes:
        """Give what stands behind the last event; a stream may end without one."""
        rest, self._carry = self._carry, b""
        return rest

    def _look_for_content(self, data: bytes) -> int:
        """Look for the first content, and count the events before it."""
        events = split_events(data)
        for number, event in enumerate(events):
            document = parse_event(event)
            if document is None:
                continue
            error = find_error(document)
            if error:
                self.error = (
                    error if isinstance(error, dict) else {"message": str(error)}
                )
                break
            if has_content(document):
                self.content = True
                return number
        return len(events)

    def _take_usage(self, data: bytes) -> bytes:
        kept = []
        for event in split_events(data):
            usage = find_usage(event)
            if usage is not None:
                self.usage = usage
                if self.hide_usage and _only_usage(event):
                    continue
            kept.append(event)
        return b"".join(kept)


def _last_boundary(data: bytes) -> int:
    plain, crlf = data.rfind(b"\n\n"), data.rfind(b"\r\n\r\n")
    return max(plain + 2 if plain >= 0 else 0, crlf + 4 if crlf >= 0 else 0)


def split_events(data: bytes) -> list[bytes]:
    """Split whole events, each with the empty line that ends it."""
    mark = b"\r\n\r\n" if b"\r\n\r\n" in data else b"\n\n"
    parts = data.split(mark)
    last = parts.pop()
    events = [part + mark for part in parts]
    return [*events, last] if last else events


def parse_event(event: bytes) -> dict[str, Any] | None:
    """Read the JSON object of one event; None if it has none."""
    lines = [line[5:] for line in event.splitlines() if line.startswith(_DATA)]
    try:
        document = orjson.loads(b"\n".join(lines))
    except orjson.JSONDecodeError:
        return None
    return document if isinstance(document, dict) else None


# Events of the Responses API that say nothing yet.
# No set: what an upstream says is its type may be anything, and not hashable.
_LIFE_SIGNS = (
    "response.created",
    "response.queued",
    "response.in_progress",
    "response.output_item.added",
    "response.content_part.added",
)


def find_error(document: dict[str, Any]) -> object:
    """Find what went wrong, in the shapes of both APIs; None: nothing did."""
    if document.get("type") == "response.failed":
        response = document.get("response")
        return response.get("error") if isinstance(response, dict) else "failed"
    if document.get("type") == "error":
        return document.get("error") or document
    return document.get("error")


def has_content(document: dict[str, Any]) -> bool:
    """Tell content from life signs: a first event often carries just a role."""
    choices = document.get("choices")
    if not isinstance(choices, list):
        # A shape that is not known is for the reader to judge.
        return document.get("type") not in _LIFE_SIGNS
    for choice in choices:
        if not isinstance(choice, dict):
            return True
        if choice.get("finish_reason") is not None or choice.get("text"):
            return True
        delta = choice.get("delta")
        if isinstance(delta, dict) and any(
            value for name, value in delta.items() if name != "role"
        ):
            return True
    return bool(document.get("usage"))


def _only_usage(event: bytes) -> bool:
    document = parse_event(event)
    return document is not None and document.get("choices") == []
