"""Every field of every request shape, and what becomes of it: the documented tables.

The data names each field and a value; the rest of the tables is found out by
sending it. What the official clients know must all be in it.
"""

from __future__ import annotations

import json
import re
import tomllib
import typing
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest
from anthropic.types import message_create_params
from openai import types
from openai.types import audio, responses
from openai.types.chat import completion_create_params

from gateway.dialects import anthropic_client, responses_client
from gateway.dialects.registry import DIALECTS
from gateway.openai import BadRequest, request_of, upstream_body
from tests.gateway.wire import KEY, TREE, MockUpstream, Start, config_for

FIELDS: dict[str, dict[str, Any]] = tomllib.loads(
    Path(__file__).with_name("chat_fields.toml").read_text()
)
PAGE = TREE / "docs" / "gateway-conformance.md"
DOCUMENT: dict[str, Any] = {
    "model": "smol",
    "messages": [{"role": "user", "content": "hi"}],
}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {}}}


def asked(field: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """A request without the field and one with it."""
    plain = dict(DOCUMENT)
    if field in {"tool_choice", "parallel_tool_calls"}:
        plain["tools"] = [TOOL]
    value = FIELDS[field]["value"]
    return plain, plain | {field: value}


def fate(field: str, dialect: str) -> str:
    """What a dialect makes of a field."""
    plain, given = asked(field)
    write = DIALECTS[dialect].ways["chat"].request
    try:
        said = write(given, "m")
    except BadRequest:
        return "refused"
    if field in {"model", "messages", "stream", "stream_options"}:
        # The first two are in each body, a stream may be asked for by its path.
        return "said"
    return "ignored" if said == write(plain, "m") else "said"


def test_all_that_openais_client_knows_is_in_the_table() -> None:
    params = completion_create_params.CompletionCreateParamsBase
    known = set(typing.get_type_hints(params)) | {"stream"}
    ours = {name for name, row in FIELDS.items() if "openai" in row["from"]}
    assert ours == known


@pytest.mark.parametrize("field", FIELDS)
def test_a_field_reaches_an_upstream_of_openais_kind_untouched(field: str) -> None:
    _, given = asked(field)
    request = request_of("chat", orjson.dumps(given), given)
    sent = orjson.loads(upstream_body(request, None))
    assert sent[field] == given[field]
    renamed = orjson.loads(upstream_body(request, "theirs"))
    assert renamed["model"] == "theirs"
    del renamed["model"], sent["model"]
    assert renamed == sent


SHAPES: dict[str, Any] = tomllib.loads(
    Path(__file__).with_name("request_fields.toml").read_text()
)
JSON = [op for op, shape in SHAPES.items() if "form" not in shape]
FORMS = [op for op, shape in SHAPES.items() if "form" in shape]
# Those that other APIs of clients are turned into chat by.
CLIENTS: dict[str, Any] = {
    "responses": lambda d: responses_client.chat_request(
        d, responses_client.items_of(d)
    ),
    "messages": anthropic_client.chat_request,
}
KNOWN: dict[str, Any] = {
    "completions": types.completion_create_params.CompletionCreateParamsBase,
    "embeddings": types.EmbeddingCreateParams,
    "moderations": types.ModerationCreateParams,
    "images": types.image_generate_params.ImageGenerateParamsBase,
    "image-edits": types.image_edit_params.ImageEditParamsBase,
    "image-variations": types.ImageCreateVariationParams,
    "speech": audio.SpeechCreateParams,
    "transcriptions": (audio.transcription_create_params.TranscriptionCreateParamsBase),
    "translations": audio.TranslationCreateParams,
    "responses": responses.response_create_params.ResponseCreateParamsBase,
    "messages": message_create_params.MessageCreateParamsBase,
}


@pytest.mark.parametrize("op", KNOWN)
def test_all_that_the_official_clients_know_is_in_the_tables(op: str) -> None:
    known = set(typing.get_type_hints(KNOWN[op]))
    assert known <= SHAPES[op]["fields"].keys()


def with_and_without(op: str, field: str) -> tuple[dict[str, Any], dict[str, Any]]:
    shape = SHAPES[op]
    values = {name: row["value"] for name, row in shape["fields"].items()}
    plain = {name: values[name] for name in shape["base"]}
    if field == "tool_choice":
        plain["tools"] = values["tools"]
    elif field == "messages" and op == "embeddings":
        del plain["input"]
    return plain, plain | {field: values[field]}


@pytest.mark.parametrize(
    ("op", "field"),
    [(op, field) for op in JSON if op != "messages" for field in SHAPES[op]["fields"]],
)
def test_a_field_of_any_shape_reaches_its_upstream_untouched(
    op: Any, field: str
) -> None:
    _, given = with_and_without(op, field)
    request = request_of(op, orjson.dumps(given), given)
    assert orjson.loads(upstream_body(request, None))[field] == given[field]


def told(write: Callable[[dict[str, Any]], Any], op: str, field: str) -> str:
    """What becomes of a field when a request is translated."""
    plain, given = with_and_without(op, field)
    try:
        said = write(given)
    except BadRequest:
        return "refused"
    if field in SHAPES[op]["base"]:
        return "said"  # without it there is no request
    return "ignored" if said == write(plain) else "said"


def writers(op: str) -> dict[str, Callable[[dict[str, Any]], Any]]:
    """Who else a request can be told to, and how."""
    if op in CLIENTS:
        return {"as chat": CLIENTS[op]}
    return {
        name: partial(_written, dialect.ways[op].request)  # type: ignore[index]
        for name, dialect in DIALECTS.items()
        if op in dialect.ways
    }


def _written(write: Callable[[dict[str, Any], str], Any], given: dict[str, Any]) -> Any:
    return write(given, "m")


def tables_of_shapes() -> list[str]:
    lines = []
    for op, shape in SHAPES.items():
        others = {} if op in FORMS else writers(op)
        lines += [
            "",
            f"## `POST {shape['path']}`",
            "",
            f"| {' | '.join(['field', 'from', 'used for', *others])} |",
            "|" + "---|" * (3 + len(others)),
        ]
        for field, row in shape["fields"].items():
            cells = [f"`{field}`", ", ".join(row["from"]), row.get("used", "")]
            cells += [told(write, op, field) for write in others.values()]
            lines.append(f"| {' | '.join(cells)} |")
    return lines


@pytest.mark.parametrize("op", FORMS)
async def test_a_field_of_a_form_reaches_its_upstream_untouched(
    op: Any, start: Start, upstream: MockUpstream
) -> None:
    config = config_for(upstream)
    [(name, table)] = config.upstreams.items()
    able = table.model_copy(update={"capabilities": (op,)})
    gateway = await start(config.model_copy(update={"upstreams": {name: able}}))
    form = aiohttp.FormData()
    for field, row in SHAPES[op]["fields"].items():
        if row["value"] == "FILE":
            form.add_field(field, b"a file of its own", filename="a.bin")
        else:
            form.add_field(field, json.dumps(row["value"]))
    form._fields = [f for f in form._fields if f[0]["name"] != "model"]
    form.add_field("model", "smol")
    async with (
        aiohttp.ClientSession() as session,
        session.post(
            gateway.url + SHAPES[op]["path"],
            data=form,
            headers={"authorization": f"Bearer {KEY}"},
        ) as answer,
    ):
        assert answer.status == 200, await answer.text()
    [asked] = upstream.asked
    parts = asked.raw.split(b"\r\n--")
    for field, row in SHAPES[op]["fields"].items():
        [part] = [p for p in parts if b'name="%b"' % field.encode() in p]
        said = {"model": b"upstream-name"}.get(field)
        if row["value"] == "FILE":
            said = b"a file of its own"
        assert part.endswith(b"\r\n\r\n" + (said or json.dumps(row["value"]).encode()))


def test_the_documented_table_is_what_happens(update_golden: bool) -> None:
    names = [*DIALECTS]
    lines = [
        "# Every field of every request",
        "",
        "What becomes of each field that OpenAI, Anthropic, vLLM and, for rerank, Jina and Cohere",
        "document. An upstream of OpenAI's kind (`openai`, `azure`) gets every field as it",
        "came, these and any other; *used for* says what the gateway reads it for, too. For the other",
        "dialects: *said* in their words; *refused* by name, because the answer would not be what",
        "was asked for; *ignored*, because it is a hint or for the books. *As chat* is for upstreams",
        "that do not speak the API that the client does. The tables are made by sending each field.",
        "",
        "## `POST /v1/chat/completions`",
        "",
        f"| field | from | used for | {' | '.join(names)} |",
        "|---|---|---|" + "---|" * len(names),
    ]
    for field, row in FIELDS.items():
        cells = [fate(field, dialect) for dialect in names]
        used = row.get("used", "")
        where = ", ".join(row["from"])
        lines.append(f"| `{field}` | {where} | {used} | {' | '.join(cells)} |")
    text = "\n".join(lines + tables_of_shapes()) + "\n"
    if update_golden:
        PAGE.write_text(text)
    assert PAGE.read_text() == text
    assert not re.search(
        r"\| `(messages|tools|stop|response_format|functions)` .*ignored", text
    )
