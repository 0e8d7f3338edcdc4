"""Providers' own APIs behind chat: recorded shapes, byte by byte and on the wire."""

from __future__ import annotations

import itertools
import json
import zlib
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import openai
import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from botocore.eventstream import EventStreamBuffer
from hypothesis import given
from hypothesis import strategies as st

from gateway.dialects import bedrock, sigv4
from gateway.dialects.registry import DIALECTS
from gateway.openai import BadRequest
from schemas.gateway import Credential, GatewayConfig
from tests.gateway.wire import (
    Asked,
    Behaviour,
    MockUpstream,
    Start,
    config_for,
    respond,
    write,
)

GOLDEN = Path(__file__).parent / "golden" / "dialects"
CALL = {
    "id": "call_1",
    "type": "function",
    "function": {"name": "weather", "arguments": '{"city":"Oslo"}'},
}
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}
FULL: dict[str, Any] = {
    "model": "smol",
    "max_completion_tokens": 50,
    "temperature": 0.5,
    "top_p": 0.9,
    "stop": "END",
    "messages": [
        {"role": "developer", "content": "be brief"},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "what is this?"},
                {
                    "type": "image_url",
                    "image_url": {"url": "data:image/png;base64,eA=="},
                },
            ],
        },
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "call_1", "content": "rain"},
    ],
    "tools": [
        {
            "type": "function",
            "function": {
                "name": "weather",
                "description": "of a city",
                "parameters": SCHEMA,
            },
        }
    ],
}


def recorded(name: str) -> Any:
    return json.loads((GOLDEN / name).read_text())


def held_to(name: str, found: object, *, update: bool) -> None:
    path = GOLDEN / name
    if update:
        path.write_text(json.dumps(found, indent=2, ensure_ascii=False) + "\n")
    assert found == json.loads(path.read_text())


@pytest.mark.parametrize("dialect", ["gemini", "bedrock", "cohere"])
def test_a_chat_request_is_said_in_the_providers_words(
    dialect: str, update_golden: bool
) -> None:
    said = json.loads(DIALECTS[dialect].ways["chat"].request(FULL, "their-name"))
    held_to(f"{dialect}.request.json", said, update=update_golden)


def sse(events: list[dict[str, Any]]) -> bytes:
    return b"".join(
        (f"event: {event['type']}\n".encode() if "type" in event else b"")
        + b"data: "
        + json.dumps(event).encode()
        + b"\n\n"
        for event in events
    )


def header(name: str, value: str) -> bytes:
    key, text = name.encode(), value.encode()
    return bytes([len(key)]) + key + b"\x07" + len(text).to_bytes(2) + text


def aws_frame(payload: dict[str, Any], **headers: str) -> bytes:
    body = json.dumps(payload).encode()
    names = {f":{name.replace('_', '-')}": value for name, value in headers.items()}
    fields = b"".join(header(name, value) for name, value in names.items())
    size = 12 + len(fields) + len(body) + 4
    prelude = size.to_bytes(4) + len(fields).to_bytes(4)
    head = prelude + zlib.crc32(prelude).to_bytes(4) + fields + body
    return head + zlib.crc32(head).to_bytes(4)


def aws(events: list[dict[str, Any]]) -> bytes:
    return b"".join(
        aws_frame(payload, message_type="event", event_type=name)
        for event in events
        for name, payload in event.items()
    )


def stream_bytes(dialect: str) -> bytes:
    events = recorded(f"{dialect}.stream.json")
    return aws(events) if dialect == "bedrock" else sse(events)


def translate(dialect: str, *pieces: bytes) -> list[dict[str, Any]]:
    way = DIALECTS[dialect].ways["chat"]
    assert way.events is not None
    events = way.events()
    out = b"".join(events.feed(piece) for piece in pieces) + events.end()
    lines = [line[6:] for line in out.split(b"\n") if line.startswith(b"data: ")]
    assert lines.pop() == b"[DONE]"
    return [json.loads(line) for line in lines]


