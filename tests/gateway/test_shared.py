"""Several gateways and one Valkey: limits hold together, whoever is killed."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import openai
import pytest

from schemas.gateway import Cache, GatewayConfig, Limits, Price, Shared
from schemas.units import Money
from tests.gateway.wire import Gateway, MockUpstream, Start, Valkey, config_for

ASK: dict[str, Any] = {"model": "smol", "messages": [], "max_tokens": 3}
PRICE = Price(input=Money("1000USD"), output=Money("2000USD"))  # 7 + 3 tokens: 0.013


def sharing(
    mock: MockUpstream, valkey: Valkey, limits: Limits, *, failure: str = "open"
) -> GatewayConfig:
    shared = Shared.model_validate({"address": valkey.address, "failure": failure})
    config = config_for(mock, listener={"usage": "usage", "shared": shared})
    keys = {n: k.model_copy(update={"limits": limits}) for n, k in config.keys.items()}
    upstreams = {
        name: table.model_copy(update={"price": PRICE})
        for name, table in config.upstreams.items()
    }
    return config.model_copy(update={"keys": keys, "upstreams": upstreams})


async def status_of(gateway: Gateway) -> int:
    client = gateway.clients[0] if gateway.clients else gateway.client()
    try:
        await client.chat.completions.create(**ASK)
    except openai.APIStatusError as error:
        return error.status_code
    return 200


async def statuses(gateways: list[Gateway], count: int) -> Counter[int]:
    each = (status_of(gateways[n % len(gateways)]) for n in range(count))
    return Counter(await asyncio.gather(*each))


async def until(gateway: Gateway, status: int) -> None:
    async with asyncio.timeout(30):
        while await status_of(gateway) != status:
            await asyncio.sleep(0.05)


async def test_64_callers_at_two_gateways_never_get_past_one_limit(
    start: Start, upstream: MockUpstream, valkey: Valkey
) -> None:
    config = sharing(upstream, valkey, Limits(requests_per_minute=20))
    gateways = [await start(config, fresh=True) for _ in range(2)]
    begin = asyncio.get_running_loop().time()
    got = await statuses(gateways, 64)
    refilled = (asyncio.get_running_loop().time() - begin) * 20 / 60
    assert 20 - len(gateways) <= got[200] <= 20 + refilled  # slices that nobody used
    assert set(got) == {200, 429}


async def test_a_budget_is_spent_together_and_known_after_a_kill(
    start: Start, upstream: MockUpstream, valkey: Valkey
) -> None:
    config = sharing(upstream, valkey, Limits(budget=Money("0.13USD")))
    gateways = [await start(config, fresh=True) for _ in range(2)]
    paid = 0
    for _ in range(8):
        paid += (await statuses(gateways, 4))[200]
    # A request is let in while its estimate (0.0 to 0.03) fits, and no longer.
    assert 0.13 - 0.04 <= paid * 0.013 <= 0.13
    valkey.kill()
    valkey.start()
    await gateways[0].until_shown("bud_gateway_shared_up 1")
    # It knows nothing any more; each gateway says again what it has spent.
    async with asyncio.timeout(30):
        while (await statuses(gateways, 2))[200]:
            paid += 1
            assert paid * 0.013 <= 0.13
    for gateway in gateways:
        await until(gateway, 429)


@pytest.mark.parametrize(("failure", "meanwhile"), [("open", 200), ("closed", 503)])
async def test_without_valkey_requests_are_let_in_or_not_as_the_config_says(
    start: Start, upstream: MockUpstream, valkey: Valkey, failure: str, meanwhile: int
) -> None:
    # One request a lease: every one of them needs somebody to ask.
    limits = Limits(requests_per_minute=19)
    gateway = await start(
        sharing(upstream, valkey, limits, failure=failure), fresh=True
    )
    assert await status_of(gateway) == 200
    valkey.kill()
    assert await status_of(gateway) == meanwhile
    await gateway.until_shown("bud_gateway_shared_up 0")
    valkey.start()
    await until(gateway, 200)
    await gateway.until_shown("bud_gateway_shared_up 1")


async def test_what_one_gateway_keeps_another_gives(
    start: Start, upstream: MockUpstream, valkey: Valkey
) -> None:
    config = sharing(upstream, valkey, Limits())
    table = config.routes["team/chat"].model_copy(update={"cache": Cache()})
    config = config.model_copy(update={"routes": {"team/chat": table}})
    gateways = [await start(config, fresh=True) for _ in range(2)]
    seen = []
    for gateway in gateways:
        raw = await gateway.client().chat.completions.with_raw_response.create(**ASK)
        seen.append(raw.headers["x-bud-cache"])
    assert seen == ["miss", "hit"]
    valkey.kill()  # a cache that is gone holds nothing, and stops nobody
    raw = await gateways[0].client().chat.completions.with_raw_response.create(**ASK)
    assert raw.headers["x-bud-cache"] == "miss"
