"""The Responses API by the official client, over chat and over its own kind."""

from __future__ import annotations

import asyncio
import itertools
import json
from typing import Any

import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.dialects import responses_client
from gateway.openai import BadRequest
from gateway.texts import parts_of
from schemas.gateway import GatewayConfig, Key, Route, Target, hash_key
from schemas.gateway import Store as StoreTable
from tests.gateway.wire import (
    Asked,
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

TOOL: dict[str, Any] = {
    "type": "function",
    "name": "weather",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    "strict": True,
}


def config_of(upstream: MockUpstream, *, native: bool = False) -> GatewayConfig:
    config = config_for(upstream, listener={"store": StoreTable()})
    table = config.upstreams["team/u0"]
    if native:
        table = table.model_copy(update={"capabilities": ("responses",)})
    other = Route(models=("smol",), targets=(Target(upstream="team/u0"),))
    return config.model_copy(
        update={
            "upstreams": {"team/u0": table},
            "keys": {**config.keys, "other/ci": Key(hash=hash_key("other"))},
            "routes": {**config.routes, "other/chat": other},
        }
    )


async def until_over(gateway: Gateway, name: str) -> Any:
    client = gateway.client()
    async with asyncio.timeout(60):
        while True:
            found = await client.responses.retrieve(name)
            if found.status not in {"queued", "in_progress"}:
                return found
            await asyncio.sleep(0.05)


async def test_a_response_is_made_of_a_chat_answer(
    start: Start, upstream: MockUpstream
) -> None:
    gateway = await start(config_of(upstream))
    made = await gateway.client().responses.create(
        model="smol",
        input="hi",
        instructions="be brief",
        max_output_tokens=20,
        reasoning={"effort": "low"},
        metadata={"who": "test"},
    )
    assert made.output_text == "hello"
    assert made.status == "completed"
    assert made.metadata == {"who": "test"}
    assert made.usage is not None
    assert (made.usage.input_tokens, made.usage.output_tokens) == (7, 3)
    assert upstream.asked[0].path == "/v1/chat/completions"
    assert upstream.asked[0].body == {
        "model": "upstream-name",
        "messages": [
            {"role": "system", "content": "be brief"},
            {"role": "user", "content": "hi"},
        ],
        "max_tokens": 20,
        "reasoning_effort": "low",
    }


async def test_a_conversation_goes_on_from_what_is_kept(
    start: Start, upstream: MockUpstream
) -> None:
    gateway = await start(config_of(upstream))
    client = gateway.client()
    first = await client.responses.create(model="smol", input="one")
    second = await client.responses.create(
        model="smol", input="two", previous_response_id=first.id
    )
    assert second.previous_response_id == first.id
    assert upstream.asked[1].body["messages"] == [
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "hello"},
        {"role": "user", "content": "two"},
    ]
    # Each holds all that it needs: the first may go.
    await client.responses.delete(first.id)
    with pytest.raises(openai.NotFoundError):
        await client.responses.retrieve(first.id)
    third = await client.responses.create(
        model="smol", input="three", previous_response_id=second.id
    )
    said = [m["content"] for m in upstream.asked[2].body["messages"]]
    assert said == ["one", "hello", "two", "hello", "three"]
    kept = await client.responses.retrieve(third.id)
    assert kept.output_text == "hello"
    items = [item async for item in client.responses.input_items.list(third.id)]
    assert [item.content[0].text for item in items] == ["three"]


async def test_no_other_project_finds_a_response(
    start: Start, upstream: MockUpstream
) -> None:
    gateway = await start(config_of(upstream))
    made = await gateway.client().responses.create(model="smol", input="secret")
    stranger = gateway.client("other")
    for asking in (
        stranger.responses.retrieve(made.id),
        stranger.responses.delete(made.id),
        stranger.responses.cancel(made.id),
        stranger.responses.input_items.list(made.id),
        stranger.responses.create(
            model="smol", input="?", previous_response_id=made.id
        ),
    ):
        with pytest.raises(openai.NotFoundError):
            await asking
    assert len(upstream.asked) == 1


async def test_what_shall_not_be_kept_is_not(
    start: Start, upstream: MockUpstream
) -> None:
    gateway = await start(config_of(upstream))
    client = gateway.client()
    made = await client.responses.create(model="smol", input="hi", store=False)
    assert made.output_text == "hello"
    with pytest.raises(openai.NotFoundError):
        await client.responses.retrieve(made.id)


async def test_a_response_streams_and_is_kept(
    start: Start, upstream: MockUpstream
) -> None:
    gateway = await start(config_of(upstream))
    client = gateway.client()
    async with client.responses.stream(model="smol", input="hi") as stream:
        events = [event async for event in stream]
        final = await stream.get_final_response()
    assert [e.type for e in events] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.delta",
        "response.output_text.delta",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert [e.sequence_number for e in events] == list(range(10))
    assert final.output_text == "hello"
    assert final.usage is not None
    assert final.usage.total_tokens == 10
    assert (await client.responses.retrieve(final.id)).output_text == "hello"


