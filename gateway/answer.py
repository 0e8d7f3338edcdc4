"""One upstream's answer on its way to the client: bytes in, bytes out.

An answer is *committed* with the first byte that the client is given. Until
then another upstream may take over unseen, so a plain answer is held until it
is whole (it is small, or it is passed on), and a stream until its first
content. Used by the exchange; knows no socket and no clock.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

from gateway.dialects.bedrock import EVENT_STREAM
from gateway.dialects.choose import PLAIN, Translation, error_for
from gateway.http1 import LAST_CHUNK, chunk, response_head
from gateway.sse import StreamScanner
from gateway.usage import Usage, find_usage

__all__ = [
    "TAIL",
    "Answer",
    "Framing",
    "Malformed",
    "PlainAnswer",
    "StreamAnswer",
    "UpstreamHead",
]

OK = 200
_EVENTS = b"text/event-stream"
HOLD_BYTES = 256 * 1024
"""A plain answer up to this size is held whole; a chat answer of 32k tokens is
about 150 KB. A larger one is passed on as it comes."""
HOLD_STREAM_BYTES = 64 * 1024
"""Of a stream without content so far: more than any life signs."""
MAX_TRANSLATED = 8 << 20
"""An answer that must be translated is held whole, up to this."""
# What a translator meets when an upstream does not keep to its own API.
_WRONG_SHAPE = (AttributeError, IndexError, KeyError, TypeError, ValueError)
TAIL = 4096
"""Enough of a passed answer's end to hold its usage object."""

# What a client is told of an upstream's head. The rest is about the upstream's
# connection, its cookies or its own quotas, and none of the client's business.
PASSED = frozenset(
    {
        b"content-encoding",
        b"content-type",
        b"openai-processing-ms",
        b"openai-version",
        b"retry-after",
    }
)
READ = PASSED | {b"content-length", b"transfer-encoding"}
"""What is kept of an upstream's head at all."""


class UpstreamHead(NamedTuple):
    status: int
    fields: dict[bytes, bytes]
    """Lower-case names, those in `READ`."""
    told: bytes
    """The lines of it that a client is told."""

    @classmethod
    def of(cls, status: int, fields: dict[bytes, bytes]) -> UpstreamHead:
        told = [b"%b: %b\r\n" % item for item in fields.items() if item[0] in PASSED]
        return cls(status, fields, b"".join(told))

    def with_length(self, length: int) -> UpstreamHead:
        fields = {**self.fields, b"content-length": b"%d" % length}
        return self._replace(fields=fields)

    @property
    def event_stream(self) -> bool:
        kind = self.fields.get(b"content-type", b"")
        return self.status == OK and kind.startswith((_EVENTS, EVENT_STREAM))


class Framing:
    """How a client can be answered."""

    __slots__ = ("chunked", "keep_alive")

    def __init__(self, *, keep_alive: bool, chunked: bool) -> None:
        self.keep_alive, self.chunked = keep_alive, chunked

    def head(self, status: int, lines: bytes, *, length: int | None) -> bytes:
        return response_head(
            status,
            lines,
            length=length,
            keep_alive=self.keep_alive,
            chunked=self.chunked,
        )


class Malformed(Exception):
    """An upstream's answer that cannot be passed on."""


class Answer(Protocol):
    """What the exchange asks of an answer, whatever its kind."""

    committed: bool
    head: UpstreamHead

    @property
    def events(self) -> int:
        """Of a stream's content so far; 0: it is none."""
        ...

    @property
    def usage(self) -> Usage | None:
        """What it cost, as far as the upstream has said."""
        ...

    def feed(self, data: bytes) -> bytes:
        """Take bytes of the body, give what the client gets now."""
        ...

    def end(self) -> bytes:
        """The upstream has said all; give what is left."""
        ...

    def broken(self, reason: str) -> bytes | None:
        """The upstream died after the commit: how to end; None: cut the client."""
        ...


