"""Engines are asked how busy they are, and the answer decides."""

from __future__ import annotations

import asyncio

from schemas.gateway import GatewayConfig, Upstream
from tests.gateway.wire import (
    Asked,
    Behaviour,
    MockUpstream,
    Start,
    config_for,
    default,
)


def engine(waiting: int) -> Behaviour:
    text = f"vllm:num_requests_running 4\nvllm:num_requests_waiting {waiting}\n"

    async def behave(writer: asyncio.StreamWriter, asked: Asked) -> None:
        if asked.path != "/metrics":
            await default(writer, asked)
            return
        writer.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\n"
            b"content-length: %d\r\n\r\n%b" % (len(text), text.encode())
        )

    return behave


async def test_a_queue_that_others_filled_is_avoided(
    start: Start, upstream: MockUpstream, spare: MockUpstream
) -> None:
    config = config_for(upstream, strategy="least-load")
    both = Upstream(urls=(upstream.url, spare.url), model="m")
    config = GatewayConfig(
        gateway=config.gateway,
        keys=config.keys,
        upstreams={"team/u0": both},
        routes=config.routes,
    )
    upstream.always, spare.always = engine(waiting=50), engine(waiting=0)
    gateway = await start(config, fresh=True)
    async with asyncio.timeout(30):
        while not (upstream.asked and spare.asked):
            await asyncio.sleep(0.02)
    client = gateway.client()

    async def ask() -> str:
        before = len(spare.asked)
        await client.chat.completions.create(model="smol", messages=[])
        fresh = [asked.path for asked in spare.asked[before:]]
        return "spare" if "/v1/chat/completions" in fresh else "upstream"

    async with asyncio.timeout(30):
        while await ask() == "upstream":  # until the workers have heard
            await asyncio.sleep(0.02)
    assert {await ask() for _ in range(10)} == {"spare"}
