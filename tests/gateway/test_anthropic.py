"""Anthropic's API on either side: its own client, and an upstream that speaks it."""

from __future__ import annotations

import itertools
import json
from contextlib import suppress
from typing import Any

import anthropic
import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.dialects import anthropic_client, anthropic_upstream
from gateway.openai import BadRequest
from schemas.gateway import Credential
from tests.gateway.wire import (
    KEY,
    Gateway,
    MockUpstream,
    Start,
    chat_document,
    config_for,
    delta,
    event,
    respond,
    stream_of,
    usage_event,
)

ASK: dict[str, Any] = {
    "model": "smol",
    "max_tokens": 50,
    "system": "be brief",
    "messages": [{"role": "user", "content": "hi"}],
}
TOOL = {
    "name": "weather",
    "description": "of a city",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}},
}
FUNCTION = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "of a city",
        "parameters": TOOL["input_schema"],
    },
}
CALL = {
    "id": "call_1",
    "type": "function",
    "function": {"name": "weather", "arguments": '{"city":"Oslo"}'},
}


def guest(gateway: Gateway) -> anthropic.AsyncAnthropic:
    client = anthropic.AsyncAnthropic(
        base_url=gateway.url, api_key=KEY, max_retries=0, timeout=30
    )
    gateway.clients.append(client)  # type: ignore[arg-type]  closed alike
    return client


def speaks_anthropic(upstream: MockUpstream, *spares: MockUpstream) -> Any:
    config = config_for(upstream, *spares)
    table = config.upstreams["team/u0"].model_copy(
        update={"dialect": "anthropic", "credential": Credential(file="key")}
    )
    return config.model_copy(
        update={"upstreams": {**config.upstreams, "team/u0": table}}
    )


# A client that speaks Anthropic's.


async def test_a_message_is_answered(start: Start, upstream: MockUpstream) -> None:
    gateway = await start(config_for(upstream))
    message = await guest(gateway).messages.create(**ASK)
    assert message.content[0].text == "hello"
    assert message.stop_reason == "end_turn"
    assert (message.usage.input_tokens, message.usage.output_tokens) == (7, 3)
    assert upstream.asked[0].path == "/v1/chat/completions"
    assert upstream.asked[0].body["messages"] == [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "hi"},
    ]


async def test_a_message_streams(start: Start, upstream: MockUpstream) -> None:
    gateway = await start(config_for(upstream))
    async with guest(gateway).messages.stream(**ASK) as stream:
        texts = [text async for text in stream.text_stream]
        message = await stream.get_final_message()
    assert texts == ["hel", "lo"]
    assert message.stop_reason == "end_turn"
    assert message.usage.output_tokens == 3


async def test_tools_go_both_ways(start: Start, upstream: MockUpstream) -> None:
    gateway = await start(config_for(upstream))
    document = chat_document()
    document["choices"][0] |= {
        "finish_reason": "tool_calls",
        "message": {"role": "assistant", "content": None, "tool_calls": [CALL]},
    }
    upstream.script.append(respond(200, document))
    client = guest(gateway)
    message = await client.messages.create(
        **ASK, tools=[TOOL], tool_choice={"type": "any"}
    )
    assert message.stop_reason == "tool_use"
    assert message.content[0].input == {"city": "Oslo"}
    assert upstream.asked[0].body["tools"] == [FUNCTION]
    assert upstream.asked[0].body["tool_choice"] == "required"
    result = {"type": "tool_result", "tool_use_id": "call_1", "content": "rain"}
    turns = [
        *ASK["messages"],
        {"role": "assistant", "content": [b.to_dict() for b in message.content]},
        {"role": "user", "content": [result, {"type": "text", "text": "and?"}]},
    ]
    await client.messages.create(**{**ASK, "messages": turns}, tools=[TOOL])
    assert upstream.asked[1].body["messages"][2:] == [
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "call_1", "content": "rain"},
        {"role": "user", "content": "and?"},
    ]


async def test_a_streamed_tool_call_is_put_together(
    start: Start, upstream: MockUpstream
) -> None:
    def part(**call: Any) -> bytes:
        return event({"choices": [{"index": 0, "delta": {"tool_calls": [call]}}]})

    gateway = await start(config_for(upstream))
    upstream.script.append(
        stream_of(
            delta("let me see"),
            part(index=0, id="c1", function={"name": "weather", "arguments": ""}),
            part(index=0, function={"arguments": '{"city"'}),
            part(index=0, function={"arguments": ':"Oslo"}'}),
            delta(finish="tool_calls"),
            usage_event(7, 9),
            b"data: [DONE]\n\n",
        )
    )
    async with guest(gateway).messages.stream(**ASK, tools=[TOOL]) as stream:
        message = await stream.get_final_message()
    assert [block.type for block in message.content] == ["text", "tool_use"]
    assert message.content[1].input == {"city": "Oslo"}
    assert message.usage.output_tokens == 9


