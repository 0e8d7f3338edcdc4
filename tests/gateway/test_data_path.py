"""The official client, through a real gateway, to upstreams that misbehave."""

from __future__ import annotations

import asyncio
from typing import Any

import openai
import pytest

from schemas.gateway import GatewayConfig, Key, Shadow, Upstream, hash_key
from schemas.units import Duration
from tests.gateway.wire import (
    Gateway,
    MockUpstream,
    Start,
    chat_document,
    config_for,
    delta,
    event,
    hang,
    reset,
    respond,
    stream_of,
    usage_event,
)

ASK: dict[str, Any] = {
    "model": "smol",
    "messages": [{"role": "user", "content": "hi"}],
}


async def text_of(gateway: Gateway, **options: Any) -> str:
    answer = await gateway.client().chat.completions.create(**ASK, **options)
    return str(answer.choices[0].message.content)


async def streamed(gateway: Gateway, **options: Any) -> tuple[str, list[Any]]:
    stream = await gateway.client().chat.completions.create(
        **ASK, stream=True, **options
    )
    chunks = [chunk async for chunk in stream]
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    return text, chunks


async def test_a_plain_answer_arrives_unchanged(
    start: Start, upstream: MockUpstream
) -> None:
    gateway = await start(config_for(upstream))
    answer = await gateway.client().chat.completions.create(**ASK)
    assert answer.to_dict() == chat_document()
    assert upstream.asked[0].body == {**ASK, "model": "upstream-name"}


async def test_a_streams_usage_is_hidden_from_who_did_not_ask(
    start: Start, upstream: MockUpstream
) -> None:
    gateway = await start(config_for(upstream), fresh=True)
    text, chunks = await streamed(gateway)
    assert text == "hello"
    assert all(chunk.usage is None for chunk in chunks)
    assert upstream.asked[0].body["stream_options"] == {"include_usage": True}
    text, chunks = await streamed(gateway, stream_options={"include_usage": True})
    assert chunks[-1].usage.total_tokens == 10
    shown = await gateway.show("/metrics")
    assert 'bud_gateway_tokens_total{route="team/chat",kind="input"} 14' in shown
    assert 'bud_gateway_tokens_total{route="team/chat",kind="output"} 6' in shown


async def test_completions_and_embeddings_are_served(
    start: Start, upstream: MockUpstream
) -> None:
    gateway = await start(config_for(upstream))
    client = gateway.client()
    upstream.script.append(
        respond(
            200,
            {"id": "c", "object": "text_completion", "created": 1, "model": "m"}
            | {"choices": [{"index": 0, "text": "x", "finish_reason": "stop"}]},
        )
    )
    completion = await client.completions.create(model="smol", prompt="hi")
    assert completion.choices[0].text == "x"
    embedding = await client.embeddings.create(
        model="smol", input="hi", encoding_format="float"
    )
    assert embedding.data[0].embedding == [0.5, 1.0]
    assert [a.path for a in upstream.asked] == ["/v1/completions", "/v1/embeddings"]


async def test_a_key_sees_its_models_and_no_others(
    start: Start, upstream: MockUpstream
) -> None:
    config = config_for(upstream)
    key = Key(hash=hash_key("other"))
    gateway = await start(
        config.model_copy(update={"keys": {**config.keys, "b/k": key}})
    )
    models = await gateway.client().models.list()
    assert [(m.id, m.owned_by) for m in models.data] == [("smol", "team")]
    assert (await gateway.client().models.retrieve("smol")).id == "smol"
    other = gateway.client("other")
    assert (await other.models.list()).data == []
    with pytest.raises(openai.NotFoundError):
        await other.models.retrieve("smol")
    with pytest.raises(openai.NotFoundError) as caught:
        await other.chat.completions.create(**ASK)
    assert caught.value.code == "model_not_found"
    assert caught.value.param == "model"


@pytest.mark.parametrize("key", ["wrong", "bud-test-key-000"])
async def test_a_wrong_key_is_refused(
    start: Start, upstream: MockUpstream, key: str
) -> None:
    gateway = await start(config_for(upstream))
    with pytest.raises(openai.AuthenticationError):
        await gateway.client(key).chat.completions.create(**ASK)
    with pytest.raises(openai.AuthenticationError):
        await gateway.client(key).models.retrieve("smol")
    assert upstream.asked == []


