"""HTTP/1.1 as bytes: read one request, and write heads that nobody misreads.

A reverse proxy is attacked through what it and its neighbour read differently,
so a request is refused unless it can be read one way only, and nothing of a
client's framing is ever forwarded: heads are written anew on both sides. Used
by the edge; never touches a socket or a clock.
"""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import NamedTuple

import httptools

__all__ = [
    "HEAD_END",
    "LAST_CHUNK",
    "Head",
    "Refused",
    "RequestReader",
    "chunk",
    "response_head",
]

MAX_FIELDS = 100  # as in nginx' and Apache's defaults
FRAMING_SLACK = 64 * 1024
"""Bytes of chunk sizes, extensions and trailers that any body may cost; beyond
them a body must carry at least one byte for each `FRAMING_RATIO` received."""
FRAMING_RATIO = 8
HEAD_END = b"\r\n\r\n"
_MAX_DIGITS = 18  # a length that fits 64 bits with room to spare
_TARGET = re.compile(rb"/[!-~]*")
_LENGTH = re.compile(
    rb"\r\ncontent-length:[ \t]*([0-9]{1,%d})\r\n" % _MAX_DIGITS, re.IGNORECASE
)
_SINGLE = frozenset(
    {b"host", b"content-length", b"transfer-encoding", b"authorization", b"expect"}
)
LAST_CHUNK = b"0\r\n\r\n"


class Refused(Exception):
    """The request is not read any further; answer this and close."""

    def __init__(self, status: HTTPStatus, message: str, lines: bytes = b"") -> None:
        super().__init__(message)
        self.status, self.lines = status, lines


class Head(NamedTuple):
    """What a request's head says, once it has been found unambiguous."""

    method: bytes
    path: bytes
    fields: dict[bytes, bytes]
    """Lower-case names; of a repeated field the last value. Where requests of a
    connection share one head, the content-length is that of the first."""
    keep_alive: bool
    http10: bool


class Around(NamedTuple):
    """A head that was read, without the digits of its body's length.

    Programs send one head again and again on a connection, and only that number
    differs. Bytes that were found unambiguous once are so again.
    """

    before: bytes
    after: bytes

    @classmethod
    def of(cls, raw: bytes) -> Around | None:
        found = _LENGTH.search(raw)
        return found and cls(raw[: found.start(1)], raw[found.end(1) :])

    def length_in(self, raw: bytes) -> int | None:
        """Read the length if ``raw`` is the same head; None: it is another."""
        before, after = self
        if not (raw.startswith(before) and raw.endswith(after)):
            return None
        digits = raw[len(before) : len(raw) - len(after)]
        # bytes.isdigit knows only ASCII's, and not the empty string.
        return int(digits) if digits.isdigit() and len(digits) <= _MAX_DIGITS else None

    def body_in(self, data: bytes) -> bytes | None:
        """Give the body if ``data`` is the same head and a whole body, and no more."""
        before, after = self
        if not data.startswith(before):
            return None
        begin = len(before)
        end = data.find(after, begin, begin + _MAX_DIGITS + len(after))
        digits, body = data[begin:end], data[end + len(after) :]
        whole = end > 0 and digits.isdigit() and int(digits) == len(body)
        return body if whole else None