class PlainAnswer:
    """An answer in one piece, held until it is whole or too large for that."""

    __slots__ = (
        "_framing",
        "_length",
        "_lines",
        "_parts",
        "_size",
        "_translated",
        "_translation",
        "committed",
        "events",
        "head",
        "usage",
    )

    def __init__(
        self,
        head: UpstreamHead,
        framing: Framing,
        lines: bytes,
        translation: Translation = PLAIN,
    ) -> None:
        self.head, self._framing = head, framing
        self._lines = head.told + lines
        self._translation = translation
        self._translated = translation is not PLAIN
        self._parts: list[bytes] = []
        self._size = 0
        self.committed = False
        self.events = 0
        self.usage: Usage | None = None
        length = head.fields.get(b"content-length")
        self._length = int(length) if length is not None else None

    @property
    def body(self) -> bytes:
        """What is held: all of it until the commit, then the end."""
        if len(self._parts) > 1:
            self._parts = [b"".join(self._parts)]
        return self._parts[0] if self._parts else b""

    def feed(self, data: bytes) -> bytes:
        self._parts.append(data)
        if self.committed:
            self._parts = [self.body[-TAIL:]]
            return self._framed(data)
        self._size += len(data)
        if self._size <= HOLD_BYTES:
            return b""
        if self._translated:
            if self._size > MAX_TRANSLATED:
                raise Malformed("larger than can be translated")
            return b""
        self.committed = True
        body = self.body
        self._parts = [body[-TAIL:]]
        head = self._framing.head(self.head.status, self._lines, length=self._length)
        return head + self._framed(body)

    def end(self) -> bytes:
        body = self._translate() if self._translated else self.body
        if not self.committed:
            self.committed = True
            if not self._translated:
                self.usage = find_usage(body[-TAIL:])
            status, length = self.head.status, len(body)
            return self._framing.head(status, self._lines, length=length) + body
        self.usage = find_usage(body[-TAIL:])
        return LAST_CHUNK if self._is_chunked else b""

    def _translate(self) -> bytes:
        body, status, way = self.body, self.head.status, self._translation
        try:
            if way.inward is not None:
                body = way.inward(body, status)
            self.usage = find_usage(body[-TAIL:])
            return way.outward(body, status) if way.outward is not None else body
        except _WRONG_SHAPE as error:
            raise Malformed("not in the shape of its API") from error

    def broken(self, reason: str) -> bytes | None:  # noqa: ARG002  nothing can carry it
        return None

    @property
    def _is_chunked(self) -> bool:
        return self._length is None and self._framing.chunked

    def _framed(self, data: bytes) -> bytes:
        return chunk(data) if self._is_chunked and data else data


class StreamAnswer:
    """A stream of events, held until its first content."""

    __slots__ = (
        "_client",
        "_framing",
        "_held",
        "_inward",
        "_lines",
        "_outward",
        "_raw",
        "_scanner",
        "committed",
        "ended",
        "head",
    )

    def __init__(
        self,
        head: UpstreamHead,
        framing: Framing,
        lines: bytes,
        translation: Translation = PLAIN,
        *,
        hide_usage: bool,
    ) -> None:
        self.head, self._framing = head, framing
        self._client = translation.client
        self._inward = translation.inward_events
        self._outward = translation.outward_events
        if self._inward is not None:
            fields = {**head.fields, b"content-type": _EVENTS}
            self.head = UpstreamHead.of(head.status, fields)
        self._lines = self.head.told + lines
        self._scanner = StreamScanner(hide_usage=hide_usage)
        self._raw = False
        """Committed, and the client gets the upstream's own events, chunked."""
        self._held: bytes | None = b""
        self.committed = False
        self.ended = False

    @property
    def raw_scanner(self) -> StreamScanner | None:
        """What must look at chunks that could go on as they came; None: none could."""
        return self._scanner if self._raw else None

    @property
    def usage(self) -> Usage | None:
        return self._scanner.usage

    @property
    def events(self) -> int:
        return self._scanner.events

    @property
    def alive(self) -> bool:
        """Something is here that is not content, and held back."""
        return bool(self._held)

    @property
    def error(self) -> str | None:
        """What the upstream said instead of content."""
        error = self._scanner.error
        return None if error is None else str(error.get("message", error))

    @property
    def done(self) -> bool:
        return self._scanner.done

    def feed(self, data: bytes) -> bytes:
        try:
            if self._inward is not None:
                data = self._inward.feed(data)
            out = self._scanner.feed(data)
            if self._outward is not None:
                out = self._outward.feed(out)
        except _WRONG_SHAPE as error:
            raise Malformed("not in the shape of its API") from error
        if self._held is None:
            return self._framed(out)
        self._held += out
        if self._scanner.content or len(self._held) > HOLD_STREAM_BYTES:
            return self.commit()
        return b""

    def commit(self) -> bytes:
        """Give the head and what was held: from here on nobody can take over."""
        held, self._held = self._held or b"", None
        self.committed = True
        translated = self._inward is not None or self._outward is not None
        self._raw = self._framing.chunked and not translated
        head = self._framing.head(self.head.status, self._lines, length=None)
        return head + self._framed(held)

    def end(self) -> bytes:
        out = b"" if self.committed else self.commit()
        self.ended = True
        rest = self._scanner.rest()
        if self._outward is not None:
            rest = self._outward.end()
        return out + self._framed(rest) + self._last()

    def broken(self, reason: str) -> bytes | None:
        """Tell the client in the stream: its library raises on such an event."""
        if self.ended:
            return None
        self._scanner.rest()  # half an event is no use to anyone
        body = error_for(self._client, 502, reason, code="upstream_lost")
        name = b"event: error\n" if self._client == "anthropic" else b""
        return self._framed(name + b"data: " + body + b"\n\n") + self._last()

    def _framed(self, data: bytes) -> bytes:
        return chunk(data) if self._framing.chunked and data else data

    def _last(self) -> bytes:
        return LAST_CHUNK if self._framing.chunked else b""
