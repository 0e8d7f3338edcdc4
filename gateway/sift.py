"""A stream of events that is looked at before its reader sees it.

Events are held until the text in them, and enough of what follows, has been
judged: something that begins in one event and ends in the next is found whole
if it is not longer than `LAG`. Bytes and findings in, bytes out; who judges, and
how long that takes, is the caller's affair. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

import orjson

from gateway.sse import parse_event, split_events
from gateway.texts import Channel, Part, parts_of

__all__ = ["LAG", "Sift", "Span", "redact"]

LAG = 128
"""Characters: longer than any kind of personal data that is looked for. A reader
sees a text so much later, about thirty tokens."""
_Key: TypeAlias = tuple[Channel, int]


class Span(NamedTuple):
    """Where something was found in a text, in characters."""

    start: int
    end: int
    what: str


@dataclass(slots=True)
class _Text:
    """What a channel has said, from a little before the first event held."""

    text: str = ""
    past: int = 0
    """Characters at its start that the reader has already."""


@dataclass(slots=True)
class _Held:
    raw: bytes
    document: dict[str, Any] | None
    places: list[tuple[Part, _Key, int, int]] = field(default_factory=list)
    """Each part, and where its text stands in that of its channel."""


class Sift:
    """Holds the events of one stream."""

    def __init__(self) -> None:
        self._texts: dict[_Key, _Text] = {}
        self._held: list[_Held] = []
        self._alone = 0
        self.fresh = 0
        """Characters that nobody has judged."""

    def push(self, data: bytes) -> None:
        """Take whole events."""
        for raw in split_events(data):
            document = parse_event(raw)
            held = _Held(raw, document)
            for part in parts_of(document) if document is not None else ():
                if part.channel is None:
                    self._alone += 1
                key = part.channel, self._alone if part.channel is None else 0
                said = self._texts.setdefault(key, _Text())
                start = len(said.text)
                said.text += part.text
                self.fresh += len(part.text)
                held.places.append((part, key, start, len(said.text)))
            self._held.append(held)

    def texts(self) -> dict[_Key, str]:
        """Give what is to be judged now."""
        self.fresh = 0
        return {key: said.text for key, said in self._texts.items()}

    def release(self, spans: Mapping[_Key, list[Span]], *, last: bool) -> bytes:
        """Give the events that are safe; ``spans`` are to be redacted in them."""
        safe = 0
        for held in self._held:
            if not last and not all(
                key[0] is None or end <= len(self._texts[key].text) - LAG
                for _, key, _, end in held.places
            ):
                break
            safe += 1
        out = b"".join([self._written(held, spans) for held in self._held[:safe]])
        del self._held[:safe]
        self._forget()
        return out

    def _written(self, held: _Held, spans: Mapping[_Key, list[Span]]) -> bytes:
        changed = False
        for part, key, start, end in held.places:
            said = self._texts[key]
            said.past = max(said.past, end)
            found = [s for s in spans.get(key, ()) if s.start < end and s.end > start]
            if found:
                changed = True
                part.put("".join(_pieces(said.text, found, start, end)))
        if not changed:
            return held.raw
        names = [
            line
            for line in held.raw.splitlines()
            if line and not line.startswith(b"data:")
        ]
        lines = [*names, b"data: " + orjson.dumps(held.document)]
        return b"\n".join(lines) + b"\n\n"

    def _forget(self) -> None:
        """Drop what was read long ago: a little stays for what it leads into."""
        for key, said in list(self._texts.items()):
            if key[0] is None:
                if said.past >= len(said.text):
                    del self._texts[key]
                continue
            cut = max(0, said.past - LAG)
            said.text, said.past = said.text[cut:], said.past - cut
            for held in self._held:
                held.places = [
                    (part, k, a - cut, b - cut) if k == key else (part, k, a, b)
                    for part, k, a, b in held.places
                ]


def redact(text: str, spans: Sequence[Span]) -> str:
    """Put the kind of what was found in its place."""
    return "".join(_pieces(text, spans, 0, len(text)))


def _pieces(text: str, spans: Sequence[Span], start: int, end: int) -> Iterator[str]:
    """Give a slice of ``text`` without what was found: said once, at its start."""
    at = start
    for span in sorted(spans):
        if span.end <= at or span.start >= end:
            continue
        if span.start >= at:
            yield text[at : span.start]
            yield f"[{span.what}]"
        at = min(span.end, end)
    yield text[at:end]