async def test_functions_are_called_and_answered(
    start: Start, upstream: MockUpstream
) -> None:
    gateway = await start(config_of(upstream))
    client = gateway.client()
    call = {
        "id": "call_1",
        "type": "function",
        "function": {"name": "weather", "arguments": '{"city":"Oslo"}'},
    }
    document = chat_document()
    document["choices"][0] |= {
        "finish_reason": "tool_calls",
        "message": {"role": "assistant", "content": None, "tool_calls": [call]},
    }
    upstream.script.append(respond(200, document))
    first = await client.responses.create(model="smol", input="hi", tools=[TOOL])
    [said] = first.output
    assert said.type == "function_call"
    assert (said.call_id, said.arguments) == ("call_1", '{"city":"Oslo"}')
    function = {n: v for n, v in TOOL.items() if n != "type"}
    assert upstream.asked[0].body["tools"] == [
        {"type": "function", "function": function}
    ]
    await client.responses.create(
        model="smol",
        previous_response_id=first.id,
        input=[{"type": "function_call_output", "call_id": "call_1", "output": "rain"}],
    )
    assert upstream.asked[1].body["messages"] == [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "rain"},
    ]


async def test_a_response_in_the_background_can_be_fetched(
    start: Start, upstream: MockUpstream
) -> None:
    gateway = await start(config_of(upstream))
    made = await gateway.client().responses.create(
        model="smol", input="hi", background=True
    )
    assert made.status == "queued"
    done = await until_over(gateway, made.id)
    assert (done.status, done.output_text) == ("completed", "hello")
    assert done.id == made.id


async def test_a_response_in_the_background_can_be_cancelled(
    start: Start, upstream: MockUpstream
) -> None:
    gateway = await start(config_of(upstream))
    seen = asyncio.Event()

    async def wait(writer: asyncio.StreamWriter, asked: Asked) -> None:
        seen.set()
        await asyncio.Event().wait()

    upstream.script.append(wait)
    client = gateway.client()
    made = await client.responses.create(model="smol", input="hi", background=True)
    async with asyncio.timeout(30):
        await seen.wait()
    assert (await client.responses.cancel(made.id)).status == "cancelled"
    await upstream.until_open(0)
    assert (await client.responses.retrieve(made.id)).status == "cancelled"


async def test_a_response_that_fails_in_the_background_says_why(
    start: Start, upstream: MockUpstream
) -> None:
    gateway = await start(config_of(upstream))
    upstream.always = respond(400, {"error": {"message": "too long"}})
    made = await gateway.client().responses.create(
        model="smol", input="hi", background=True
    )
    done = await until_over(gateway, made.id)
    assert done.status == "failed"
    assert done.error is not None
    assert done.error.message == "too long"


def native_answer(text: str, name: str = "resp_up") -> dict[str, Any]:
    part = {"type": "output_text", "text": text, "annotations": []}
    return {
        "id": name,
        "object": "response",
        "created_at": 1,
        "status": "completed",
        "model": "m",
        "output": [
            {
                "id": "msg_1",
                "type": "message",
                "role": "assistant",
                "status": "completed",
                "content": [part],
            }
        ],
        "usage": {"input_tokens": 4, "output_tokens": 2, "total_tokens": 6},
        "tools": [],
        "vendor": {"kept": True},
    }


async def test_an_upstream_of_its_kind_is_asked_to_keep_nothing(
    start: Start, upstream: MockUpstream
) -> None:
    gateway = await start(config_of(upstream, native=True))
    client = gateway.client()
    upstream.script.append(respond(200, native_answer("one")))
    first = await client.responses.create(
        model="smol", input="hi", tools=[{"type": "web_search"}]
    )
    assert first.to_dict()["vendor"] == {"kept": True}
    assert upstream.asked[0].path == "/v1/responses"
    assert upstream.asked[0].body["store"] is False
    assert upstream.asked[0].body["tools"] == [{"type": "web_search"}]
    upstream.script.append(
        stream_of(
            event({"type": "response.created", "response": {"status": "in_progress"}}),
            event({"type": "response.output_text.delta", "delta": "two"}),
            event(
                {
                    "type": "response.completed",
                    "response": native_answer("two", "resp_2"),
                }
            ),
        )
    )
    stream = await client.responses.create(
        model="smol", input="more", previous_response_id=first.id, stream=True
    )
    assert [e.type async for e in stream][-1] == "response.completed"
    asked = upstream.asked[1].body
    assert "previous_response_id" not in asked
    assert [i["role"] for i in asked["input"]] == ["user", "assistant", "user"]
    kept = await client.responses.retrieve("resp_2")
    assert (kept.output_text, kept.previous_response_id) == ("two", first.id)


