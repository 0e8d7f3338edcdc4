"""Bodies that are not held: forms with files, and JSON past a mebibyte."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp
import openai
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.cold.spool import JsonBody, Spool
from gateway.openai import BadRequest
from schemas.gateway import Capability, GatewayConfig, Limits
from schemas.units import Bytes
from tests.gateway.wire import (
    KEY,
    Gateway,
    MockUpstream,
    Start,
    config_for,
    reset,
    respond,
    stream_of,
)

ANY: tuple[Capability, ...] = (
    "chat",
    "transcriptions",
    "translations",
    "image-edits",
    "image-variations",
)
TEXT = respond(200, {"text": "hello", "usage": {"type": "tokens", "input_tokens": 5}})


def config_of(*upstreams: MockUpstream, **listener: Any) -> GatewayConfig:
    config = config_for(*upstreams, listener=listener or None)
    tables = {
        name: table.model_copy(update={"capabilities": ANY})
        for name, table in config.upstreams.items()
    }
    return config.model_copy(update={"upstreams": tables})


async def test_the_official_client_uploads_audio_and_images(
    start: Start, upstream: MockUpstream
) -> None:
    gateway = await start(config_of(upstream))
    upstream.always = TEXT
    client = gateway.client()
    heard = await client.audio.transcriptions.create(
        model="smol", file=("a.wav", b"RIFF" * 100), language="en"
    )
    assert heard.text == "hello"
    assert upstream.asked[0].path == "/v1/audio/transcriptions"
    assert b'name="model"\r\n\r\nupstream-name\r\n' in upstream.asked[0].raw
    assert b'name="language"\r\n\r\nen\r\n' in upstream.asked[0].raw
    assert b"RIFF" * 100 in upstream.asked[0].raw
    with pytest.deprecated_call():
        said = await client.audio.translations.create(
            model="smol", file=("a.wav", b"x")
        )
    assert said.text == "hello"
    upstream.always = respond(200, {"created": 1, "data": [{"b64_json": "eA=="}]})
    edited = await client.images.edit(
        model="smol", image=("a.png", b"png"), mask=("m.png", b"m"), prompt="hat"
    )
    assert edited.data is not None
    assert edited.data[0].b64_json == "eA=="
    with pytest.deprecated_call():
        await client.images.create_variation(model="smol", image=("a.png", b"png"))
    assert [a.path for a in upstream.asked[1:]] == [
        "/v1/audio/translations",
        "/v1/images/edits",
        "/v1/images/variations",
    ]


async def test_a_transcription_streams(start: Start, upstream: MockUpstream) -> None:
    gateway = await start(config_of(upstream))
    done = {"type": "transcript.text.done", "text": "hello"}
    parts = [b'data: {"type":"transcript.text.delta","delta":"hel"}\n\n']
    parts.append(b"data: " + json.dumps(done).encode() + b"\n\n")
    upstream.always = stream_of(*parts)
    stream = await gateway.client().audio.transcriptions.create(
        model="smol", file=("a.wav", b"x"), stream=True
    )
    assert [event.type async for event in stream] == [
        "transcript.text.delta",
        "transcript.text.done",
    ]


async def test_an_upload_falls_back_whole(
    start: Start, upstream: MockUpstream, spare: MockUpstream
) -> None:
    gateway = await start(config_of(upstream, spare))
    audio = os.urandom(3 << 20)
    upstream.script.append(reset)
    spare.always = TEXT
    heard = await gateway.client().audio.transcriptions.create(
        model="smol", file=("a.wav", audio)
    )
    assert heard.text == "hello"
    assert audio in upstream.asked[0].raw
    assert audio in spare.asked[0].raw


async def test_an_upload_reaches_the_upstream_before_it_is_whole(
    start: Start, upstream: MockUpstream
) -> None:
    gateway = await start(config_of(upstream))
    upstream.always = TEXT
    rest = asyncio.Event()

    async def dribble() -> Any:
        yield b'--x\r\ncontent-disposition: form-data; name="model"\r\n\r\nsmol\r\n'
        yield b'--x\r\ncontent-disposition: form-data; name="file"; filename="a"\r\n\r\n'
        yield b"a" * (2 << 20)
        await rest.wait()
        yield b"\r\n--x--\r\n"

    async with asyncio.timeout(30), aiohttp.ClientSession() as session:
        asking = asyncio.ensure_future(
            session.post(
                gateway.url + "/v1/audio/transcriptions",
                data=dribble(),
                headers={
                    "authorization": f"Bearer {KEY}",
                    "content-type": "multipart/form-data; boundary=x",
                },
            )
        )
        while upstream.received < 1 << 20:
            await asyncio.sleep(0.01)
        assert upstream.asked == []
        rest.set()
        async with await asking as answer:
            assert (await answer.json())["text"] == "hello"


def resident(gateway: Gateway) -> int:
    """Bytes that the gateway's processes keep of their own."""
    pids = [str(gateway.process.pid)]
    children = Path(f"/proc/{pids[0]}/task/{pids[0]}/children").read_text().split()
    total = 0
    for pid in pids + children:
        status = Path(f"/proc/{pid}/status").read_text()
        total += int(status.split("RssAnon:")[1].split()[0]) * 1024
    return total


