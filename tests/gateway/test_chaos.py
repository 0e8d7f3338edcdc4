"""Everything behind the gateway fails in turn; with one sound side, nobody notices."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import openai
import pytest

from schemas.units import Duration
from tests.gateway.wire import (
    Gateway,
    MockUpstream,
    Start,
    config_for,
    delta,
    event,
    hang,
    reset,
    respond,
    stream_of,
)

ASK: dict[str, Any] = {"model": "smol", "messages": [{"role": "user", "content": "x"}]}


async def traffic(gateway: Gateway, stop: asyncio.Event, seen: Counter[str]) -> None:
    """Ask for plain and streamed answers in turn, and count what comes back."""
    client = gateway.client()
    while not stop.is_set():
        try:
            answer = await client.chat.completions.create(**ASK)
            seen[str(answer.choices[0].message.content)] += 1
            stream = await client.chat.completions.create(**ASK, stream=True)
            parts = [c.choices[0].delta.content or "" async for c in stream]
            seen["".join(parts)] += 1
        except openai.APIError as error:
            seen[repr(error)] += 1


@pytest.mark.slow
async def test_with_one_sound_upstream_no_failure_is_seen_before_content(
    start: Start, upstream: MockUpstream, spare: MockUpstream
) -> None:
    times = {"first": Duration("400ms"), "total": Duration("20s")}
    gateway = await start(config_for(upstream, spare, timeouts=times))
    stop, seen = asyncio.Event(), Counter[str]()
    port = upstream.port
    async with asyncio.TaskGroup() as tasks:
        for _ in range(8):
            tasks.create_task(traffic(gateway, stop, seen))
        for behave in (
            reset,
            respond(503, {}, close=True),
            stream_of(event({"error": {"message": "boom"}})),
            stream_of(delta(role="assistant"), end="close"),
        ):
            before = len(upstream.asked)
            upstream.always = behave
            async with asyncio.timeout(30):
                # Breakers make it rare that an ill upstream is asked at all.
                while len(upstream.asked) == before:
                    await asyncio.sleep(0.01)
        await upstream.stop()  # killed: open connections die, new ones are refused
        killed = sum(seen.values())
        async with asyncio.timeout(15):
            while sum(seen.values()) < killed + 40:
                await asyncio.sleep(0.01)
        await upstream.start(port)
        stop.set()
    assert set(seen) == {"hello"}
    assert seen["hello"] > 100


async def test_an_upstream_that_lies_about_its_length_breaks_only_its_own_answer(
    start: Start, upstream: MockUpstream, spare: MockUpstream
) -> None:
    async def short(writer: asyncio.StreamWriter, asked: object) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 500\r\n\r\n{}")
        await writer.drain()
        writer.close()

    async def long(writer: asyncio.StreamWriter, asked: object) -> None:
        writer.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
            b"content-length: 2\r\n\r\n{}HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil"
        )

    async def both(writer: asyncio.StreamWriter, asked: object) -> None:
        writer.write(
            b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n"
            b"transfer-encoding: chunked\r\n\r\n0\r\n\r\n"
        )

    gateway = await start(config_for(upstream, spare))
    client = gateway.client()
    upstream.script.extend((short, both))  # type: ignore[arg-type]
    for _ in range(2):
        answer = await client.chat.completions.create(**ASK)
        assert answer.choices[0].message.content == "hello"
    assert len(spare.asked) == 2
    upstream.script.append(long)  # type: ignore[arg-type]
    raw = await client.chat.completions.with_raw_response.create(**ASK)
    assert raw.content == b"{}"
    answer = await client.chat.completions.create(**ASK)
    assert answer.choices[0].message.content == "hello"


async def test_a_hanging_upstream_costs_the_total_timeout_and_no_more(
    start: Start, upstream: MockUpstream
) -> None:
    upstream.always = hang
    gateway = await start(config_for(upstream, timeouts={"total": Duration("500ms")}))
    with pytest.raises(openai.InternalServerError) as caught:
        await gateway.client().chat.completions.create(**ASK)
    assert caught.value.status_code == 504
    assert caught.value.code == "timeout"
    await upstream.until_open(0)


async def test_many_streams_at_once_lose_and_reorder_nothing(
    start: Start, upstream: MockUpstream
) -> None:
    parts = [delta(f"{n} ") for n in range(40)]
    upstream.always = stream_of(*parts, b"data: [DONE]\n\n")
    gateway = await start(config_for(upstream))
    client = gateway.client()

    async def one() -> str:
        stream = await client.chat.completions.create(**ASK, stream=True)
        return "".join([c.choices[0].delta.content or "" async for c in stream])

    expected = "".join(f"{n} " for n in range(40))
    got = await asyncio.gather(*(one() for _ in range(60)))
    assert set(got) == {expected}
