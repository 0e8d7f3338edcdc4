"""A real gateway process, and upstreams that do on the wire what they are told."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import openai
import pytest

from schemas.gateway import (
    Addresses,
    GatewayConfig,
    Key,
    Listener,
    Route,
    Target,
    Upstream,
    hash_key,
)
from schemas.gateway_toml import dump, dump_addresses
from schemas.units import Duration

TREE = Path(__file__).resolve().parents[2]
KEY = "bud-test-key-0001"
_NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
LISTENER = Listener(
    listen="127.0.0.1:0",
    admin="127.0.0.1:0",
    hold=Duration("5s"),
    drain=Duration("5s"),
)


@dataclass
class Asked:
    """One request as an upstream saw it."""

    path: str
    headers: dict[str, str]
    body: dict[str, Any]
    raw: bytes = b""


Behaviour = Callable[[asyncio.StreamWriter, Asked], Awaitable[None]]


def respond(
    status: int, document: object, *, headers: str = "", close: bool = False
) -> Behaviour:
    async def behave(writer: asyncio.StreamWriter, asked: Asked) -> None:
        body = json.dumps(document).encode()
        writer.write(
            f"HTTP/1.1 {status} X\r\ncontent-type: application/json\r\n{headers}"
            f"content-length: {len(body)}\r\n\r\n".encode()
            + body
        )
        if close:
            writer.close()

    return behave


def chat_document(
    text: str = "hello", *, prompt: int = 7, output: int = 3
) -> dict[str, Any]:
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "upstream-name",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": text},
                "finish_reason": "stop",
            }
        ],
        "usage": {
            "prompt_tokens": prompt,
            "completion_tokens": output,
            "total_tokens": prompt + output,
        },
    }


def event(document: object) -> bytes:
    return b"data: " + json.dumps(document).encode() + b"\n\n"


def delta(
    content: str | None = None, *, finish: str | None = None, role: str | None = None
) -> bytes:
    inner = {"role": role} if role else {} if content is None else {"content": content}
    return event(
        {
            "id": "chatcmpl-1",
            "object": "chat.completion.chunk",
            "created": 1,
            "model": "m",
            "choices": [{"index": 0, "delta": inner, "finish_reason": finish}],
        }
    )


def usage_event(prompt: int, output: int) -> bytes:
    return event(
        {
            "id": "chatcmpl-1",
            "object": "chat.completion.chunk",
            "created": 1,
            "model": "m",
            "choices": [],
            "usage": {
                "prompt_tokens": prompt,
                "completion_tokens": output,
                "total_tokens": prompt + output,
            },
        }
    )


def stream_of(
    *parts: bytes | Callable[[], Awaitable[object]], end: str = "done"
) -> Behaviour:
    """Send parts as they are, wait where a part is awaitable, then end.

    ``end``: done (a proper end), close (the connection dies), hang.
    """

    async def behave(writer: asyncio.StreamWriter, asked: Asked) -> None:
        writer.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"
            b"transfer-encoding: chunked\r\n\r\n"
        )
        for part in parts:
            if isinstance(part, bytes):
                writer.write(b"%x\r\n%b\r\n" % (len(part), part))
                await writer.drain()
            else:
                await part()
        if end == "done":
            writer.write(b"0\r\n\r\n")
        elif end == "close":
            await writer.drain()
            writer.transport.abort()
        else:
            await asyncio.Event().wait()

    return behave


async def reset(writer: asyncio.StreamWriter, asked: Asked) -> None:
    writer.transport.abort()


async def hang(writer: asyncio.StreamWriter, asked: Asked) -> None:
    await asyncio.Event().wait()


async def default(writer: asyncio.StreamWriter, asked: Asked) -> None:
    if asked.path.endswith("/embeddings"):
        await respond(
            200,
            {
                "object": "list",
                "model": "m",
                "data": [{"object": "embedding", "index": 0, "embedding": [0.5, 1.0]}],
                "usage": {"prompt_tokens": 2, "total_tokens": 2},
            },
        )(writer, asked)
    elif asked.path == "/tokenize":
        await respond(200, {"count": 3, "max_model_len": 8192, "tokens": [1, 2, 3]})(
            writer, asked
        )
    elif asked.body.get("stream"):
        parts = [
            delta(role="assistant"),
            delta("hel"),
            delta("lo"),
            delta(finish="stop"),
        ]
        if (asked.body.get("stream_options") or {}).get("include_usage"):
            parts.append(usage_event(7, 3))
        await stream_of(*parts, b"data: [DONE]\n\n")(writer, asked)
    else:
        await respond(200, chat_document())(writer, asked)


class MockUpstream:
    """An OpenAI-like server of this process; `script` says what it does next."""

    def __init__(self) -> None:
        self.asked: list[Asked] = []
        self.script: deque[Behaviour] = deque()
        self.always: Behaviour = default
        self.connections = 0
        self.shown: list[str] = []
        """Whose certificates its clients showed, by connection."""
        self.received = 0
        """Bytes of chunked bodies so far."""
        self.open = 0
        self.port = 0
        self._server: asyncio.Server | None = None
        self._tls: ssl.SSLContext | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        scheme = "http" if self._tls is None else "https"
        return f"{scheme}://127.0.0.1:{self.port}"

    async def start(self, port: int = 0, *, tls: ssl.SSLContext | None = None) -> None:
        self._tls = tls
        self._server = await asyncio.start_server(
            self._serve, "127.0.0.1", port, ssl=tls
        )
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def until_open(self, count: int) -> None:
        """Wait until so many connections are open."""
        async with asyncio.timeout(30):
            while self.open != count:
                await asyncio.sleep(0.01)

    async def _serve(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        self.open += 1
        shown = writer.get_extra_info("peercert")
        if shown:
            [[(_, name)]] = shown["subject"]
            self.shown.append(name)
        try:
            while True:
                await self._one(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        except asyncio.CancelledError:
            writer.transport.abort()
        finally:
            self.open -= 1
            self._tasks.discard(task)
            writer.close()

    async def _body(
        self, reader: asyncio.StreamReader, headers: dict[str, str]
    ) -> bytes:
        if headers.get("transfer-encoding") != "chunked":
            return await reader.readexactly(int(headers.get("content-length", "0")))
        parts = []
        # Nothing: the gateway left in the middle.
        while size := int(await reader.readline() or b"0", 16):
            parts.append(await reader.readexactly(size))
            self.received += size
            await reader.readexactly(2)
        await reader.readexactly(2)
        return b"".join(parts)

    async def _one(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in head[1:] if line)
        body = await self._body(reader, headers)
        form = headers.get("content-type", "").startswith("multipart/")
        document = {} if form else json.loads(body or b"{}")
        asked = Asked(head[0].split(" ")[1], headers, document, body)
        self.asked.append(asked)
        behave = self.script.popleft() if self.script else self.always
        watch = asyncio.ensure_future(behave(writer, asked))
        # A behaviour that hangs ends when the gateway closes the connection.
        gone = asyncio.ensure_future(_closed(reader))
        try:
            await asyncio.wait({watch, gone}, return_when="FIRST_COMPLETED")
        finally:
            gone.cancel()
            watch.cancel()
            with suppress(asyncio.CancelledError, ConnectionError):
                await watch


async def _closed(reader: asyncio.StreamReader) -> None:
    while not reader.at_eof():
        await asyncio.sleep(0.01)


@dataclass
class Gateway:
    """A gateway process and the directory that it is told by."""

    folder: Path
    process: subprocess.Popen[bytes]
    listen: str
    admin: str
    clients: list[openai.AsyncOpenAI] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://{self.listen}"

    def client(self, key: str = KEY, **options: Any) -> openai.AsyncOpenAI:
        if "http_client" not in options:
            # Each would read all the system's authorities, for a plain connection.
            options["http_client"] = openai.DefaultAsyncHttpxClient(verify=_NO_TLS)
        client = openai.AsyncOpenAI(
            base_url=self.url + "/v1",
            api_key=key,
            max_retries=0,
            timeout=30,
            **options,
        )
        self.clients.append(client)
        return client

    async def show(self, path: str) -> str:
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"http://{self.admin}{path}") as answer,
        ):
            return await answer.text()

    async def status(self) -> dict[str, Any]:
        document: dict[str, Any] = json.loads(await self.show("/status"))
        return document

    async def until(
        self, condition: Callable[[dict[str, Any]], bool]
    ) -> dict[str, Any]:
        """Wait for a status."""
        async with asyncio.timeout(60):
            while not condition(status := await self.status()):
                await asyncio.sleep(0.02)
        return status

    async def until_shown(self, text: str) -> None:
        """Wait for a line of the metrics."""
        async with asyncio.timeout(30):
            while text not in await self.show("/metrics"):
                await asyncio.sleep(0.01)

    async def configure(self, config: GatewayConfig) -> dict[str, Any]:
        before = (await self.status())["generation"]
        write(self.folder / "gateway.toml", dump(config))
        return await self.until(lambda s: s["generation"] > before)

    async def discover(self, **upstreams: tuple[str, ...]) -> dict[str, Any]:
        before = (await self.status())["addresses"]
        named = {f"team/{name}": urls for name, urls in upstreams.items()}
        write(
            self.folder / "addresses.json",
            dump_addresses(Addresses(upstreams=named)),
        )
        return await self.until(lambda s: s["addresses"] != before)

    async def close(self) -> None:
        while self.clients:
            await self.clients.pop().close()

    async def stop(self) -> int:
        """Stop the process as an operator would; give its exit code."""
        await self.close()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return await asyncio.to_thread(self.process.wait, 40)


def launch(
    folder: Path,
    config: GatewayConfig,
    addresses: Addresses | None = None,
    **environment: str,
) -> Gateway:
    """Start a gateway in a folder of its own."""
    folder.mkdir()
    write(folder / "gateway.toml", dump(config))
    if addresses is not None:
        write(folder / "addresses.json", dump_addresses(addresses))
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "gateway", "--config", folder / "gateway.toml"],
            cwd=TREE,
            stdout=subprocess.PIPE,
            stderr=log,
            env={**os.environ, **environment},
        )
    assert process.stdout is not None
    with process.stdout:
        line = process.stdout.readline()
    assert line, (folder / "log").read_text()
    where = json.loads(line)
    return Gateway(folder, process, where["listen"], where["admin"])


def write(path: Path, text: str) -> None:
    """Write as the reconciler does: whole, or not at all."""
    fresh = path.with_suffix(".new")
    fresh.write_text(text)
    fresh.replace(path)


Start = Callable[..., Awaitable[Gateway]]


def config_for(
    *upstreams: MockUpstream, listener: dict[str, Any] | None = None, **route: Any
) -> GatewayConfig:
    """Build a config: the upstreams in order, one tier each."""
    names = [f"team/u{index}" for index in range(len(upstreams))]
    return GatewayConfig(
        gateway=LISTENER.model_copy(update=listener),
        keys={"team/ci": Key(hash=hash_key(KEY))},
        upstreams={
            name: Upstream(urls=(mock.url,), model="upstream-name")
            for name, mock in zip(names, upstreams, strict=True)
        },
        routes={
            "team/chat": Route(
                models=("smol",),
                targets=tuple(
                    Target(upstream=name, priority=index)
                    for index, name in enumerate(names)
                ),
                **route,
            )
        },
    )


class Valkey:
    """A server of its own, that forgets everything when it is killed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        program = shutil.which("valkey-server") or shutil.which("redis-server")
        if program is None:
            assert not os.environ.get("CI"), "make tools installs redis-server"
            pytest.skip("neither valkey-server nor redis-server is installed")
        given = f"--port {self.port} --bind 127.0.0.1 --save --appendonly no"
        self._process = subprocess.Popen(
            [program, *given.split(), "--dir", str(self._folder)],
            stdout=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 30
        while True:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            assert time.monotonic() < deadline, "it does not listen"
            time.sleep(0.02)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
