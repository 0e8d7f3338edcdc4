"""Connections to upstreams: opened, pooled, read (I/O).

A pool for each address, last in first out, so that few connections stay warm
and the rest age out. Called by the worker for its exchanges. It never decides
where a request goes and never looks into a body.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from typing import cast

import httptools

from gateway.answer import READ, UpstreamHead
from gateway.exchange import Exchange
from gateway.http1 import LAST_CHUNK, Around, chunk
from gateway.snapshot import Address

__all__ = ["Pool", "UpstreamConnection"]

_MAX_FIELDS_BYTES = 64 * 1024
_HEAD_END = b"\r\n\r\n"
_SIZE_LINE = 8
"""Bytes in which the size of an ordinary chunk and its line's end are found."""
_OK = 200


class UpstreamConnection(asyncio.Protocol):
    """One keep-alive connection; carries one exchange at a time."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._transport: asyncio.Transport | None = None
        self._exchange: Exchange | None = None
        self._parser = httptools.HttpResponseParser(self)
        self.reused = False
        self.idle_since = 0.0
        self._paused = False
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

    # What the exchange calls.

    def send(self, data: bytes, exchange: Exchange) -> None:
        assert self._transport is not None
        self._exchange = exchange
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
        self._exchange = None
        if self._transport is not None:
            self._transport.abort()

    def pause(self) -> None:
        if self._transport is not None:
            self._paused = True
            self._transport.pause_reading()

    def resume(self) -> None:
        if self._transport is not None and self._paused:
            self._paused = False
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
        exchange, self._exchange = self._exchange, None
        if exchange is None:
            return
        if self._head is not None and self._until_close and error is None:
            exchange.completed()
        else:
            exchange.lost("reset" if error is not None else "closed")

    def data_received(self, data: bytes) -> None:
        exchange = self._exchange
        if exchange is None:
            self.abort()  # nobody asked
            return
        if self._aligned and _is_one_chunk(data) and exchange.passed(data):
            return  # the parser is at the start of a chunk again
        if self._parsing or not self._take_whole(data, exchange):
            self._parse(data, exchange)

    def _parse(self, data: bytes, exchange: Exchange) -> None:
        fresh, self._parsing = not self._parsing, True
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._fail(exchange)
            return
        self._aligned = self._between and data.endswith(b"\r\n")
        if self._head is None:
            if self._fields_bytes > _MAX_FIELDS_BYTES:
                self._fail(exchange)
            return
        if not self._told:
            self._told = True
            exchange.answered(self._head)
        if self._parts:
            parts, self._parts = self._parts, []
            exchange.received(parts[0] if len(parts) == 1 else b"".join(parts))
            if self._exchange is None:
                return  # it had enough
        if self._complete:
            self._end(exchange, data if fresh else None)

    def _end(self, exchange: Exchange, whole: bytes | None) -> None:
        """Part from the exchange; ``whole``: the answer, if it came in one piece."""
        self._exchange = None
        if self._end_upload() and self._keep and not self._extra:
            assert self._head is not None
            if whole is not None and self._head.status == _OK:
                self._pool.learn(whole, self._head)
            self._pool.give_back(self)
        else:
            self.close()
        exchange.completed()

    def _take_whole(self, data: bytes, exchange: Exchange) -> bool:
        """Take an answer in one piece, behind a head that was seen here before."""
        known = self._pool.known
        if known is None or self._uploading is not None:
            return False
        around, head = known
        end = data.find(_HEAD_END) + len(_HEAD_END)
        length = around.length_in(data[:end])
        if length is None or length != len(data) - end:
            return False
        self._exchange = None
        self._pool.give_back(self)
        exchange.answered(head.with_length(length))
        exchange.received(data[end:])
        exchange.completed()
        return True

    def _end_upload(self) -> bool:
        """Stop sending; true if nothing was left to send."""
        task, self._uploading = self._uploading, None
        return task is None or task.done() or not task.cancel()

    def _fail(self, exchange: Exchange) -> None:
        self.abort()
        exchange.lost("malformed")

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
            self._head = UpstreamHead(status, self._fields)

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


class Pool:
    """The connections to one address."""

    def __init__(
        self,
        address: Address,
        loop: asyncio.AbstractEventLoop,
        tls: ssl.SSLContext | None,
        *,
        wanted: Callable[[str], bool],
    ) -> None:
        self.address = address
        self.loop, self._tls, self._wanted = loop, tls, wanted
        self.known: tuple[Around, UpstreamHead] | None = None
        """The head that an answer had here last, for `take_whole`."""
        self._idle: list[UpstreamConnection] = []
        self._all: set[UpstreamConnection] = set()
        self._opening: set[asyncio.Task[None]] = set()

    @property
    def empty(self) -> bool:
        return not self._all and not self._opening

    def lend(self, exchange: Exchange, *, fresh: bool, limit_s: float) -> None:
        """Call `connected` with a connection, at once if one is idle."""
        while self._idle and not fresh:
            connection = self._idle.pop()
            if connection.usable:
                connection.reused = True
                exchange.connected(connection)
                return
        task = self.loop.create_task(self._open(exchange, limit_s))
        self._opening.add(task)
        task.add_done_callback(self._opening.discard)

    async def _open(self, exchange: Exchange, limit_s: float) -> None:
        address = self.address
        try:
            async with asyncio.timeout(limit_s):
                _, connection = await self.loop.create_connection(
                    lambda: UpstreamConnection(self),
                    address.host,
                    address.port,
                    ssl=self._tls if address.tls else None,
                )
        except TimeoutError:
            exchange.connect_failed("connect_timeout")
        except OSError as error:
            refused = isinstance(error, ConnectionRefusedError)
            exchange.connect_failed("refused" if refused else "unreachable")
        else:
            self._all.add(connection)
            exchange.connected(connection)

    def give_back(self, connection: UpstreamConnection) -> None:
        """Keep it for the next request, if there may be one."""
        # A client that was slow at the end must not silence it for the next one.
        connection.resume()
        if connection.usable and self._wanted(self.address.url):
            connection.idle_since = self.loop.time()
            self._idle.append(connection)
        else:
            connection.close()

    def learn(self, data: bytes, head: UpstreamHead) -> None:
        """Keep the head of an answer that came whole; the next may be the same."""
        around = Around.of(data[: data.find(_HEAD_END) + len(_HEAD_END)])
        if around is not None:
            self.known = around, head

    def forget(self, connection: UpstreamConnection) -> None:
        self._all.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)

    def close_idle(self, *, before: float | None = None) -> None:
        """Close what is idle, all or since before a time of the loop's clock."""
        old = [c for c in self._idle if before is None or c.idle_since < before]
        for connection in old:
            self._idle.remove(connection)
            connection.close()

    def abort(self) -> None:
        for task in self._opening:
            task.cancel()
        for connection in list(self._all):
            connection.abort()


def _is_one_chunk(data: bytes) -> bool:
    """Say whether ``data`` is one whole chunk, of whole events, canonically framed.

    Then it can be passed on as it is: nobody reads it in two ways.
    """
    start = data.find(b"\r\n", 0, _SIZE_LINE) + 2
    return data.endswith(b"\n\n\r\n") and data.startswith(
        b"%x\r\n" % (len(data) - start - 2)
    )
