"""One worker process: the data path on one core (I/O).

Started by the supervisor with two file descriptors, the socket it accepts from
and the one it is told things through. It reads no config file: the snapshot is
brought to it.
"""

from __future__ import annotations

import asyncio
import functools
import gc
import os
import signal
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import uvloop

from gateway.control import read_message, write_message
from gateway.files import Bundle, compile_bundle
from gateway.logs import configure
from gateway.runtime import Worker
from gateway.snapshot import Snapshot
from gateway.tls import listening_context

if TYPE_CHECKING:
    from gateway.store import Store

__all__ = ["main"]

_BACKLOG = 4096


async def serve(control: socket.socket, listening: socket.socket) -> None:
    """Run until told to stop, or until the supervisor is gone."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    loop.add_signal_handler(signal.SIGINT, lambda: None)  # the supervisor's to answer
    reader, writer = await asyncio.open_connection(sock=control)
    first = await read_message(reader)
    if first is None:
        return
    spool = first["spool"]
    worker = Worker(
        _compile(first),
        loop,
        seed=int.from_bytes(os.urandom(8)),
        tell=functools.partial(write_message, writer),
        spool=(Path(spool["folder"]), spool["name"]) if spool else None,
        store=_store(first["store"]),
    )
    await worker.start()
    server = await loop.create_server(
        worker.downstream,
        sock=listening,
        backlog=_BACKLOG,
        ssl=listening_context(first["tls"]),
    )
    # What lives now lives for ever: collections need not walk it again.
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)
    write_message(writer, {"op": "applied", "generation": first["generation"]})

    async def obey() -> None:
        while (message := await read_message(reader)) is not None:
            _obey(worker, message, writer)
        stop.set()

    async with asyncio.TaskGroup() as tasks:
        listening_task = tasks.create_task(obey())
        await stop.wait()
        server.close()
        await worker.drain()
        listening_task.cancel()
    await worker.close()


def _store(given: dict[str, Any] | None) -> Store | None:
    if given is None:
        return None
    from gateway.store import open_store  # noqa: PLC0415  see `documents`

    return open_store(**given)


def _obey(
    worker: Worker, message: dict[str, Any], writer: asyncio.StreamWriter
) -> None:
    if message["op"] == "snapshot":
        worker.swap(_compile(message))
        write_message(writer, {"op": "applied", "generation": message["generation"]})
    elif message["op"] == "loads":
        worker.heard(message["loads"])
    elif message["op"] == "granted":
        worker.granted(message)
    elif message["op"] == "wanted":
        worker.wanted(message)
    elif message["op"] == "numbers":
        numbers = worker.numbers().dump()
        write_message(writer, {"op": "numbers", "numbers": numbers})


def _compile(message: dict[str, Any]) -> Snapshot:
    return compile_bundle(Bundle(**message["bundle"]))


def main() -> None:
    configure()
    control, listening = (socket.socket(fileno=int(fd)) for fd in sys.argv[1:3])
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(control, listening))


if __name__ == "__main__":
    main()
