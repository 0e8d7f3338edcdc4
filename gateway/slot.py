"""One worker's place: its listening socket, and the process that is in it (I/O).

The supervisor keeps one for each core. The socket stays while processes come and
go, so a connection that waits for a worker that died is served by the next.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from asyncio.subprocess import Process, create_subprocess_exec
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from gateway.control import read_message, write_message
from gateway.metrics import Metrics
from schemas.errors import PermanentError

__all__ = ["Slot", "bind"]

_BACKLOG = 4096
_TREE = Path(__file__).resolve().parent.parent


def bind(address: str, *, shared: bool) -> socket.socket:
    """Bind ``host:port``.

    Raises:
        PermanentError: the address is taken or not ours.
    """
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        if shared:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, int(port)))
        listening.listen(_BACKLOG)
    except OSError as error:
        listening.close()
        raise PermanentError(
            f"cannot listen on {address}: {error.strerror}",
            hint="stop what listens there, or choose another address",
        ) from error
    listening.setblocking(False)
    return listening


class Slot:
    """Where one worker runs."""

    def __init__(self, listening: socket.socket) -> None:
        self.listening = listening
        self.process: Process | None = None
        self._writer: asyncio.StreamWriter | None = None
        self.applied = 0
        """The generation that this worker works by; 0: none yet."""
        self.id = 0
        """Of the process that is in it now; no two are alike."""
        self.spool: dict[str, str] | None = None
        """Where it leaves its records."""
        self.restarts = 0
        self.wanted: set[str] = set()
        """Limiters that it was told to return at once."""
        self.numbers: Metrics | None = None
        self._asked: asyncio.Future[None] | None = None

    @property
    def pid(self) -> int | None:
        return self.process.pid if self.process else None

    async def hire(self) -> asyncio.StreamReader:
        """Start a process."""
        ours, theirs = socket.socketpair()
        with theirs:
            self.process = await create_subprocess_exec(
                sys.executable,
                "-m",
                "gateway.worker",
                str(theirs.fileno()),
                str(self.listening.fileno()),
                pass_fds=(theirs.fileno(), self.listening.fileno()),
                env={**os.environ, "PYTHONPATH": str(_TREE)},
            )
        reader, self._writer = await asyncio.open_connection(sock=ours)
        return reader

    async def messages(
        self, reader: asyncio.StreamReader
    ) -> AsyncIterator[dict[str, Any]]:
        """Give what it says, until it is gone."""
        while (message := await read_message(reader)) is not None:
            if message["op"] != "numbers":
                yield message
                continue
            self.numbers = Metrics()
            self.numbers.merge(message["numbers"], gauges=True)
            if self._asked is not None and not self._asked.done():
                self._asked.set_result(None)

    async def part(self) -> int:
        """Wait for the end of a process that says nothing any more; its exit code."""
        if self._writer is not None:
            self._writer.close()
        self.applied, self._writer = 0, None
        assert self.process is not None
        return await self.process.wait()

    def tell(self, message: dict[str, Any]) -> bool:
        """Send a message; false: nobody is there."""
        if self._writer is None:
            return False
        write_message(self._writer, message)
        return True

    def ask_numbers(self) -> asyncio.Future[None] | None:
        """Have `numbers` renewed; None: there is nobody to ask."""
        if self._writer is None or not self.applied:
            return None
        if self._asked is None or self._asked.done():
            self._asked = asyncio.get_running_loop().create_future()
            self.tell({"op": "numbers"})
        return self._asked

    @property
    def runs(self) -> bool:
        return self.process is not None and self.process.returncode is None

    def terminate(self) -> None:
        """Have the process drain and end; the worker takes what it still has."""
        self.listening.close()
        if self.process is not None and self.runs:
            self.process.terminate()

    def kill(self) -> None:
        if self.process is not None and self.runs:
            self.process.kill()