@pytest.mark.parametrize("dialect", ["gemini", "bedrock", "cohere"])
def test_an_answer_and_its_stream_say_the_same(dialect: str) -> None:
    way = DIALECTS[dialect].ways["chat"]
    body = json.dumps(recorded(f"{dialect}.answer.json")).encode()
    answer = json.loads(way.answer(body, 200))
    [choice] = answer["choices"]
    message = choice["message"]
    assert message["content"] == "It rains."
    assert message["reasoning_content"] == "Let me see."
    [call] = message["tool_calls"]
    assert call["function"]["name"] == "weather"
    assert json.loads(call["function"]["arguments"]) == {"city": "Oslo"}
    assert choice["finish_reason"] == "tool_calls"

    chunks = translate(dialect, stream_bytes(dialect))
    deltas = [c["choices"][0]["delta"] for c in chunks if c["choices"]]
    said = "".join(delta.get("content") or "" for delta in deltas)
    thought = "".join(delta.get("reasoning_content") or "" for delta in deltas)
    parts = [part for delta in deltas for part in delta.get("tool_calls", ())]
    arguments = "".join(part["function"].get("arguments") or "" for part in parts)
    assert (said, thought) == ("It rains.", "Let me see.")
    assert parts[0]["function"]["name"] == "weather"
    assert {part["index"] for part in parts} == {0}
    assert json.loads(arguments) == {"city": "Oslo"}
    finishes = [c["choices"][0]["finish_reason"] for c in chunks if c["choices"]]
    assert finishes[-1] == "tool_calls"
    assert chunks[-1]["usage"] == answer["usage"]
    used = answer["usage"]
    assert (used["prompt_tokens"], used["completion_tokens"]) == (20, 9)
    assert used["prompt_tokens_details"] == {"cached_tokens": 5}


@pytest.mark.parametrize("dialect", ["gemini", "bedrock", "cohere"])
@given(data=st.data())
def test_a_stream_means_the_same_however_it_is_cut(
    dialect: str, data: st.DataObject
) -> None:
    stream = stream_bytes(dialect)
    cuts = data.draw(st.lists(st.integers(0, len(stream)), max_size=8).map(sorted))
    pieces = [stream[a:b] for a, b in itertools.pairwise([0, *cuts, len(stream)])]
    assert translate(dialect, *pieces) == translate(dialect, stream)


ERRORS = {
    "gemini": (
        {"error": {"code": 400, "message": "bad", "status": "INVALID_ARGUMENT"}},
        "INVALID_ARGUMENT",
    ),
    "bedrock": (
        {"message": "bad", "__type": "ValidationException"},
        "ValidationException",
    ),
    "cohere": ({"message": "bad"}, None),
}


@pytest.mark.parametrize("dialect", ERRORS)
def test_an_error_is_told_as_openai_tells_it(dialect: str) -> None:
    document, code = ERRORS[dialect]
    way = DIALECTS[dialect].ways["chat"]
    error = json.loads(way.answer(json.dumps(document).encode(), 400))["error"]
    assert (error["message"], error["code"]) == ("bad", code)


UNSAID: dict[str, tuple[str, dict[str, Any]]] = {
    "several answers": ("gemini", {"n": 2}),
    "gemini's logprobs": ("gemini", {"logprobs": True}),
    "bedrock's seed": ("bedrock", {"seed": 1}),
    "bedrock's format": ("bedrock", {"response_format": {"type": "json_object"}}),
    "bedrock's images by address": (
        "bedrock",
        {
            "messages": [
                {
                    "role": "user",
                    "content": [
                        {"type": "image_url", "image_url": {"url": "https://x/y"}}
                    ],
                }
            ]
        },
    ),
    "bedrock's choice of none": (
        "bedrock",
        {"tools": FULL["tools"], "tool_choice": "none"},
    ),
    "cohere's choice of one": (
        "cohere",
        {
            "tools": FULL["tools"],
            "tool_choice": {"type": "function", "function": {"name": "weather"}},
        },
    ),
}


