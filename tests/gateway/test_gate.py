"""Caches and guardrails of real gateways: what is asked, what is seen, by whom."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

import openai
import pytest

from schemas.gateway import Cache, GatewayConfig, Guardrail, Key, Upstream, hash_key
from schemas.units import Duration
from tests.gateway.wire import (
    Asked,
    Behaviour,
    Gateway,
    MockUpstream,
    Start,
    chat_document,
    config_for,
    delta,
    respond,
    stream_of,
    usage_event,
)

RIVAL = "other-key-1"


def ask(text: str, **fields: Any) -> dict[str, Any]:
    return {"model": "smol", "messages": [{"role": "user", "content": text}], **fields}


async def answer(gateway: Gateway, text: str, key: str | None = None) -> Any:
    client = gateway.client(key) if key is not None else gateway.client()
    return await client.chat.completions.with_raw_response.create(**ask(text))


async def streamed(gateway: Gateway, text: str) -> str:
    stream = await gateway.client().chat.completions.create(**ask(text, stream=True))
    return "".join(
        [c.choices[0].delta.content or "" async for c in stream if c.choices]
    )


def served(
    mock: MockUpstream, services: dict[str, Upstream], **route: Any
) -> GatewayConfig:
    """Build a config whose route asks other upstreams as well."""
    config = config_for(mock)
    table = config.routes["team/chat"].model_copy(update=route)
    named = {f"team/{name}": upstream for name, upstream in services.items()}
    return GatewayConfig(
        gateway=config.gateway,
        keys={
            **config.keys,
            "rivals/key": Key(hash=hash_key(RIVAL), routes=("team/chat",)),
        },
        upstreams={**config.upstreams, **named},
        routes={"team/chat": table},
    )


def with_guards(
    mock: MockUpstream, *rails: Guardrail, **services: MockUpstream
) -> GatewayConfig:
    judges = {
        name: Upstream(urls=(other.url,), capabilities=("moderations",))
        for name, other in services.items()
    }
    return served(mock, judges, guardrails=rails)


# The cache.


async def test_the_same_question_is_asked_once(
    start: Start, upstream: MockUpstream
) -> None:
    gateway = await start(config_for(upstream, cache=Cache()))
    first = await answer(gateway, "cache one")
    again = await answer(gateway, "cache one")
    other = await answer(gateway, "cache two")
    kinds = [raw.headers["x-bud-cache"] for raw in (first, again, other)]
    assert kinds == ["miss", "hit", "miss"]
    assert first.content == again.content
    assert len(upstream.asked) == 2
    assert 'bud_gateway_cache_total{route="team/chat",outcome="hit"}' in (
        await gateway.show("/metrics")
    )


async def test_no_project_sees_what_another_asked(
    start: Start, upstream: MockUpstream
) -> None:
    gateway = await start(served(upstream, {}, cache=Cache()))
    await answer(gateway, "tenants")
    raw = await answer(gateway, "tenants", RIVAL)
    assert raw.headers["x-bud-cache"] == "miss"
    assert len(upstream.asked) == 2


async def test_a_stream_is_kept_whole_and_a_broken_one_is_not(
    start: Start, upstream: MockUpstream
) -> None:
    gateway = await start(config_for(upstream, cache=Cache()))
    assert await streamed(gateway, "kept stream") == "hello"
    assert await streamed(gateway, "kept stream") == "hello"
    assert len(upstream.asked) == 1
    upstream.script.append(stream_of(delta("half"), end="close"))
    with pytest.raises(openai.APIError):
        await streamed(gateway, "broken stream")
    assert await streamed(gateway, "broken stream") == "hello"
    assert len(upstream.asked) == 3


async def test_refusals_are_not_kept_and_answers_not_for_ever(
    start: Start, upstream: MockUpstream
) -> None:
    config = config_for(upstream, cache=Cache(ttl=Duration("200ms")), attempts=1)
    gateway = await start(config)
    upstream.script.append(respond(400, {"error": {"message": "no"}}))
    with pytest.raises(openai.BadRequestError):
        await answer(gateway, "for a while")
    await answer(gateway, "for a while")
    assert (await answer(gateway, "for a while")).headers["x-bud-cache"] == "hit"
    async with asyncio.timeout(30):
        while (await answer(gateway, "for a while")).headers["x-bud-cache"] == "hit":
            await asyncio.sleep(0.05)


def embedder(vectors: dict[str, list[float]]) -> Behaviour:
    async def behave(writer: asyncio.StreamWriter, asked: Asked) -> None:
        vector = next(v for word, v in vectors.items() if word in asked.body["input"])
        data = [{"object": "embedding", "index": 0, "embedding": vector}]
        usage = {"prompt_tokens": 2, "total_tokens": 2}
        await respond(200, {"object": "list", "data": data, "usage": usage})(
            writer, asked
        )

    return behave


async def test_a_question_that_means_the_same_is_asked_once(
    start: Start, upstream: MockUpstream, spare: MockUpstream
) -> None:
    spare.always = embedder(
        {"capital": [1, 0.1, 0], "seat": [1, 0.15, 0], "weather": [0, 0.1, 1]}
    )
    cache = Cache(mode="semantic", embeddings="team/embed", similarity=0.95)
    embed = Upstream(urls=(spare.url,), model="minilm")
    gateway = await start(served(upstream, {"embed": embed}, cache=cache), fresh=True)
    got = [
        (await answer(gateway, text)).headers["x-bud-cache"]
        for text in ("the capital?", "the seat of government?", "the weather?")
    ]
    assert got == ["miss", "hit", "miss"]
    hotter = ask("the seat of government?", temperature=1.5)
    raw = await gateway.client().chat.completions.with_raw_response.create(**hotter)
    assert raw.headers["x-bud-cache"] == "miss"
    raw = await answer(gateway, "the seat of government?", RIVAL)
    assert raw.headers["x-bud-cache"] == "miss"
    await spare.stop()  # without embeddings only the same question is the same
    assert (await answer(gateway, "the capital?")).headers["x-bud-cache"] == "hit"
    assert (await answer(gateway, "the seat?")).headers["x-bud-cache"] == "miss"


# Guardrails.


async def test_what_is_blocked_on_its_way_in_reaches_nobody(
    start: Start, upstream: MockUpstream
) -> None:
    rail = Guardrail(name="secrets", on="input", regex=r"(?i)project\s+bluebird")
    gateway = await start(with_guards(upstream, rail))
    with pytest.raises(openai.BadRequestError, match="'secrets'") as caught:
        await answer(gateway, "tell me of Project  Bluebird")
    assert caught.value.code == "content_filter"
    assert not upstream.asked
    assert (await answer(gateway, "of a bird")).parse().choices[0].message.content


async def test_personal_data_is_redacted_before_an_upstream_sees_it(
    start: Start, upstream: MockUpstream
) -> None:
    rail = Guardrail(name="pii", on="input", pii=("email", "card"), action="redact")
    gateway = await start(with_guards(upstream, rail))
    await answer(gateway, "write ann@example.com about 4111 1111 1111 1111")
    [asked] = upstream.asked
    assert asked.body["messages"][0]["content"] == "write [email] about [card]"


async def test_what_an_upstream_says_is_redacted_blocked_or_flagged(
    start: Start, upstream: MockUpstream
) -> None:
    upstream.always = respond(200, chat_document("ask ann@example.com"))
    rails = {
        action: Guardrail.model_validate(
            {"name": "pii", "on": "output", "pii": ["email"], "action": action}
        )
        for action in ("redact", "block", "flag")
    }
    gateway = await start(with_guards(upstream, rails["redact"]))
    raw = await answer(gateway, "who")
    assert raw.parse().choices[0].message.content == "ask [email]"
    assert raw.parse().usage.completion_tokens == 3
    gateway = await start(with_guards(upstream, rails["flag"]))
    raw = await answer(gateway, "who")
    assert raw.parse().choices[0].message.content == "ask ann@example.com"
    assert raw.headers["x-bud-flagged"] == "pii"
    gateway = await start(with_guards(upstream, rails["block"]))
    with pytest.raises(openai.BadRequestError, match="the answer was blocked"):
        await answer(gateway, "who")


async def test_a_stream_is_redacted_across_its_chunks(
    start: Start, upstream: MockUpstream
) -> None:
    pieces = ["I ", "am ", "ann@", "exam", "ple.c", "om, ", "and you?", " x" * 200]
    upstream.always = stream_of(
        *(delta(piece) for piece in pieces), usage_event(7, 3), b"data: [DONE]\n\n"
    )
    rail = Guardrail(name="pii", on="output", pii=("email",), action="redact")
    gateway = await start(with_guards(upstream, rail))
    assert await streamed(gateway, "who") == "I am [email], and you?" + " x" * 200


async def test_a_stream_that_says_too_much_ends_before_it_is_said(
    start: Start, upstream: MockUpstream
) -> None:
    upstream.always = stream_of(
        delta("fine " * 60),
        delta("BLUE"),
        delta("BIRD flies" + " on" * 30),
        end="hang",
    )
    rail = Guardrail(name="secrets", on="output", regex="BLUEBIRD")
    gateway = await start(with_guards(upstream, rail))
    seen: list[str] = []

    async def read() -> None:
        stream = await gateway.client().chat.completions.create(
            **ask("say", stream=True)
        )
        async for part in stream:
            seen.extend(choice.delta.content or "" for choice in part.choices)

    with pytest.raises(openai.APIError, match="'secrets'"):
        await read()
    assert "BLUE" not in "".join(seen)
    await upstream.until_open(0)  # and its work is stopped


async def test_a_moderation_that_cannot_be_asked_fails_as_it_is_told_to(
    start: Start, upstream: MockUpstream, spare: MockUpstream
) -> None:
    def rail(failure: str) -> Guardrail:
        return Guardrail.model_validate(
            {"name": "mod", "on": "input", "moderation": "team/mod", "failure": failure}
        )

    spare.always = respond(200, {"results": [{"flagged": True}]})
    gateway = await start(with_guards(upstream, rail("closed"), mod=spare))
    with pytest.raises(openai.BadRequestError, match="'mod'"):
        await answer(gateway, "bad words")
    assert spare.asked[0].path == "/v1/moderations"
    assert spare.asked[0].body["input"] == ["bad words"]
    spare.always = respond(200, {"results": [{"flagged": False}]})
    assert (await answer(gateway, "good words")).parse().choices
    await spare.stop()
    with pytest.raises(openai.InternalServerError, match="cannot check the request"):
        await answer(gateway, "bad words")
    gateway = await start(with_guards(upstream, rail("open"), mod=spare))
    assert (await answer(gateway, "bad words")).parse().choices


def children(pid: int) -> list[int]:
    given = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    found = [int(child) for child in given.split()]
    return found + [grand for child in found for grand in children(child)]


async def test_an_inspector_that_dies_or_is_orphaned_is_replaced_or_gone(
    start: Start, upstream: MockUpstream
) -> None:
    rail = Guardrail(name="pii", on="input", pii=("email",), action="redact")
    gateway = await start(with_guards(upstream, rail), fresh=True)
    await answer(gateway, "ann@example.com")
    [worker] = (await gateway.status())["workers"]
    inspectors = children(worker["pid"])
    for pid in inspectors:
        os.kill(pid, signal.SIGKILL)
    async with asyncio.timeout(30):
        while True:
            try:
                await answer(gateway, "ann@example.com")
            except openai.InternalServerError:
                continue  # the one that was asked while it died: closed
            break
    assert upstream.asked[-1].body["messages"][0]["content"] == "[email]"
    inspectors = children(worker["pid"])
    assert inspectors
    os.kill(worker["pid"], signal.SIGKILL)
    async with asyncio.timeout(30):
        while any(_lives(pid) for pid in inspectors):
            await asyncio.sleep(0.02)


def _lives(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def test_a_pattern_that_could_take_for_ever_is_refused() -> None:
    with pytest.raises(ValueError, match="no look-around"):
        Guardrail(name="g", regex=r"(?=x)y")
