"""Files change under traffic: the drain contract, the hold, the old snapshot."""

from __future__ import annotations

import asyncio
import os
import signal
import sys

import openai
import pytest

from schemas.gateway import Addresses, Credential, GatewayConfig, Key, hash_key
from schemas.units import Duration
from tests.gateway.wire import (
    KEY,
    TREE,
    Gateway,
    MockUpstream,
    Start,
    config_for,
    delta,
    stream_of,
    write,
)


def discovered(config: GatewayConfig) -> GatewayConfig:
    found = {
        name: upstream.model_copy(update={"urls": (), "discovered": True})
        for name, upstream in config.upstreams.items()
    }
    return config.model_copy(update={"upstreams": found})


async def ask(gateway: Gateway) -> str:
    answer = await gateway.client().chat.completions.create(
        model="smol", messages=[{"role": "user", "content": "hi"}]
    )
    return str(answer.choices[0].message.content)


async def test_a_request_waits_for_the_first_address(
    start: Start, upstream: MockUpstream
) -> None:
    gateway = await start(discovered(config_for(upstream)), fresh=True)
    asked = asyncio.ensure_future(ask(gateway))
    await gateway.until_shown("bud_gateway_in_flight 1")
    await gateway.discover(u0=(upstream.url,))
    assert await asked == "hello"


async def test_the_wait_for_an_address_is_bounded(
    start: Start, upstream: MockUpstream
) -> None:
    config = config_for(upstream, listener={"hold": Duration("200ms")})
    gateway = await start(discovered(config))
    with pytest.raises(openai.InternalServerError) as caught:
        await ask(gateway)
    assert caught.value.status_code == 503
    assert caught.value.code == "no_replica"
    assert caught.value.response.headers["retry-after"] == "5"


async def test_a_removed_address_is_left_at_once_and_its_stream_finishes(
    start: Start, upstream: MockUpstream, spare: MockUpstream
) -> None:
    go_on = asyncio.Event()
    upstream.script.append(
        stream_of(delta("a"), go_on.wait, delta("b"), b"data: [DONE]\n\n")
    )
    gateway = await start(
        discovered(config_for(upstream)),
        Addresses(upstreams={"team/u0": (upstream.url,)}),
    )
    stream = await gateway.client().chat.completions.create(
        model="smol", messages=[], stream=True
    )
    first = await anext(aiter(stream))
    assert first.choices[0].delta.content == "a"
    assert await ask(gateway) == "hello"  # leaves an idle connection behind
    assert upstream.open == 2
    await gateway.discover(u0=(spare.url,))
    for _ in range(5):
        assert await ask(gateway) == "hello"
    assert len(upstream.asked) == 2
    await upstream.until_open(1)  # the idle one goes, the busy one stays
    go_on.set()
    rest = [chunk.choices[0].delta.content async for chunk in stream]
    assert rest == ["b"]
    await upstream.until_open(0)


async def test_a_refused_address_is_retried_until_something_listens(
    start: Start, upstream: MockUpstream
) -> None:
    port = upstream.port
    await upstream.stop()
    gateway = await start(config_for(upstream, attempts=1), fresh=True)
    asked = asyncio.ensure_future(ask(gateway))
    await gateway.until_shown('outcome="refused"')
    await upstream.start(port)
    assert await asked == "hello"


async def test_an_invalid_file_leaves_the_old_one_in_force(
    start: Start, upstream: MockUpstream
) -> None:
    gateway = await start(config_for(upstream), fresh=True)
    before = await gateway.status()
    write(gateway.folder / "gateway.toml", "[gateway]\nworkerz = 2\n")
    after = await gateway.until(lambda status: status["error"] is not None)
    assert "gateway.workerz" in after["error"]
    assert (after["config"], after["generation"]) == (before["config"], 1)
    shown = await gateway.show("/metrics")
    assert "bud_gateway_config_valid 0" in shown
    assert "bud_gateway_config_rejected_total 1" in shown
    assert await ask(gateway) == "hello"
    healed = config_for(upstream, attempts=2)
    assert (await gateway.configure(healed))["error"] is None


async def test_a_revoked_key_is_refused_within_a_second(
    start: Start, upstream: MockUpstream
) -> None:
    config = config_for(upstream)
    gateway = await start(config)
    client = gateway.client()
    await client.models.list()
    revoked = {"team/ci": Key(hash=hash_key(KEY), disabled=True)}
    changed = config.model_copy(update={"keys": revoked})
    async with asyncio.timeout(1):
        await gateway.configure(changed)
        with pytest.raises(openai.AuthenticationError):
            await client.models.list()


