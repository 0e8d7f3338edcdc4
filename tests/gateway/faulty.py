"""An upstream in a process of its own, that fails as it is told and keeps count.

usage: python faulty.py FAULT LEDGER

Prints its port. FAULT is one of `FAULTS`, or ``none``. Each answer is a line of JSON
in LEDGER: the request's id, tokens read, tokens sent, and whether all were sent. A
token is a word of the answer, and in a stream a chunk.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import socket
import struct
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, NamedTuple

STREAM = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"
    b"transfer-encoding: chunked\r\n\r\n"
)


class Part(NamedTuple):
    tokens: int
    data: bytes


class Told(NamedTuple):
    """One request, and what a sound upstream would send for it."""

    writer: asyncio.StreamWriter
    parts: list[Part]
    note: Callable[[int], None]
    """Count the tokens of so many parts, before the last of them is sent."""


def head(status: int, length: int) -> bytes:
    return (
        b"HTTP/1.1 %d X\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
        % (status, length)
    )


def events(*documents: dict[str, Any] | str) -> bytes:
    data = b"".join(
        b"data: %b\n\n" % (d if isinstance(d, str) else json.dumps(d)).encode()
        for d in documents
    )
    return b"%x\r\n%b\r\n" % (len(data), data)


def delta(finish: str | None = None, **fields: str) -> dict[str, Any]:
    choice = {"index": 0, "delta": fields, "finish_reason": finish}
    return {"object": "chat.completion.chunk", "choices": [choice]}


def parts_of(asked: dict[str, Any], given: int, count: int) -> list[Part]:
    usage = {"prompt_tokens": given, "completion_tokens": count}
    words = [f"w{n} " for n in range(count)]
    if asked.get("stream"):
        end: list[dict[str, Any] | str] = [
            delta("stop"),
            {"choices": [], "usage": usage},
        ]
        return [
            Part(0, STREAM + events(delta(role="assistant"))),
            *(Part(1, events(delta(content=word))) for word in words),
            Part(0, events(*end, "[DONE]") + b"0\r\n\r\n"),
        ]
    message = {"role": "assistant", "content": "".join(words)}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    document = {"object": "chat.completion", "choices": [choice], "usage": usage}
    body = json.dumps(document).encode()
    return [
        Part(0, head(200, len(body))),
        Part(0, body[:40]),
        Part(count, body[40:]),
    ]


async def send(told: Told, count: int) -> None:
    told.note(count)
    for part in told.parts[:count]:
        told.writer.write(part.data)
        await told.writer.drain()


async def sound(told: Told) -> None:
    await send(told, len(told.parts))


async def kill(_: Told) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


async def reset(told: Told) -> None:
    linger = struct.pack("ii", 1, 0)
    line = told.writer.get_extra_info("socket")
    line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    told.writer.transport.abort()


async def close(told: Told) -> None:
    told.writer.close()


async def hang(_: Told) -> None:
    await asyncio.Event().wait()


async def refuse(told: Told) -> None:
    told.writer.write(head(503, 2) + b"{}")


async def crawl(told: Told) -> None:
    for byte in b"HTTP/1.1 200 OK\r\nx-slow: " + b"a" * 9999:
        told.writer.write(bytes([byte]))
        await asyncio.sleep(0.02)


def after(count: int, then: Callable[[Told], Awaitable[None]]) -> Any:
    """Fail after so many parts; 0: in the middle of the head."""

    async def fail(told: Told) -> None:
        if count:
            await send(told, count)
        else:
            told.writer.write(told.parts[0].data[:30])
            await told.writer.drain()
        await then(told)

    return fail


async def error_event(told: Told) -> None:
    told.writer.write(STREAM + events({"error": {"message": "boom"}}) + b"0\r\n\r\n")


async def framed_twice(told: Told) -> None:
    told.writer.write(STREAM.replace(b"\r\n\r\n", b"\r\ncontent-length: 2\r\n\r\n"))
    told.writer.write(b"0\r\n\r\n")


def lie(by: int, *, late: bool = False) -> Any:
    """Announce more or less than is sent, in the length or the first chunk's size."""

    async def answer(told: Told) -> None:
        first, *rest = (part.data for part in told.parts)
        before, mark, size = first.partition(b"content-length: ")
        body = b"".join(rest)
        if mark:
            first = before + mark + b"%d\r\n\r\n" % (int(size) + by)
        else:
            line, _, tail = first.removeprefix(STREAM).partition(b"\r\n")
            first, body = STREAM + b"%x\r\n" % (int(line, 16) + by), tail + body
        told.writer.write(first + (body[:by] if late else body))
        if late:
            await asyncio.sleep(0.05)
            told.writer.write(body[by:])
        if by > 0:
            told.writer.close()

    return answer


FAULTS: dict[str, Callable[[Told], Awaitable[None]]] = {
    "answers 503": refuse,
    "killed": kill,
    "killed in the head": after(0, kill),
    "killed before content": after(1, kill),
    "killed in the content": after(3, kill),
    "resets": reset,
    "resets before content": after(1, reset),
    "resets in the content": after(3, reset),
    "closes before content": after(1, close),
    "hangs": hang,
    "hangs before content": after(1, hang),
    "sends a byte at a time": crawl,
    "sends an error event": error_event,
    "announces more": lie(40),
    "announces less": lie(-40),
    "announces less, sends the rest later": lie(-40, late=True),
    "is framed twice": framed_twice,
    "none": sound,
}


class Upstream:
    """Answers each request in the one way it was told."""

    def __init__(self, behave: Callable[[Told], Awaitable[None]], ledger: int) -> None:
        self._behave, self._ledger = behave, ledger

    async def serve(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while not writer.is_closing():
                given = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
                lines = given.split("\r\n")[1:]
                fields = dict(line.split(": ", 1) for line in lines if line)
                body = await reader.readexactly(int(fields["content-length"]))
                await self._behave(self._told(writer, fields, json.loads(body)))
                await writer.drain()
        writer.close()

    def _told(
        self, writer: asyncio.StreamWriter, fields: dict[str, str], asked: Any
    ) -> Told:
        count, given = random.randint(3, 12), random.randint(1, 900)
        parts = parts_of(asked, given, count)

        def note(sent: int) -> None:
            line = {
                "id": fields["x-request-id"],
                "input": given,
                "output": sum(part.tokens for part in parts[:sent]),
                "whole": sent == len(parts),
            }
            os.write(self._ledger, json.dumps(line).encode() + b"\n")

        return Told(writer, parts, note)


async def main(fault: str, ledger: str) -> None:
    file = os.open(ledger, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    upstream = Upstream(FAULTS[fault], file)
    server = await asyncio.start_server(upstream.serve, "127.0.0.1", 0)
    sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
