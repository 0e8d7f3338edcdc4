"""One connection to an upstream: what is asked, and the answer as it comes (I/O).

Opened and kept by its pool, lent to one try at a time. It frames and never looks
into a body.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, cast

import httptools

from gateway.answer import READ, UpstreamHead
from gateway.attempt import Attempt
from gateway.http1 import LAST_CHUNK, chunk

if TYPE_CHECKING:
    from gateway.pool import Pool

__all__ = ["UpstreamConnection"]

_MAX_FIELDS_BYTES = 64 * 1024
_EVENT_END = b"\n\n\r\n"
_SIZES = {b"%x" % size: size for size in range(8192)}
"""Of ordinary chunks, as they are written canonically: to look one up costs less than
to read it and to see that it could not be written otherwise."""
_SIZE_LINE = 6
"""Bytes in which such a size and its line's end are found."""


class UpstreamConnection(asyncio.Protocol):
    """One keep-alive connection; carries one try at a time."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._transport: asyncio.Transport | None = None
        self._attempt: Attempt | None = None
        self._parser = httptools.HttpResponseParser(self)
        self.reused = False
        self.idle_since = 0.0
        self.paused = False
        self._writable = asyncio.Event()
        self._writable.set()
        self._uploading: asyncio.Task[None] | None = None
        self._begin()

    def _begin(self) -> None:
        self._fields: dict[bytes, bytes] = {}
        self._fields_bytes = 0
        self._parts: list[bytes] = []
        self._head: UpstreamHead | None = None
        self._told = self._complete = self._keep = self._extra = False
        self._parsing = False
        """Bytes of this answer have gone to the parser."""
        self._between = self._aligned = False
        """``aligned``: the parser has come to the start of a chunk."""

    # What the attempt calls.

    def send(self, data: bytes, attempt: Attempt) -> None:
        assert self._transport is not None
        self._attempt = attempt
        if self._parsing:
            self._begin()
        self._transport.write(data)

    def upload(self, parts: AsyncIterator[bytes], *, chunked: bool) -> None:
        self._uploading = self._pool.loop.create_task(
            self._upload(parts, chunked=chunked)
        )

    async def _upload(self, parts: AsyncIterator[bytes], *, chunked: bool) -> None:
        async for part in parts:
            await self._writable.wait()
            if self._transport is None:
                return
            self._transport.write(chunk(part) if chunked else part)
        if chunked and self._transport is not None:
            self._transport.write(LAST_CHUNK)

    def abort(self) -> None:
        self._attempt = None
        if self._transport is not None:
            self._transport.abort()

    def pause(self) -> None:
        if self._transport is not None:
            self.paused = True
            self._transport.pause_reading()

    def resume(self) -> None:
        if self._transport is not None and self.paused:
            self.paused = False
            self._transport.resume_reading()

    # What the pool calls.

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    @property
    def usable(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    # What asyncio calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports do not derive from asyncio's, but are used alike.
        self._transport = cast("asyncio.Transport", transport)

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        self._end_upload()
        self._pool.forget(self)
        attempt, self._attempt = self._attempt, None
        if attempt is None:
            return
        if self._head is not None and self._until_close and error is None:
            attempt.completed()
        else:
            attempt.lost("reset" if error is not None else "closed")

    def data_received(self, data: bytes) -> None:
        attempt = self._attempt
        if attempt is None:
            self.abort()  # nobody asked
            return
        if self._aligned and _are_whole_chunks(data) and attempt.passed(data):
            return  # the parser is at the start of a chunk again
        known = self._pool.known
        if known is not None and not self._parsing and self._uploading is None:
            around, head = known
            body = around.body_in(data)
            if body is not None:
                self._attempt = None
                self._pool.give_back(self)
                attempt.whole(head, body)
                return
        self._parse(data, attempt)

    def _parse(self, data: bytes, attempt: Attempt) -> None:
        fresh, self._parsing = not self._parsing, True
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._fail(attempt)
            return
        self._aligned = self._between and data.endswith(b"\r\n")
        if self._head is None:
            if self._fields_bytes > _MAX_FIELDS_BYTES:
                self._fail(attempt)
            return
        if not self._told:
            self._told = True
            attempt.answered(self._head)
        if self._parts:
            parts, self._parts = self._parts, []
            attempt.received(parts[0] if len(parts) == 1 else b"".join(parts))
            if self._attempt is None:
                return  # it had enough
        if self._complete:
            self._end(attempt, data if fresh else None)

    def _end(self, attempt: Attempt, whole: bytes | None) -> None:
        """Part from the attempt; ``whole``: the answer, if it came in one piece."""
        self._attempt = None
        if self._end_upload() and self._keep and not self._extra:
            assert self._head is not None
            if whole is not None:
                self._pool.learn(whole, self._head)
            self._pool.give_back(self)
        else:
            self.close()
        attempt.completed()

    def _end_upload(self) -> bool:
        """Stop sending; true if nothing was left to send."""
        task, self._uploading = self._uploading, None
        return task is None or task.done() or not task.cancel()

    def _fail(self, attempt: Attempt) -> None:
        self.abort()
        attempt.lost("malformed")

    @property
    def _until_close(self) -> bool:
        fields = self._fields
        return b"content-length" not in fields and b"transfer-encoding" not in fields

    # What httptools calls.

    def on_message_begin(self) -> None:
        if self._complete:
            self._extra = True

    def on_header(self, name: bytes, value: bytes) -> None:
        self._fields_bytes += len(name) + len(value)
        name = name.lower()
        if name in READ and self._head is None:
            self._fields[name] = value

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if status >= 200 and not self._complete:  # noqa: PLR2004  below: interim
            self._head = UpstreamHead.of(status, self._fields)

    def on_body(self, part: bytes) -> None:
        if not self._extra:
            self._parts.append(part)

    def on_chunk_header(self) -> None:
        self._between = False

    def on_chunk_complete(self) -> None:
        self._between = True

    def on_message_complete(self) -> None:
        self._between = False
        if self._head is None:
            self._fields = {}  # 100 Continue and its like
            return
        self._complete = True
        # Only here does httptools know; asked later it says no.
        self._keep = self._parser.should_keep_alive()


def _are_whole_chunks(data: bytes) -> bool:
    """Say whether ``data`` is whole chunks, each of whole events, canonically framed.

    Then it can be passed on as it is: nobody reads it in two ways.
    """
    at, end = 0, len(data)
    while at < end:
        begin = data.find(b"\r\n", at, at + _SIZE_LINE)
        size = _SIZES.get(data[at:begin])
        if size is None:
            return False
        at = begin + size + 4
        # No event may go on in the next chunk: what matters in it would be cut.
        if data[at - 4 : at] != _EVENT_END:
            return False
    return at == end