async def test_a_clients_mistake_comes_back_as_the_upstream_said_it(
    start: Start, upstream: MockUpstream
) -> None:
    gateway = await start(config_for(upstream))
    upstream.script.append(
        respond(400, {"error": {"message": "bad", "code": "why", "param": "n"}})
    )
    with pytest.raises(openai.BadRequestError) as caught:
        await gateway.client().chat.completions.create(**ASK, n=100)
    assert (caught.value.code, caught.value.param) == ("why", "n")
    assert len(upstream.asked) == 1


async def test_a_refusal_of_our_credential_never_looks_like_the_clients(
    start: Start, upstream: MockUpstream
) -> None:
    gateway = await start(config_for(upstream, attempts=1))
    upstream.always = respond(401, {"error": {"message": "Incorrect API key"}})
    with pytest.raises(openai.InternalServerError) as caught:
        await gateway.client().chat.completions.create(**ASK)
    assert caught.value.status_code == 502
    assert "Incorrect" not in str(caught.value)


FAILURES = {
    "reset before an answer": reset,
    "500": respond(500, {"error": {"message": "boom"}}),
    "503 and closes": respond(503, {}, close=True),
    "429": respond(429, {"error": {"message": "slow down"}}),
    "404, the model is not loaded": respond(404, {"error": {"message": "gone"}}),
    "401, our key": respond(401, {"error": {"message": "key"}}),
    "context too long": respond(400, {"error": {"code": "context_length_exceeded"}}),
    "an error as the first event": stream_of(event({"error": {"message": "boom"}})),
    "dies after a life sign": stream_of(delta(role="assistant"), end="close"),
    "dies after half an event": stream_of(b'data: {"choices":[{"de', end="close"),
    "not HTTP": lambda writer, asked: _garbage(writer),
    "says nothing in time": hang,
    "life signs only": stream_of(delta(role="assistant"), end="hang"),
}


async def _garbage(writer: asyncio.StreamWriter) -> None:
    writer.write(b"\x16\x03\x01 what\r\n\r\n")


@pytest.mark.parametrize("failure", FAILURES)
async def test_a_failure_before_content_falls_back_unseen(
    start: Start, upstream: MockUpstream, spare: MockUpstream, failure: str
) -> None:
    upstream.always = FAILURES[failure]
    timeouts = {"first": Duration("500ms")}
    gateway = await start(config_for(upstream, spare, attempts=2, timeouts=timeouts))
    text, _ = await streamed(gateway)
    assert text == "hello"
    assert len(upstream.asked) == 1
    assert len(spare.asked) == 1


async def test_a_stream_that_dies_after_content_ends_in_an_error_event(
    start: Start, upstream: MockUpstream, spare: MockUpstream
) -> None:
    upstream.always = stream_of(
        delta("hel"), b'data: {"choices":[{"delta":{"content":"lo', end="close"
    )
    gateway = await start(config_for(upstream, spare))
    stream = await gateway.client().chat.completions.create(**ASK, stream=True)
    chunks = aiter(stream)
    assert (await anext(chunks)).choices[0].delta.content == "hel"
    with pytest.raises(openai.APIError, match="broke off"):
        await anext(chunks)
    assert spare.asked == []


async def test_a_stream_that_stalls_is_ended(
    start: Start, upstream: MockUpstream
) -> None:
    upstream.always = stream_of(delta("hel"), end="hang")
    gateway = await start(config_for(upstream, timeouts={"stall": Duration("300ms")}))
    with pytest.raises(openai.APIError, match="stall_timeout"):
        await streamed(gateway)


async def test_the_first_chunk_is_not_held_for_the_second(
    start: Start, upstream: MockUpstream
) -> None:
    seen = asyncio.Event()
    upstream.always = stream_of(
        delta(role="assistant"), delta("a"), seen.wait, delta("b"), b"data: [DONE]\n\n"
    )
    gateway = await start(config_for(upstream))
    stream = await gateway.client().chat.completions.create(**ASK, stream=True)
    texts = []
    async for chunk in stream:
        texts.append(chunk.choices[0].delta.content)
        if texts[-1] == "a":
            seen.set()  # the upstream goes on only now
    assert texts == [None, "a", "b"]


