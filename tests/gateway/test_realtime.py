"""Realtime sessions: the official client, and a websocket server of ours behind."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import openai
import pytest
from aiohttp import web

from schemas.gateway import (
    Credential,
    GatewayConfig,
    Guardrail,
    Key,
    Limits,
    Price,
    Route,
    Target,
    Upstream,
    hash_key,
)
from schemas.units import Money
from tests.gateway.wire import KEY, LISTENER, Gateway, Start

Say = Callable[[web.WebSocketResponse], Awaitable[None]]


def event(kind: str, **more: object) -> str:
    return json.dumps({"type": kind, "event_id": "event_1", **more})


def done(given: int = 11, made: int = 5) -> str:
    usage = {
        "input_tokens": given,
        "output_tokens": made,
        "total_tokens": given + made,
        "input_token_details": {"cached_tokens": 4},
    }
    return event("response.done", response={"id": "r", "usage": usage})


async def answer(socket: web.WebSocketResponse) -> None:
    await socket.send_str(event("response.created", response={"id": "r"}))
    for part in ("hel", "lo"):
        await socket.send_str(event("response.output_text.delta", delta=part))
    await socket.send_str(done())


class Sessions:
    """A server of the Realtime API: answers each `response.create`."""

    def __init__(self) -> None:
        self.asked: list[tuple[dict[str, str], dict[str, str]]] = []
        self.heard: list[dict[str, Any]] = []
        self.say: Say = answer
        self.refuse: int | None = None
        self.port = 0
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        app = web.Application()
        app.router.add_get("/v1/realtime", self._serve)
        self._runner = web.AppRunner(app, shutdown_timeout=0)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        fields = {n.lower(): v for n, v in request.headers.items()}
        self.asked.append((dict(request.query), fields))
        if self.refuse is not None:
            headers = {"location": "http://127.0.0.1:1/elsewhere"}
            return web.Response(status=self.refuse, headers=headers)
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        await socket.send_str(event("session.created", session={"model": "theirs"}))
        async for message in socket:
            self.heard.append(json.loads(message.data))
            if self.heard[-1]["type"] == "response.create":
                await self.say(socket)
        return socket


@pytest.fixture
async def sessions() -> AsyncIterator[Sessions]:
    server = Sessions()
    await server.start()
    yield server
    await server.stop()


@pytest.fixture
async def others() -> AsyncIterator[Sessions]:
    server = Sessions()
    await server.start()
    yield server
    await server.stop()


def config(
    *servers: Sessions,
    listener: dict[str, Any] | None = None,
    key: dict[str, Any] | None = None,
    secret: str | None = None,
    **route: Any,
) -> GatewayConfig:
    names = [f"team/s{n}" for n in range(len(servers))]
    return GatewayConfig(
        gateway=LISTENER.model_copy(update=listener),
        keys={"team/ci": Key(hash=hash_key(KEY), **(key or {}))},
        upstreams={
            name: Upstream(
                urls=(f"http://127.0.0.1:{server.port}",),
                model="theirs",
                capabilities=("realtime",),
                price=Price(input=Money("4USD"), output=Money("16USD")),
                credential=Credential(env=secret) if secret else None,
            )
            for name, server in zip(names, servers, strict=True)
        },
        routes={
            "team/talk": Route(
                models=("talk",),
                targets=tuple(
                    Target(upstream=name, priority=n) for n, name in enumerate(names)
                ),
                **route,
            )
        },
    )


def session(gateway: Gateway, **options: Any) -> Any:
    return gateway.client(**options).realtime.connect(model="talk")


async def until(connection: Any, kind: str) -> Any:
    async with asyncio.timeout(30):
        while True:
            found = await connection.recv()
            if found.type == kind:
                return found


def records(folder: Path) -> list[dict[str, Any]]:
    return [
        json.loads(line)
        for path in sorted((folder / "usage").glob("*.jsonl"))
        for line in path.read_text().splitlines()
    ]


async def test_the_official_client_talks_and_each_response_is_recorded(
    start: Start, sessions: Sessions
) -> None:
    given = config(sessions, listener={"usage": "usage"}, secret="REALTIME_KEY")
    gateway = await start(given, REALTIME_KEY="theirs-1")
    async with session(gateway) as connection:
        await connection.session.update(
            session={"type": "realtime", "instructions": "be brief"}
        )
        for _ in range(2):
            await connection.response.create()
            assert (
                await until(connection, "response.output_text.delta")
            ).delta == "hel"
            await until(connection, "response.done")
    [(query, fields)] = sessions.asked
    assert query == {"model": "theirs"}
    assert fields["authorization"] == "Bearer theirs-1"
    assert KEY not in str(fields)
    assert sessions.heard[0]["session"]["instructions"] == "be brief"
    assert await gateway.stop() == 0
    *responses, end = records(gateway.folder)
    assert [(r["input"], r["output"], r["cached"]) for r in responses] == [
        (11, 5, 4)
    ] * 2
    # 11 and 5 tokens at 4 and 16 USD a million.
    assert {r["cost_nano_usd"] for r in responses} == {11 * 4000 + 5 * 16000}
    assert {r["upstream"] for r in responses} == {"team/s0"}
    assert (end["input"], end["output"], end["status"]) == (0, 0, 200)
    assert {r["operation"] for r in records(gateway.folder)} == {"realtime"}


@pytest.fixture
async def talk(start: Start, sessions: Sessions) -> Gateway:
    return await start(config(sessions))


async def handshake(gateway: Gateway, path: str, **options: Any) -> int:
    url = gateway.url.replace("http", "ws") + path
    async with aiohttp.ClientSession() as client:
        try:
            async with client.ws_connect(url, **options):
                return 101
        except aiohttp.WSServerHandshakeError as refused:
            return refused.status


async def test_a_session_needs_a_key_a_model_and_a_route_that_serves_it(
    talk: Gateway,
) -> None:
    held = {"headers": {"authorization": f"Bearer {KEY}"}}
    browser = {"protocols": ("realtime", f"openai-insecure-api-key.{KEY}")}
    path = "/v1/realtime?model=talk"
    assert await handshake(talk, path, **held) == 101
    assert await handshake(talk, path, **browser) == 101
    assert await handshake(talk, path) == 401
    wrong = {"protocols": ("realtime", "openai-insecure-api-key.no")}
    assert await handshake(talk, path, **wrong) == 401
    assert await handshake(talk, "/v1/realtime", **held) == 400
    assert await handshake(talk, "/v1/realtime?model=other", **held) == 404
    with pytest.raises(openai.BadRequestError):
        await talk.client().get("/realtime?model=talk", cast_to=object)


async def test_a_session_keeps_the_model_that_it_was_admitted_for(
    talk: Gateway, sessions: Sessions
) -> None:
    async with session(talk) as connection:
        change = {"type": "realtime", "model": "dearer"}
        await connection.session.update(session=change)
        refused = await until(connection, "error")
        assert "session.model" in refused.error.message
        await connection.response.create()
        await until(connection, "response.done")
    assert [asked["type"] for asked in sessions.heard] == ["response.create"]


@pytest.mark.parametrize("status", [500, 401, 302])
async def test_a_session_that_one_upstream_refuses_another_takes(
    start: Start, sessions: Sessions, others: Sessions, status: int
) -> None:
    sessions.refuse = status
    gateway = await start(config(sessions, others))
    async with session(gateway) as connection:
        await connection.response.create()
        await until(connection, "response.done")
    assert (len(sessions.asked), len(others.asked)) == (1, 1)


async def test_a_session_of_a_route_with_guardrails_is_refused(
    start: Start, sessions: Sessions
) -> None:
    rails = (Guardrail(name="secrets", regex="bluebird"),)
    gateway = await start(config(sessions, guardrails=rails))
    held = {"headers": {"authorization": f"Bearer {KEY}"}}
    assert await handshake(gateway, "/v1/realtime?model=talk", **held) == 400
    assert not sessions.asked


async def test_limits_hold_between_sessions_and_within_one(
    start: Start, sessions: Sessions
) -> None:
    limits = Limits(concurrent=1, requests_per_minute=2)
    given = config(sessions, key={"limits": limits})
    gateway = await start(given)
    held = {"headers": {"authorization": f"Bearer {KEY}"}}
    async with session(gateway) as connection:
        assert await handshake(gateway, "/v1/realtime?model=talk", **held) == 429
        await connection.response.create()
        await until(connection, "response.done")
        await connection.response.create()
        refused = await until(connection, "error")
        assert refused.error.code == "rate_limit_exceeded"
        assert "key team/ci has used 2 requests a minute" in refused.error.message
        with pytest.raises(Exception, match="1008"):
            await connection.recv()


async def test_an_upstream_that_breaks_off_is_told_of(
    talk: Gateway, sessions: Sessions
) -> None:
    async def break_off(socket: web.WebSocketResponse) -> None:
        await socket.send_str(event("response.created", response={"id": "r"}))
        assert socket._req is not None
        assert socket._req.transport is not None
        socket._req.transport.abort()

    sessions.say = break_off
    async with session(talk) as connection:
        await connection.response.create()
        assert (await until(connection, "error")).error.code == "upstream_lost"
        with pytest.raises(Exception, match="1011"):
            await connection.recv()


async def test_a_client_that_does_not_read_holds_its_upstream_back(
    talk: Gateway, sessions: Sessions
) -> None:
    piece, sent, stuck = "x" * 65536, [0], asyncio.Event()

    async def flood(socket: web.WebSocketResponse) -> None:
        for _ in range(2000):
            try:
                async with asyncio.timeout(2):
                    await socket.send_str(event("response.audio.delta", delta=piece))
            except TimeoutError:
                stuck.set()
                return
            sent[0] += 1

    sessions.say = flood
    url = talk.url.replace("http", "ws") + "/v1/realtime?model=talk"
    headers = {"authorization": f"Bearer {KEY}"}
    async with (
        aiohttp.ClientSession() as client,
        client.ws_connect(url, headers=headers) as socket,
    ):
        await socket.send_str(event("response.create"))
        async with asyncio.timeout(60):
            await stuck.wait()
        # What kernels and the library hold, not what the upstream could say.
        assert sent[0] < 600
        socket._response.close()


async def test_a_session_ends_with_its_key_when_no_answer_is_under_way(
    start: Start, sessions: Sessions
) -> None:
    given = config(sessions)
    gateway = await start(given)
    async with session(gateway) as connection:
        await until(connection, "session.created")
        await gateway.configure(given.model_copy(update={"keys": {}}))
        with pytest.raises(Exception, match="1001"):
            await until(connection, "error")


async def test_a_term_signal_lets_a_response_finish_and_ends_its_session(
    start: Start, sessions: Sessions
) -> None:
    under_way, go_on = asyncio.Event(), asyncio.Event()

    async def slowly(socket: web.WebSocketResponse) -> None:
        await socket.send_str(event("response.created", response={"id": "r"}))
        under_way.set()
        await go_on.wait()
        await socket.send_str(done())

    sessions.say = slowly
    gateway = await start(config(sessions), fresh=True)
    async with session(gateway) as connection:
        await connection.response.create()
        await under_way.wait()
        gateway.process.terminate()
        async with asyncio.timeout(30):
            while await takes(gateway):
                await asyncio.sleep(0.02)
        go_on.set()
        await until(connection, "response.done")
        with pytest.raises(Exception, match="1001"):
            await connection.recv()
    assert await gateway.stop() == 0


async def takes(gateway: Gateway) -> bool:
    """Say whether a new client is still taken in."""
    host, _, port = gateway.listen.rpartition(":")
    try:
        _, writer = await asyncio.open_connection(host, int(port))
    except ConnectionError:
        return False
    writer.close()
    return True