@pytest.mark.slow
async def test_a_large_upload_is_not_held(start: Start, upstream: MockUpstream) -> None:
    gateway = await start(config_of(upstream), fresh=True)
    upstream.always = TEXT
    client = gateway.client()
    await client.audio.transcriptions.create(model="smol", file=("a", b"x"))
    before = resident(gateway)
    await client.audio.transcriptions.create(model="smol", file=("a", bytes(96 << 20)))
    assert resident(gateway) - before < 24 << 20
    assert len(upstream.asked[-1].raw) > 96 << 20


@pytest.mark.parametrize(
    ("form", "status", "said"),
    [
        ({"file": b"x"}, 400, "`model` is missing"),
        ({"model": "other", "file": b"x"}, 404, "does not exist"),
        ({"model": "smol", "twice": True, "file": b"x"}, 400, "two are named"),
        ({"model": "smol", "file": bytes(3 << 20)}, 413, "larger than"),
    ],
    ids=["no model", "not its model", "two models", "too large"],
)
async def test_a_form_that_cannot_be_served_is_refused(
    start: Start, upstream: MockUpstream, form: dict[str, Any], status: int, said: str
) -> None:
    gateway = await start(config_of(upstream, max_upload=Bytes("2MiB")))
    data = aiohttp.FormData()
    if form.pop("twice", False):
        data.add_field("model", "other")
    for name, value in form.items():
        if isinstance(value, bytes):
            data.add_field(name, io.BytesIO(value), filename="a")
        else:
            data.add_field(name, value)
    async with (
        aiohttp.ClientSession(headers={"authorization": f"Bearer {KEY}"}) as session,
        session.post(gateway.url + "/v1/audio/transcriptions", data=data) as answer,
    ):
        assert answer.status == status
        assert said in (await answer.json())["error"]["message"]


async def test_a_client_that_leaves_stops_its_upload(
    start: Start, upstream: MockUpstream
) -> None:
    gateway = await start(config_of(upstream))
    seen = asyncio.Event()

    async def wait(writer: asyncio.StreamWriter, asked: Any) -> None:
        seen.set()
        await asyncio.Event().wait()

    upstream.always = wait
    asking = asyncio.ensure_future(
        gateway.client().audio.transcriptions.create(model="smol", file=("a", b"x"))
    )
    async with asyncio.timeout(30):
        await seen.wait()
    asking.cancel()
    await upstream.until_open(0)


def vision(size: int, **more: Any) -> dict[str, Any]:
    url = "data:image/png;base64," + base64.b64encode(bytes(size)).decode()
    image = {"type": "image_url", "image_url": {"url": url}}
    text = {"type": "text", "text": 'what is "this"? {[\\'}
    return {
        "messages": [{"role": "user", "content": [text, image]}],
        "model": "smol",
        **more,
    }


