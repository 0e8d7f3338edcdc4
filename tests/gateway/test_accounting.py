"""Limits and records of real processes: held under load, kept through kills."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from pathlib import Path
from typing import Any

import openai
import pytest

from schemas.gateway import GatewayConfig, Limits, Price
from schemas.units import Money
from tests.gateway.wire import (
    Gateway,
    MockUpstream,
    Start,
    config_for,
    delta,
    stream_of,
)

PRICE = Price(input=Money("1000USD"), output=Money("2000USD"))  # 7 + 3 tokens: 0.013
ASK: dict[str, Any] = {"model": "smol", "messages": [], "max_tokens": 3}


def limited(
    *upstreams: MockUpstream, limits: Limits, workers: int = 1, priced: bool = False
) -> GatewayConfig:
    config = config_for(*upstreams, listener={"usage": "usage", "workers": workers})
    keys = {n: k.model_copy(update={"limits": limits}) for n, k in config.keys.items()}
    tables = {
        name: table.model_copy(update={"price": PRICE if priced else None})
        for name, table in config.upstreams.items()
    }
    return config.model_copy(update={"keys": keys, "upstreams": tables})


def records(gateway: Gateway) -> list[dict[str, Any]]:
    folder: Path = gateway.folder / "usage"
    return [
        json.loads(line)
        for path in sorted(folder.glob("*.jsonl"))
        for line in path.read_text().splitlines()
    ]


async def recorded(gateway: Gateway, count: int) -> list[dict[str, Any]]:
    """Wait until so many records can be read, which takes a fraction of a second."""
    async with asyncio.timeout(30):
        while len(found := records(gateway)) < count:
            await asyncio.sleep(0.02)
    return found


async def statuses(gateway: Gateway, count: int) -> list[int]:
    client = gateway.client()

    async def one() -> int:
        try:
            await client.chat.completions.create(**ASK)
        except openai.APIStatusError as error:
            return error.status_code
        return 200

    return sorted(await asyncio.gather(*(one() for _ in range(count))))


async def test_64_callers_at_once_never_get_past_a_limit(
    start: Start, upstream: MockUpstream
) -> None:
    limits = Limits(requests_per_minute=20)
    gateway = await start(limited(upstream, limits=limits, workers=2), fresh=True)
    begin = asyncio.get_running_loop().time()
    got = await statuses(gateway, 64)
    refilled = (asyncio.get_running_loop().time() - begin) * 20 / 60
    assert 19 <= got.count(200) <= 20 + refilled  # one may be left in a slice
    assert set(got) == {200, 429}


async def test_a_refusal_names_the_limiter_and_its_reset(
    start: Start, upstream: MockUpstream
) -> None:
    limits = Limits(requests_per_minute=1)
    gateway = await start(limited(upstream, limits=limits), fresh=True)
    assert await statuses(gateway, 1) == [200]
    with pytest.raises(openai.RateLimitError) as caught:
        await gateway.client().chat.completions.create(**ASK)
    assert "key team/ci has used 1 requests a minute" in str(caught.value)
    assert caught.value.code == "rate_limit_exceeded"
    headers = caught.value.response.headers
    assert headers["x-bud-limiter"] == "key team/ci:requests"
    assert 50 <= int(headers["retry-after"]) <= 60


async def test_requests_at_once_wait_for_none_and_are_refused(
    start: Start, upstream: MockUpstream
) -> None:
    go_on = asyncio.Event()
    upstream.always = stream_of(go_on.wait, delta("a"), b"data: [DONE]\n\n")
    gateway = await start(limited(upstream, limits=Limits(concurrent=2)), fresh=True)
    client = gateway.client()
    running = [
        asyncio.ensure_future(client.chat.completions.create(**ASK, stream=True))
        for _ in range(2)
    ]
    await gateway.until_shown("bud_gateway_in_flight 2")
    with pytest.raises(openai.RateLimitError, match="2 requests at once"):
        await client.chat.completions.create(**ASK)
    go_on.set()
    for stream in running:
        assert [c async for c in await stream]
    async with await client.chat.completions.create(**ASK, stream=True) as again:
        assert [c async for c in again]


async def test_a_budget_is_spent_exactly_and_survives_a_restart(
    start: Start, upstream: MockUpstream
) -> None:
    config = limited(upstream, limits=Limits(budget=Money("0.065USD")), priced=True)
    config = config.model_copy(
        update={"gateway": config.gateway.model_copy(update={"workers": 2})}
    )
    gateway = await start(config, fresh=True)
    got: list[int] = []
    for _ in range(12):
        got += await statuses(gateway, 4)
    paid = got.count(200) * 0.013
    # The estimate (more than a request costs) must fit before one is let in.
    assert 0.065 - 0.03 <= paid <= 0.065
    found = await recorded(gateway, got.count(200))
    spent = sum(record["cost_nano_usd"] for record in found)
    assert spent == got.count(200) * 13_000_000
    with pytest.raises(openai.RateLimitError) as caught:
        await gateway.client().chat.completions.create(**ASK)
    assert caught.value.code == "insufficient_quota"
    assert await gateway.stop() == 0
    state = json.loads((gateway.folder / "usage" / "state.json").read_text())
    month = [value for name, value in state["spent"].items() if "key" in name]
    assert {value[1] for value in month} == {spent}


async def test_a_record_holds_what_the_upstream_counted(
    start: Start, upstream: MockUpstream
) -> None:
    gateway = await start(limited(upstream, limits=Limits(), priced=True), fresh=True)
    client = gateway.client()
    await client.chat.completions.create(**ASK)
    async for _ in await client.chat.completions.create(**ASK, stream=True):
        pass
    plain, streamed = await recorded(gateway, 2)
    assert (plain["input"], plain["output"], plain["stream"]) == (7, 3, False)
    assert (streamed["input"], streamed["output"], streamed["stream"]) == (7, 3, True)
    assert plain["cost_nano_usd"] == streamed["cost_nano_usd"] == 13_000_000
    assert (plain["key"], plain["route"]) == ("team/ci", "team/chat")
    assert plain["upstream"] == "team/u0"
    assert not plain["estimated"]


async def test_a_killed_worker_leaves_no_request_without_a_record(
    start: Start, upstream: MockUpstream
) -> None:
    gateway = await start(limited(upstream, limits=Limits(), priced=True), fresh=True)
    assert await statuses(gateway, 3) == [200] * 3
    upstream.always = stream_of(delta("a"), delta("b"), delta("c"), end="hang")
    client = gateway.client()
    stream = await client.chat.completions.create(**ASK, stream=True)
    chunks = aiter(stream)
    for _ in range(3):
        await anext(chunks)
    # The count of chunks is on disk with the next sweep; then nothing is lost.
    await asyncio.sleep(0.6)
    [worker] = (await gateway.status())["workers"]
    os.kill(worker["pid"], signal.SIGKILL)
    with pytest.raises(openai.APIError):
        await anext(chunks)
    await gateway.until(lambda s: s["workers"][0]["pid"] not in {None, worker["pid"]})
    found = records(gateway)
    assert len(found) == 4
    assert len({record["id"] for record in found}) == 4
    [lost] = [record for record in found if record["status"] == 0]
    assert (lost["output"], lost["estimated"]) == (3, True)
    assert lost["cost_nano_usd"] > 3 * 2_000_000