async def test_a_client_that_leaves_stops_the_upstreams_work(
    start: Start, upstream: MockUpstream
) -> None:
    upstream.always = stream_of(delta("a"), end="hang")
    gateway = await start(config_for(upstream), fresh=True)
    client = gateway.client()
    stream = await client.chat.completions.create(**ASK, stream=True)
    async for _ in stream:
        break
    await stream.close()
    await upstream.until_open(0)
    assert 'status="499"} 1' in await gateway.show("/metrics")


async def test_bytes_of_any_size_arrive_whole(
    start: Start, upstream: MockUpstream
) -> None:
    text = "é" * 700_000
    upstream.always = respond(200, chat_document(text))
    gateway = await start(config_for(upstream))
    assert await text_of(gateway) == text
    content = "x" * 3_000_000
    await gateway.client().chat.completions.create(
        model="smol", messages=[{"role": "user", "content": content}]
    )
    assert upstream.asked[-1].body["messages"][0]["content"] == content


async def test_a_stream_without_our_kind_of_events_passes(
    start: Start, upstream: MockUpstream
) -> None:
    upstream.always = stream_of(
        b": comment\n\n", event({"odd": 1}), usage_event(1, 1), b"data: [DONE]\n\n"
    )
    gateway = await start(config_for(upstream))
    _, chunks = await streamed(gateway)
    assert [chunk.to_dict() for chunk in chunks] == [{"odd": 1}]


async def test_idle_connections_are_reused_and_a_stale_one_costs_no_try(
    start: Start, upstream: MockUpstream
) -> None:
    gateway = await start(config_for(upstream, attempts=1))
    for _ in range(5):
        assert await text_of(gateway) == "hello"
    assert upstream.connections == 1
    port = upstream.port
    await upstream.stop()
    await upstream.start(port)
    assert await text_of(gateway) == "hello"


async def test_a_request_id_and_a_trace_go_through(
    start: Start, upstream: MockUpstream
) -> None:
    gateway = await start(config_for(upstream))
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    given = {"x-request-id": "mine-1", "traceparent": trace, "x-secret": "no"}
    raw = await gateway.client().chat.completions.with_raw_response.create(
        **ASK, extra_headers=given
    )
    assert raw.headers["x-request-id"] == "mine-1"
    assert raw.headers["x-bud-route"] == "team/chat"
    assert raw.headers["x-bud-upstream"] == "team/u0"
    [asked] = upstream.asked
    assert asked.headers["x-request-id"] == "mine-1"
    assert asked.headers["traceparent"] == trace
    assert "x-secret" not in asked.headers
    assert "bearer" not in asked.headers.get("authorization", "")
    raw = await gateway.client().chat.completions.with_raw_response.create(**ASK)
    assert raw.headers["x-request-id"].startswith("req-")


async def test_a_shadow_is_asked_the_same_and_its_answer_seen_by_nobody(
    start: Start, upstream: MockUpstream, spare: MockUpstream
) -> None:
    config = config_for(upstream)
    table = config.routes["team/chat"].model_copy(
        update={"shadow": Shadow(upstream="team/new", percent=100)}
    )
    new = Upstream(urls=(spare.url,), model="newcomer")
    config = GatewayConfig(
        gateway=config.gateway,
        keys=config.keys,
        upstreams={**config.upstreams, "team/new": new},
        routes={"team/chat": table},
    )
    spare.always = respond(500, {"error": {"message": "not ready"}})
    gateway = await start(config)
    messages = [{"role": "user", "content": "both of you"}]
    for _ in range(3):
        answer = await gateway.client().chat.completions.create(
            model="smol",
            messages=messages,  # type: ignore[arg-type]
        )
        assert answer.choices[0].message.content == "hello"
    async with asyncio.timeout(30):
        while len(spare.asked) < 3:
            await asyncio.sleep(0.02)
    assert {asked.body["model"] for asked in spare.asked} == {"newcomer"}
    assert spare.asked[0].body["messages"] == messages
    assert len(upstream.asked) == 3