class RequestReader:
    """Reads requests one after another from the bytes of one connection.

    `push` what arrived, then `read_head` until it is there, then `read_body`
    until it is true, then `next`. Bytes behind a request wait for its turn.
    """

    __slots__ = (
        "_around",
        "_body",
        "_buffer",
        "_complete",
        "_fed",
        "_fields",
        "_known",
        "_max_body",
        "_max_head",
        "_parser",
        "_size",
        "_twice",
        "_url",
        "head",
        "length",
        "raw_head",
    )

    def __init__(self, *, max_head: int, max_body: int) -> None:
        self._max_head, self._max_body = max_head, max_body
        self._buffer = b""
        self._around: Around | None = None
        self._known: Head | None = None
        """What stands in ``_around``."""
        self._parser: httptools.HttpRequestParser | None = None
        """Of this request; None: its head was known and its body is not coded."""
        self._reset()

    def _reset(self) -> None:
        self.head: Head | None = None
        self.length = 0
        """Of the body; -1: chunked."""
        self.raw_head = b""
        self._body: list[bytes] = []
        self._size = self._fed = 0
        self._complete = False

    def push(self, data: bytes) -> None:
        self._buffer = self._buffer + data if self._buffer else data

    @property
    def received(self) -> int:
        """Bytes of the request that is being read."""
        return len(self.raw_head) + self._fed + len(self._buffer)

    @property
    def waiting(self) -> int:
        """Bytes that belong to no request yet."""
        return len(self._buffer)

    def take_raw(self) -> bytes:
        """Give up the connection: the head as it came and all that followed."""
        raw, self._buffer = self.raw_head + self._buffer, b""
        return raw

    def again(self, data: bytes) -> bytes | None:
        """Give a request's body if its head is the last one and ``data`` all of it."""
        around = self._around
        if around is None or self.head is not None or self._buffer:
            return None
        body = around.body_in(data)
        return body if body is not None and len(body) <= self._max_body else None

    def body(self) -> bytes:
        parts = self._body
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def next(self) -> None:
        """Forget the request that was read; the next one may be waiting."""
        if self.head is not None:
            self._reset()

    def read_head(self) -> bool:
        """Read the head if all of it is here.

        Raises:
            Refused: it is malformed, ambiguous or too large.
        """
        buffer = self._buffer
        end = buffer.find(HEAD_END) + len(HEAD_END)
        if end < len(HEAD_END) or end > self._max_head:
            self._check_partial(buffer)
            return False
        raw = buffer[:end]
        self._buffer, self.raw_head = buffer[end:], raw
        around = self._around
        length = None if around is None else around.length_in(raw)
        if length is None:
            self.head = self._parse(raw)
        else:
            self.head, self.length = self._known, length
        return True

    def _parse(self, raw: bytes) -> Head:
        if raw.count(b"\r") != raw.count(b"\n") or raw[:1] == b"\r":
            raise Refused(HTTPStatus.BAD_REQUEST, "a bare CR or LF")
        fields: dict[bytes, bytes] = {}
        self._fields = fields
        self._twice: bytes | None = None
        self._url = b""
        parser = httptools.HttpRequestParser(self)
        try:
            parser.feed_data(raw)
        except httptools.HttpParserUpgrade:
            pass  # whether to upgrade is for whoever serves the path
        except httptools.HttpParserInvalidMethodError as error:
            raise Refused(HTTPStatus.NOT_IMPLEMENTED, "unknown method") from error
        except httptools.HttpParserError as error:
            raise Refused(HTTPStatus.BAD_REQUEST, str(error).lower()) from error
        head = self._judge(parser, fields)
        self.length = self._length(fields, http10=head.http10)
        self._parser = parser
        self._known, self._around = head, Around.of(raw)
        return head

    def _check_partial(self, buffer: bytes) -> None:
        if len(buffer) >= self._max_head:
            raise Refused(
                HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
                f"the head is larger than {self._max_head} bytes",
            )
        # A head that can only be wrong is refused before its sender waits.
        if b"\n" in buffer:
            _check_lines(buffer[: buffer.rfind(b"\n") + 1])
        elif buffer[:1] and not buffer[:1].isalpha():
            raise Refused(HTTPStatus.BAD_REQUEST, "not an HTTP request")

    def _judge(
        self, parser: httptools.HttpRequestParser, fields: dict[bytes, bytes]
    ) -> Head:
        if self._twice is not None:
            raise Refused(
                HTTPStatus.BAD_REQUEST, f"two {self._twice.decode('ascii')} fields"
            )
        version = parser.get_http_version()
        if version not in {"1.1", "1.0"}:
            raise Refused(
                HTTPStatus.HTTP_VERSION_NOT_SUPPORTED, f"HTTP/{version} is not spoken"
            )
        http10 = version == "1.0"
        if not http10 and not fields.get(b"host"):
            raise Refused(HTTPStatus.BAD_REQUEST, "no host field")
        if len(fields) > MAX_FIELDS:
            raise Refused(
                HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
                f"more than {MAX_FIELDS} fields",
            )
        if not _TARGET.fullmatch(self._url):
            raise Refused(
                HTTPStatus.BAD_REQUEST, "the target is not a path of visible ASCII"
            )
        tokens = fields.get(b"connection")
        return Head(
            parser.get_method(),
            self._url.partition(b"?")[0],
            fields,
            not http10 and (tokens is None or b"close" not in tokens.lower()),
            http10,
        )

    def _length(self, fields: dict[bytes, bytes], *, http10: bool) -> int:
        coding = fields.get(b"transfer-encoding")
        if coding is not None:
            if http10 or b"content-length" in fields:
                raise Refused(HTTPStatus.BAD_REQUEST, "two ways to frame one body")
            if coding.lower() != b"chunked":
                raise Refused(
                    HTTPStatus.NOT_IMPLEMENTED, "only the chunked coding is spoken"
                )
            return -1
        text = fields.get(b"content-length", b"0")
        if not text.isdigit() or len(text) > _MAX_DIGITS:
            raise Refused(HTTPStatus.BAD_REQUEST, "content-length is not a number")
        return int(text)

    def read_body(self) -> bool:
        """Read what is here of the body; true once all of it is.

        Raises:
            Refused: it is too large, or its chunks are malformed.
        """
        if self.length >= 0:
            return self._read_plain()
        data, self._buffer = self._buffer, b""
        self._fed += len(data)
        if data:
            assert self._parser is not None
            try:
                self._parser.feed_data(data)
            except httptools.HttpParserError as error:
                raise Refused(HTTPStatus.BAD_REQUEST, str(error).lower()) from error
        if self._size > self._max_body:
            raise self._too_large()
        if self._fed > FRAMING_SLACK + FRAMING_RATIO * self._size:
            raise Refused(HTTPStatus.BAD_REQUEST, "the chunks are mostly framing")
        return self._complete

    def _read_plain(self) -> bool:
        """Take what the length says; the bytes need no parser."""
        if self.length > self._max_body:
            raise self._too_large()
        data, rest = self._buffer, self.length - self._fed
        if len(data) > rest:
            data, self._buffer = data[:rest], data[rest:]
        else:
            self._buffer = b""
        if data:
            self._fed += len(data)
            self._body.append(data)
        return self._fed == self.length

    def _too_large(self) -> Refused:
        return Refused(
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
            f"the body is larger than {self._max_body} bytes",
        )

    # What httptools calls.

    def on_message_begin(self) -> None:
        if self._complete:
            # Only behind a chunked body can a second request hide from the
            # boundary that we cut at; nobody pipelines those.
            raise Refused(HTTPStatus.BAD_REQUEST, "a request behind a chunked body")

    def on_url(self, part: bytes) -> None:
        self._url += part

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        fields = self._fields
        if name in fields:
            if name in _SINGLE:
                self._twice = name
            elif name == b"connection":
                value = fields[name] + b"," + value
        fields[name] = value

    def on_headers_complete(self) -> None:
        # What follows are trailers, and nothing may be decided by one.
        self._fields = {}

    def on_body(self, part: bytes) -> None:
        self._size += len(part)
        self._body.append(part)

    def on_message_complete(self) -> None:
        self._complete = True