async def test_errors_are_in_the_guests_shape(
    start: Start, upstream: MockUpstream
) -> None:
    gateway = await start(config_for(upstream))
    client = guest(gateway)
    with pytest.raises(anthropic.NotFoundError) as caught:
        await client.messages.create(**{**ASK, "model": "other"})
    assert caught.value.body["error"]["type"] == "not_found_error"
    with pytest.raises(anthropic.BadRequestError, match="not in the shape"):
        await client.messages.create(**{**ASK, "messages": [1]})
    upstream.script.append(respond(400, {"error": {"message": "bad top_p"}}))
    with pytest.raises(anthropic.BadRequestError, match="bad top_p"):
        await client.messages.create(**ASK)
    upstream.script.append(stream_of(delta("a"), end="close"))
    with pytest.raises(anthropic.APIError, match="broke off"):
        async with client.messages.stream(**ASK) as stream:
            await stream.get_final_message()


async def test_tokens_are_counted_by_who_would_answer(
    start: Start, upstream: MockUpstream
) -> None:
    config = config_for(upstream)
    table = config.upstreams["team/u0"]
    engine = table.model_copy(update={"capabilities": ("chat", "tokenize")})
    gateway = await start(config.model_copy(update={"upstreams": {"team/u0": engine}}))
    ask = {name: value for name, value in ASK.items() if name != "max_tokens"}
    upstream.script.append(respond(200, {"count": 12, "tokens": []}))
    counted = await guest(gateway).messages.count_tokens(**ask)
    assert counted.input_tokens == 12
    assert upstream.asked[0].path == "/tokenize"
    assert upstream.asked[0].body["messages"][0]["role"] == "system"
    theirs = table.model_copy(update={"dialect": "anthropic"})
    gateway = await start(config.model_copy(update={"upstreams": {"team/u0": theirs}}))
    upstream.script.append(respond(200, {"input_tokens": 14}))
    counted = await guest(gateway).messages.count_tokens(**ask, tools=[TOOL])
    assert counted.input_tokens == 14
    assert upstream.asked[1].path == "/v1/messages/count_tokens"
    assert set(upstream.asked[1].body) == {
        "model",
        "messages",
        "system",
        "tools",
        "tool_choice",
    }
    gateway = await start(config_for(upstream))
    with pytest.raises(anthropic.BadRequestError, match="not served for tokenize"):
        await guest(gateway).messages.count_tokens(**ask)


# An upstream that speaks Anthropic's.

MESSAGE = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "claude",
    "content": [
        {"type": "thinking", "thinking": "hm", "signature": "s"},
        {"type": "text", "text": "hello"},
        {"type": "tool_use", "id": "t1", "name": "weather", "input": {"city": "Oslo"}},
    ],
    "stop_reason": "tool_use",
    "usage": {
        "input_tokens": 5,
        "cache_read_input_tokens": 2,
        "cache_creation_input_tokens": 1,
        "output_tokens": 4,
    },
}
EVENTS = [
    {"type": "message_start", "message": {**MESSAGE, "content": []}},
    {"type": "ping"},
    {"type": "content_block_start", "index": 0, "content_block": {"type": "text"}},
    {"type": "content_block_delta", "delta": {"type": "text_delta", "text": "hel"}},
    {"type": "content_block_delta", "delta": {"type": "text_delta", "text": "lo"}},
    {"type": "content_block_stop", "index": 0},
    {"type": "content_block_start", "content_block": {**MESSAGE["content"][2]}},
    {"type": "content_block_delta", "delta": {"type": "input_json_delta", "partial_json": '{"city":'}},
    {"type": "content_block_delta", "delta": {"type": "input_json_delta", "partial_json": '"Oslo"}'}},
    {"type": "message_delta", "delta": {"stop_reason": "tool_use"}, "usage": {"output_tokens": 4}},
    {"type": "message_stop"},
]  # fmt: skip


@pytest.fixture
async def gateway(start: Start, upstream: MockUpstream) -> Gateway:
    gateway = await start(config_for(upstream))
    (gateway.folder / "key").write_text("sk-ant")
    return await start(speaks_anthropic(upstream))