@pytest.mark.parametrize(("dialect", "given"), UNSAID.values(), ids=UNSAID)
def test_what_a_provider_cannot_do_is_refused_by_name(
    dialect: str, given: dict[str, Any]
) -> None:
    document = {"messages": [{"role": "user", "content": "hi"}], **given}
    with pytest.raises(BadRequest) as caught:
        DIALECTS[dialect].ways["chat"].request(document, "m")
    assert caught.value.param is not None
    assert caught.value.param.split(".")[0] in given


def test_gemini_is_asked_for_a_schema_and_gets_its_signatures_back() -> None:
    kind = {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA}}
    google = {"google": {"thought_signature": "c2ln"}}
    message = {"role": "assistant", "tool_calls": [{**CALL, "extra_content": google}]}
    document = {"messages": [message], "response_format": kind}
    said = json.loads(DIALECTS["gemini"].ways["chat"].request(document, "m"))
    assert said["generationConfig"] == {
        "responseMimeType": "application/json",
        "responseJsonSchema": SCHEMA,
    }
    assert said["contents"][0]["parts"][0]["thoughtSignature"] == "c2ln"


# Bedrock's signature and frames, against Amazon's own code.


@given(
    st.binary(max_size=200),
    st.sampled_from(["a.b-v1:0", "arn:aws:bedrock:eu-west-1:1:x/y z", "ü"]),
    st.booleans(),
)
def test_a_signature_is_the_one_that_amazons_sdk_makes(
    body: bytes, model: str, with_token: bool
) -> None:
    now = datetime(2026, 11, 23, 12, 0, 1, tzinfo=UTC)
    host = "bedrock-runtime.eu-west-1.amazonaws.com"
    path = DIALECTS["bedrock"].ways["chat"].target(model, stream=True)
    token = "t/oke+n" if with_token else None
    request = AWSRequest("POST", f"https://{host}{path}", data=body)
    signer = SigV4Auth(Credentials("AKID", "se/cr+et", token), "bedrock", "eu-west-1")
    request.context["timestamp"] = now.strftime("%Y%m%dT%H%M%SZ")
    signer._modify_request_before_signing(request)
    canonical = signer.canonical_request(request)
    text = signer.string_to_sign(request, canonical)
    expected = signer.signature(text, request)
    secret = ":".join(filter(None, ["AKID", "se/cr+et", token]))
    lines = sigv4.sign(
        secret,
        region="eu-west-1",
        host=host,
        path=path,
        body=body,
        now=now.timestamp(),
    )
    assert f"Signature={expected}".encode() in lines


def test_frames_are_read_as_amazons_sdk_reads_them() -> None:
    data = stream_bytes("bedrock")
    buffer = EventStreamBuffer()
    buffer.add_data(data)
    theirs = [(e.headers[":event-type"], json.loads(e.payload)) for e in buffer]
    ours = []
    while (taken := bedrock._take(data)) is not None:
        headers, payload, data = taken
        ours.append((headers[":event-type"], json.loads(payload)))
    assert ours == theirs
    assert data == b""


@given(st.integers(0, 10_000), st.integers(1, 255))
def test_a_flipped_byte_is_never_read_as_an_event(at: int, mask: int) -> None:
    whole = aws_frame({"delta": {"text": "x"}}, event_type="contentBlockDelta")
    at %= len(whole)
    broken = whole[:at] + bytes([whole[at] ^ mask]) + whole[at + 1 :]
    with pytest.raises(ValueError, match="checksum"):
        bedrock.BedrockEvents().feed(broken + bytes(64))


# On the wire, by OpenAI's own client.