async def test_a_large_json_body_passes_with_its_model_renamed(
    start: Start, upstream: MockUpstream
) -> None:
    gateway = await start(config_of(upstream))
    ask = vision(2 << 20)
    answer = await gateway.client().chat.completions.create(**ask)
    assert answer.choices[0].message.content == "hello"
    assert upstream.asked[0].body == {**ask, "model": "upstream-name"}
    stream = await gateway.client().chat.completions.create(**ask, stream=True)
    chunks = [chunk async for chunk in stream]
    assert all(chunk.usage is None for chunk in chunks)
    assert upstream.asked[1].body["stream_options"] == {"include_usage": True}


async def test_a_large_json_body_is_translated_where_it_must_be(
    start: Start, upstream: MockUpstream
) -> None:
    config = config_of(upstream)
    table = config.upstreams["team/u0"].model_copy(update={"dialect": "anthropic"})
    gateway = await start(config.model_copy(update={"upstreams": {"team/u0": table}}))
    upstream.always = respond(
        200, {"id": "m", "content": [{"type": "text", "text": "seen"}]}
    )
    answer = await gateway.client().chat.completions.create(**vision(2 << 20))
    assert answer.choices[0].message.content == "seen"
    assert upstream.asked[0].body["messages"][0]["content"][1]["type"] == "image"


async def test_a_large_body_that_names_two_models_is_refused(
    start: Start, upstream: MockUpstream
) -> None:
    gateway = await start(config_of(upstream))
    text = json.dumps(vision(2 << 20))[:-1] + ', "mod\\u0065l": "secret"}'
    body = io.BytesIO(text.encode())
    async with (
        aiohttp.ClientSession(headers={"authorization": f"Bearer {KEY}"}) as session,
        session.post(gateway.url + "/v1/chat/completions", data=body) as answer,
    ):
        assert answer.status == 400
        assert "twice" in (await answer.json())["error"]["message"]
    assert upstream.asked == []


async def test_an_upload_counts_against_its_limits(
    start: Start, upstream: MockUpstream
) -> None:
    config = config_of(upstream)
    key = config.keys["team/ci"]
    limited = key.model_copy(update={"limits": Limits(requests_per_minute=1)})
    gateway = await start(
        config.model_copy(update={"keys": {"team/ci": limited}}), fresh=True
    )
    upstream.always = TEXT
    client = gateway.client()
    await client.audio.transcriptions.create(model="smol", file=("a", b"x"))
    with pytest.raises(openai.RateLimitError):
        await client.audio.transcriptions.create(model="smol", file=("a", b"x"))


# What a large body is read by.

JSON: Any = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text() | st.floats(-2, 2),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=12,
)


@contextmanager
def body_of(text: bytes) -> Iterator[JsonBody]:
    spool = Spool()
    try:
        spool.append(text)
        spool.end()
        yield JsonBody(spool)
    finally:
        spool.close()


@given(st.dictionaries(st.text(), JSON, max_size=6), st.booleans())
def test_a_body_changes_only_in_its_model_and_its_stream_options(
    document: dict[str, Any], indent: bool
) -> None:
    document |= {"model": "smol"}
    document.pop("stream_options", None)
    text = json.dumps(document, indent=2 if indent else None).encode()

    async def read(body: JsonBody) -> bytes:
        return b"".join([part async for part in body.read("other")])

    with body_of(text) as body:
        body.ask_usage()
        out = asyncio.run(read(body))
        assert len(out) == body.length("other")
    expected = {**document, "model": "other"}
    assert orjson.loads(out) == expected | {"stream_options": {"include_usage": True}}


@given(st.binary(max_size=40) | st.text('{}[]":,\\a1 ').map(str.encode))
def test_what_is_no_object_is_refused(text: bytes) -> None:
    try:
        whole = isinstance(orjson.loads(text), dict)
    except orjson.JSONDecodeError:
        whole = False
    if not text or whole:
        return
    # What is passed over is for the upstream to refuse; no member is misread.
    with suppress(BadRequest), body_of(text) as body:
        assert all(len(name) <= len(text) for name in body.members)