async def test_chat_becomes_a_message_and_back(
    gateway: Gateway, upstream: MockUpstream
) -> None:
    upstream.script.append(respond(200, MESSAGE))
    answer = await gateway.client().chat.completions.create(
        model="smol",
        messages=[
            {"role": "system", "content": "be brief"},
            {"role": "user", "content": "hi"},
        ],
        tools=[FUNCTION],
        stop="x",
    )
    choice = answer.choices[0]
    assert (choice.finish_reason, choice.message.content) == ("tool_calls", "hello")
    assert choice.message.tool_calls[0].function.arguments == '{"city":"Oslo"}'
    assert choice.message.reasoning_content == "hm"
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (8, 4)
    assert answer.usage.prompt_tokens_details.cached_tokens == 2
    [asked] = upstream.asked
    assert asked.path == "/v1/messages"
    assert asked.headers["x-api-key"] == "sk-ant"
    assert asked.headers["anthropic-version"] == "2023-06-01"
    assert asked.body == {
        "model": "upstream-name",
        "max_tokens": 4096,
        "system": "be brief",
        "messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}]}],
        "tools": [TOOL],
        "tool_choice": {"type": "auto"},
        "stop_sequences": ["x"],
    }


async def test_a_message_stream_becomes_chunks(
    gateway: Gateway, upstream: MockUpstream
) -> None:
    upstream.script.append(stream_of(*(event(e) for e in EVENTS)))
    stream = await gateway.client().chat.completions.create(
        model="smol",
        messages=[{"role": "user", "content": "hi"}],
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = [chunk async for chunk in stream]
    deltas = [chunk.choices[0].delta for chunk in chunks if chunk.choices]
    assert "".join(d.content or "" for d in deltas) == "hello"
    calls = [d.tool_calls[0] for d in deltas if d.tool_calls]
    assert "".join(c.function.arguments or "" for c in calls) == '{"city":"Oslo"}'
    assert calls[0].function.name == "weather"
    assert chunks[-2].choices[0].finish_reason == "tool_calls"
    assert chunks[-1].usage.prompt_tokens == 8
    assert chunks[-1].usage.completion_tokens == 4


async def test_an_overloaded_provider_falls_back(
    start: Start, upstream: MockUpstream, spare: MockUpstream
) -> None:
    gateway = await start(config_for(upstream))
    (gateway.folder / "key").write_text("sk-ant")
    gateway = await start(speaks_anthropic(upstream, spare))
    overloaded = {"type": "error", "error": {"type": "overloaded_error"}}
    upstream.script.append(respond(529, overloaded))
    upstream.script.append(stream_of(event(EVENTS[0]), event(overloaded)))
    client = gateway.client()
    ask = {"model": "smol", "messages": [{"role": "user", "content": "hi"}]}
    answer = await client.chat.completions.create(**ask)
    assert answer.choices[0].message.content == "hello"
    stream = await client.chat.completions.create(**ask, stream=True)
    text = [c.choices[0].delta.content or "" async for c in stream if c.choices]
    assert "".join(text) == "hello"
    assert len(spare.asked) == 2


async def test_what_cannot_be_said_is_refused_by_name(
    gateway: Gateway, upstream: MockUpstream
) -> None:
    with pytest.raises(openai.BadRequestError, match="`n`"):
        await gateway.client().chat.completions.create(
            model="smol", messages=[{"role": "user", "content": "hi"}], n=2
        )
    assert upstream.asked == []


async def test_an_answer_in_another_shape_is_a_failed_try(
    gateway: Gateway, upstream: MockUpstream
) -> None:
    upstream.always = respond(200, {"content": [1, 2]})
    with pytest.raises(openai.InternalServerError):
        await gateway.client().chat.completions.create(
            model="smol", messages=[{"role": "user", "content": "hi"}]
        )


# Pure.

IMAGE = "data:image/png;base64,AAAA"


def test_an_image_survives_both_ways() -> None:
    part = {"type": "image_url", "image_url": {"url": IMAGE}}
    chat = {"messages": [{"role": "user", "content": [part]}]}
    message = json.loads(anthropic_upstream.request(chat, "m"))
    assert message["messages"][0]["content"][0]["source"]["media_type"] == "image/png"
    assert anthropic_client.chat_request(message)["messages"] == chat["messages"]


junk = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["role", "content", "type", "text", "tools", "id"]),
            inner,
            max_size=3,
        )
    ),
    max_leaves=8,
)


@given(junk)
def test_junk_from_a_client_is_a_bad_request_and_nothing_else(given_: object) -> None:
    for translate in (
        lambda: anthropic_client.chat_request({"messages": given_, "tools": given_}),
        lambda: anthropic_upstream.request({"messages": given_}, "m"),
    ):
        with suppress(BadRequest):
            translate()


@given(st.lists(st.integers(0, 3000), max_size=8))
def test_a_translated_stream_does_not_depend_on_its_cuts(at: list[int]) -> None:
    whole = b"".join(event(e) for e in EVENTS)
    once = anthropic_upstream.AnthropicEvents().feed(whole)
    marks = sorted({0, len(whole), *(cut % len(whole) for cut in at)})
    translator = anthropic_upstream.AnthropicEvents()
    parts = [whole[a:b] for a, b in itertools.pairwise(marks)]
    assert once == b"".join(translator.feed(part) for part in parts)