def _check_lines(raw: bytes) -> None:
    """Refuse what parsers are known to split differently."""
    breaks = raw.count(b"\r\n")
    if raw.count(b"\n") != breaks or raw.count(b"\r") != breaks:
        raise Refused(HTTPStatus.BAD_REQUEST, "a bare CR or LF")
    if b"\r\n " in raw or b"\r\n\t" in raw:
        raise Refused(HTTPStatus.BAD_REQUEST, "a folded field")
    if b"\0" in raw:
        raise Refused(HTTPStatus.BAD_REQUEST, "a NUL")
    if raw[:1] == b"\r":
        raise Refused(HTTPStatus.BAD_REQUEST, "an empty line before the request")


_LINES = {
    status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode()
    for status in HTTPStatus
}


def response_head(
    status: int,
    fields: bytes,
    *,
    length: int | None,
    keep_alive: bool = True,
    chunked: bool = True,
) -> bytes:
    """Write a response's head; ``length`` None is chunked, or until close.

    ``fields`` are whole lines, each with the CRLF that ends it.
    """
    line = _LINES.get(status) or b"HTTP/1.1 %d Status\r\n" % status
    close = b"" if keep_alive else b"connection: close\r\n"
    if length is not None:
        return b"%b%b%bcontent-length: %d\r\n\r\n" % (line, fields, close, length)
    coding = b"transfer-encoding: chunked\r\n" if chunked else b""
    return b"%b%b%b%b\r\n" % (line, fields, close, coding)


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)
