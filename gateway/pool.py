"""The connections to one address: opened, lent, kept warm (I/O).

Last in first out, so that few connections stay warm and the rest age out. Called
by the worker for its tries. It never decides where a request goes.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Callable

from gateway.answer import UpstreamHead
from gateway.attempt import Attempt
from gateway.http1 import HEAD_END, Around
from gateway.snapshot import Address
from gateway.upstream import UpstreamConnection

__all__ = ["Pool"]

_OK = 200


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
        """The head that an ordinary answer had here last: the next may be the same."""
        self._idle: list[UpstreamConnection] = []
        self._all: set[UpstreamConnection] = set()
        self._opening: set[asyncio.Task[None]] = set()

    @property
    def empty(self) -> bool:
        return not self._all and not self._opening

    def lend(self, attempt: Attempt, *, fresh: bool, limit_s: float) -> None:
        """Call `connected` with a connection, at once if one is idle."""
        while self._idle and not fresh:
            connection = self._idle.pop()
            if connection.usable:
                connection.reused = True
                attempt.connected(connection)
                return
        task = self.loop.create_task(self._open(attempt, limit_s))
        self._opening.add(task)
        task.add_done_callback(self._opening.discard)

    async def _open(self, attempt: Attempt, limit_s: float) -> None:
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
            attempt.connect_failed("connect_timeout")
        except OSError as error:
            refused = isinstance(error, ConnectionRefusedError)
            attempt.connect_failed("refused" if refused else "unreachable")
        else:
            self._all.add(connection)
            attempt.connected(connection)

    def give_back(self, connection: UpstreamConnection) -> None:
        """Keep it for the next request, if there may be one."""
        if connection.paused:
            # Its client was slow at the end; the next one need not be.
            connection.resume()
        if self._wanted(self.address.url):
            connection.idle_since = time.monotonic()
            self._idle.append(connection)
        else:
            connection.close()

    def learn(self, data: bytes, head: UpstreamHead) -> None:
        """Keep the head of an answer that came whole, if it was an ordinary one."""
        if head.status != _OK or head.event_stream:
            return
        around = Around.of(data[: data.find(HEAD_END) + len(HEAD_END)])
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

    def retire(self) -> None:
        """Keep nothing warm any more."""
        self._wanted = lambda _: False
        self.close_idle()

    def abort(self) -> None:
        for task in self._opening:
            task.cancel()
        for connection in list(self._all):
            connection.abort()