def config_of(
    dialect: str, upstream: MockUpstream, *spares: MockUpstream, **more: Any
) -> GatewayConfig:
    config = config_for(upstream, *spares)
    table = config.upstreams["team/u0"].model_copy(
        update={
            "dialect": dialect,
            "model": "their/name",
            "capabilities": ("chat", "embeddings", "rerank"),
            **more,
        }
    )
    return config.model_copy(
        update={"upstreams": {**config.upstreams, "team/u0": table}}
    )


def raw(kind: str, body: bytes, status: int = 200) -> Behaviour:
    async def behave(writer: Any, asked: Asked) -> None:
        writer.write(
            f"HTTP/1.1 {status} X\r\ncontent-type: {kind}\r\n"
            f"content-length: {len(body)}\r\n\r\n".encode()
            + body
        )

    return behave


PATHS = {
    "gemini": (
        "/v1beta/models/their%2Fname:generateContent",
        "/v1beta/models/their%2Fname:streamGenerateContent?alt=sse",
    ),
    "bedrock": ("/model/their%2Fname/converse", "/model/their%2Fname/converse-stream"),
    "cohere": ("/v2/chat", "/v2/chat"),
}


@pytest.mark.parametrize("dialect", PATHS)
async def test_the_official_client_speaks_to_a_provider(
    start: Start, upstream: MockUpstream, dialect: str
) -> None:
    gateway = await start(config_of(dialect, upstream, region="eu-west-1"))
    ask: dict[str, Any] = {"model": "smol", "messages": FULL["messages"][:1]}
    client = gateway.client()
    upstream.script.append(respond(200, recorded(f"{dialect}.answer.json")))
    answer = await client.chat.completions.create(**ask)
    assert answer.choices[0].message.content == "It rains."
    kind = "text/event-stream"
    if dialect == "bedrock":
        kind = "application/vnd.amazon.eventstream"
    upstream.script.append(raw(kind, stream_bytes(dialect)))
    stream = await client.chat.completions.create(
        **ask, stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]
    said = [c.choices[0].delta.content or "" for c in chunks if c.choices]
    assert "".join(said) == "It rains."
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.total_tokens == 29
    assert tuple(asked.path for asked in upstream.asked) == PATHS[dialect]


@pytest.mark.parametrize("dialect", ERRORS)
async def test_a_providers_refusal_reaches_the_client(
    start: Start, upstream: MockUpstream, dialect: str
) -> None:
    gateway = await start(config_of(dialect, upstream))
    upstream.script.append(respond(400, ERRORS[dialect][0]))
    with pytest.raises(openai.BadRequestError, match="bad"):
        await gateway.client().chat.completions.create(
            model="smol", messages=[{"role": "user", "content": "hi"}]
        )


async def test_a_stream_that_begins_with_an_exception_falls_back(
    start: Start, upstream: MockUpstream, spare: MockUpstream
) -> None:
    gateway = await start(config_of("bedrock", upstream, spare))
    throttled = aws_frame(
        {"message": "slow down"},
        message_type="exception",
        exception_type="throttlingException",
    )
    upstream.script.append(raw("application/vnd.amazon.eventstream", throttled))
    stream = await gateway.client().chat.completions.create(
        model="smol", messages=[{"role": "user", "content": "hi"}], stream=True
    )
    said = [c.choices[0].delta.content or "" async for c in stream]
    assert "".join(said) == "hello"


async def test_each_provider_is_shown_its_credential_its_own_way(
    start: Start, upstream: MockUpstream
) -> None:
    ask: dict[str, Any] = {
        "model": "smol",
        "messages": [{"role": "user", "content": "."}],
    }
    expected = {
        "gemini": ("x-goog-api-key", "k"),
        "cohere": ("authorization", "bearer k"),
        "bedrock": ("authorization", "bearer k"),
        "azure": ("api-key", "k"),
    }
    for dialect, (name, value) in expected.items():
        config = config_of(dialect, upstream, credential=Credential(file="key"))
        gateway = await start(config_for(upstream))
        write(gateway.folder / "key", "k")
        gateway = await start(config)
        upstream.script.append(respond(400, {"error": {"message": "x"}}))
        with pytest.raises(openai.APIStatusError):
            await gateway.client().chat.completions.create(**ask)
        assert upstream.asked[-1].headers[name] == value