async def test_without_a_store_requests_of_its_kind_pass(
    start: Start, upstream: MockUpstream
) -> None:
    config = config_of(upstream, native=True)
    listener = config.gateway.model_copy(update={"store": None})
    gateway = await start(config.model_copy(update={"gateway": listener}), fresh=True)
    upstream.script.append(respond(200, native_answer("one")))
    await gateway.client().responses.create(
        model="smol", input="hi", previous_response_id="theirs"
    )
    assert upstream.asked[0].body["previous_response_id"] == "theirs"
    with pytest.raises(openai.APIStatusError) as caught:
        await gateway.client().responses.retrieve("resp_up")
    assert caught.value.status_code == 501


UNSAID: dict[str, dict[str, Any]] = {
    "a tool that is run for the model": {"tools": [{"type": "web_search"}]},
    "a stored prompt": {"prompt": {"id": "p"}},
    "truncation": {"truncation": "auto"},
    "an item": {"input": [{"type": "computer_call", "id": "c"}]},
    "a file by its id": {
        "input": [{"role": "user", "content": [{"type": "input_file", "file_id": "f"}]}]
    },
    "no input": {"input": 7},
}


@pytest.mark.parametrize("given", UNSAID.values(), ids=UNSAID)
def test_what_chat_cannot_say_is_refused_by_name(given: dict[str, Any]) -> None:
    document = {"model": "smol", "input": "hi"} | given
    with pytest.raises(BadRequest) as caught:
        responses_client.chat_request(document, responses_client.items_of(document))
    [field] = given
    assert caught.value.param is not None
    assert caught.value.param.startswith(field)


def test_parts_and_formats_are_said_in_chats_words() -> None:
    document = {
        "model": "m",
        "input": [
            {
                "role": "developer",
                "content": [
                    {"type": "input_text", "text": "look"},
                    {"type": "input_image", "image_url": "data:x", "detail": "low"},
                ],
            }
        ],
        "text": {"format": {"type": "json_schema", "name": "n", "schema": {}}},
        "tools": [TOOL],
        "tool_choice": {"type": "function", "name": "weather"},
    }
    items = responses_client.items_of(document)
    chat = responses_client.chat_request(document, items)
    assert chat["messages"][0] == {
        "role": "system",
        "content": [
            {"type": "text", "text": "look"},
            {"type": "image_url", "image_url": {"url": "data:x", "detail": "low"}},
        ],
    }
    assert chat["response_format"] == {
        "type": "json_schema",
        "json_schema": {"name": "n", "schema": {}},
    }
    choice = {"type": "function", "function": {"name": "weather"}}
    assert chat["tool_choice"] == choice


CALLS = [{"index": 0, "id": "c", "function": {"name": "f", "arguments": '{"a"'}}]
MORE = [{"index": 0, "function": {"arguments": ":1}"}}]
STREAM = b"".join(
    [
        delta(role="assistant"),
        event({"choices": [{"index": 0, "delta": {"reasoning_content": "hm"}}]}),
        delta("hel"),
        delta("lo"),
        event({"choices": [{"index": 0, "delta": {"tool_calls": CALLS}}]}),
        event({"choices": [{"index": 0, "delta": {"tool_calls": MORE}}]}),
        delta(finish="length"),
        usage_event(7, 3),
        b"data: [DONE]\n\n",
    ]
)


def translated(*pieces: bytes) -> list[dict[str, Any]]:
    echo = responses_client.skeleton({}, name="resp_x", now=1, store=True)
    events = responses_client.ResponseEvents(echo)
    out = b"".join(events.feed(piece) for piece in pieces) + events.end()
    lines = [line for line in out.split(b"\n") if line.startswith(b"data: ")]
    return [json.loads(line[6:]) for line in lines]


@given(st.lists(st.integers(0, len(STREAM)), max_size=8).map(sorted))
def test_a_stream_means_the_same_however_it_is_cut(cuts: list[int]) -> None:
    bounds = [0, *cuts, len(STREAM)]
    pieces = [STREAM[a:b] for a, b in itertools.pairwise(bounds)]
    assert translated(*pieces) == translated(STREAM)


def test_a_stream_ends_with_all_that_it_brought() -> None:
    events = translated(STREAM)
    whole = events[-1]["response"]
    assert events[-1]["type"] == "response.incomplete"
    assert whole["incomplete_details"] == {"reason": "max_output_tokens"}
    assert [item["type"] for item in whole["output"]] == [
        "reasoning",
        "message",
        "function_call",
    ]
    assert whole["output"][1]["content"][0]["text"] == "hello"
    assert whole["output"][2]["arguments"] == '{"a":1}'
    assert [e["sequence_number"] for e in events] == list(range(len(events)))
    # Every item is opened before it grows, and closed once.
    added = [e["item"]["id"] for e in events if e["type"].endswith("item.added")]
    done = [e["item"]["id"] for e in events if e["type"].endswith("item.done")]
    assert added == done == [item["id"] for item in whole["output"]]


def test_a_guardrail_sees_every_event_that_says_the_words() -> None:
    told = 0
    for one in translated(STREAM):
        seen = json.dumps([part.text for part in parts_of(one)])
        if "hello" in json.dumps(one):
            told += 1
            assert "hello" in seen, one["type"]
    assert told == 4