async def test_a_credential_is_read_where_it_is_and_again_when_it_turns(
    start: Start, upstream: MockUpstream
) -> None:
    config = config_for(upstream)
    table = config.upstreams["team/u0"].model_copy(
        update={"credential": Credential(env="CLOUD_KEY")}
    )
    config = config.model_copy(update={"upstreams": {"team/u0": table}})
    gateway = await start(config, CLOUD_KEY="sk-one", fresh=True)
    await ask(gateway)
    assert upstream.asked[-1].headers["authorization"] == "bearer sk-one"
    (gateway.folder / "key").write_text("sk-two\n")
    turned = table.model_copy(update={"credential": Credential(file="key")})
    await gateway.configure(
        config.model_copy(update={"upstreams": {"team/u0": turned}})
    )
    await ask(gateway)
    assert upstream.asked[-1].headers["authorization"] == "bearer sk-two"
    generation = (await gateway.status())["generation"]
    write(gateway.folder / "key", "sk-three\n")
    await gateway.until(lambda status: status["generation"] > generation)
    await ask(gateway)
    assert upstream.asked[-1].headers["authorization"] == "bearer sk-three"
    for place in (await gateway.show("/status"), await gateway.show("/metrics")):
        assert "sk-" not in place


async def test_reloads_under_traffic_lose_no_request(
    start: Start, upstream: MockUpstream, spare: MockUpstream
) -> None:
    gateway = await start(
        discovered(config_for(upstream)),
        Addresses(upstreams={"team/u0": (upstream.url,)}),
    )
    stop = asyncio.Event()
    answers: list[str] = []

    async def traffic() -> None:
        while not stop.is_set():
            answers.append(await ask(gateway))

    async with asyncio.TaskGroup() as tasks:
        for _ in range(4):
            tasks.create_task(traffic())
        for turn in range(12):
            both = ((spare.url,), (upstream.url, spare.url), (upstream.url,))
            await gateway.discover(u0=both[turn % 3])
        stop.set()
    assert set(answers) == {"hello"}
    assert upstream.asked
    assert spare.asked


async def test_a_killed_worker_is_replaced_and_waiting_clients_are_served(
    start: Start, upstream: MockUpstream
) -> None:
    gateway = await start(config_for(upstream), fresh=True)
    await ask(gateway)
    [worker] = (await gateway.status())["workers"]
    os.kill(worker["pid"], signal.SIGKILL)
    assert await ask(gateway) == "hello"
    status = await gateway.until(lambda s: s["ready"])
    assert status["workers"][0]["pid"] != worker["pid"]
    assert status["workers"][0]["restarts"] == 1
    shown = await gateway.show("/metrics")
    assert "bud_gateway_worker_restarts_total 1" in shown


async def test_a_term_signal_lets_streams_finish_and_exits_0(
    start: Start, upstream: MockUpstream
) -> None:
    go_on = asyncio.Event()
    upstream.script.append(
        stream_of(delta("a"), go_on.wait, delta("b"), b"data: [DONE]\n\n")
    )
    gateway = await start(config_for(upstream, listener={"workers": 2}), fresh=True)
    stream = await gateway.client().chat.completions.create(
        model="smol", messages=[], stream=True
    )
    await anext(aiter(stream))
    gateway.process.send_signal(signal.SIGTERM)
    await gateway.until(lambda status: not status["ready"])
    go_on.set()
    rest = [chunk.choices[0].delta.content async for chunk in stream]
    assert rest == ["b"]
    assert await gateway.stop() == 0
    with pytest.raises(openai.APIConnectionError):
        await ask(gateway)


async def test_two_workers_share_one_port(start: Start, upstream: MockUpstream) -> None:
    gateway = await start(config_for(upstream, listener={"workers": 2}), fresh=True)
    for _ in range(20):
        assert await ask(gateway) == "hello"
    status = await gateway.status()
    assert len({worker["pid"] for worker in status["workers"]}) == 2
    shown = await gateway.show("/metrics")
    assert 'operation="chat",status="200"} 20' in shown


async def test_a_check_names_the_mistake_and_exits_2(
    start: Start, upstream: MockUpstream
) -> None:
    gateway = await start(config_for(upstream), fresh=True)
    (gateway.folder / "bad.toml").write_text("[gateway]\nhold = 3\n")
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "gateway",
        "check",
        "--config",
        str(gateway.folder / "bad.toml"),
        cwd=TREE,
        stderr=asyncio.subprocess.PIPE,
    )
    _, said = await process.communicate()
    assert process.returncode == 2
    assert b"bad.toml: gateway.hold: cannot read 3 as a duration" in said