async def test_a_key_pair_signs_what_is_sent(
    start: Start, upstream: MockUpstream
) -> None:
    gateway = await start(config_for(upstream))
    write(gateway.folder / "pair", "AKID:secret:token")
    config = config_of(
        "bedrock", upstream, credential=Credential(file="pair"), region="eu-west-1"
    )
    gateway = await start(config)
    upstream.script.append(respond(200, recorded("bedrock.answer.json")))
    await gateway.client().chat.completions.create(
        model="smol", messages=[{"role": "user", "content": "hi"}]
    )
    [asked] = upstream.asked
    when = datetime.strptime(asked.headers["x-amz-date"], "%Y%m%dt%H%M%Sz")  # noqa: DTZ007  its Z is checked
    lines = sigv4.sign(
        "AKID:secret:token",
        region="eu-west-1",
        host=asked.headers["host"],
        path=asked.path,
        body=asked.raw,
        now=when.replace(tzinfo=UTC).timestamp(),
    )
    assert asked.headers["authorization"].encode() in lines.lower()
    assert asked.headers["x-amz-security-token"] == "token"


async def test_azures_older_addresses_carry_their_version(
    start: Start, upstream: MockUpstream
) -> None:
    config = config_of("azure", upstream, api_version="2024-10-21")
    table = config.upstreams["team/u0"].model_copy(
        update={"urls": (upstream.url + "/openai/deployments/mine",)}
    )
    gateway = await start(config.model_copy(update={"upstreams": {"team/u0": table}}))
    await gateway.client().chat.completions.create(
        model="smol", messages=[{"role": "user", "content": "hi"}]
    )
    path = "/openai/deployments/mine/chat/completions?api-version=2024-10-21"
    assert upstream.asked[0].path == path


@pytest.mark.parametrize("dialect", ["gemini", "cohere"])
async def test_embeddings_come_from_a_provider(
    start: Start, upstream: MockUpstream, dialect: str
) -> None:
    gateway = await start(config_of(dialect, upstream))
    answers: dict[str, Any] = {
        "gemini": {"embeddings": [{"values": [0.5]}, {"values": [1.0]}]},
        "cohere": {
            "embeddings": {"float": [[0.5], [1.0]]},
            "meta": {"billed_units": {"input_tokens": 4}},
        },
    }
    upstream.script.append(respond(200, answers[dialect]))
    found = await gateway.client().embeddings.create(
        model="smol", input=["a", "b"], dimensions=1
    )
    assert [one.embedding for one in found.data] == [[0.5], [1.0]]
    asked = upstream.asked[0].body
    if dialect == "gemini":
        assert asked["requests"][1] == {
            "model": "models/their/name",
            "content": {"parts": [{"text": "b"}]},
            "outputDimensionality": 1,
        }
    else:
        assert found.usage.total_tokens == 4
        assert (asked["texts"], asked["output_dimension"]) == (["a", "b"], 1)


async def test_cohere_ranks(start: Start, upstream: MockUpstream) -> None:
    gateway = await start(config_of("cohere", upstream))
    result = {"index": 1, "relevance_score": 0.9}
    upstream.script.append(respond(200, {"id": "r", "results": [result]}))
    found = await gateway.client().post(
        "/rerank",
        body={"model": "smol", "query": "q", "documents": ["a", "b"], "top_n": 1},
        cast_to=dict[str, Any],
    )
    assert found["results"] == [result]
    assert upstream.asked[0].path == "/v2/rerank"
