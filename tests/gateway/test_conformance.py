"""Every field of a chat request, and what becomes of it: the documented table.

The data names each field and a value; the rest of the table is found out by
sending it. What OpenAI's own client knows must all be in it.
"""

from __future__ import annotations

import re
import tomllib
import typing
from pathlib import Path
from typing import Any

import orjson
import pytest
from openai.types.chat import completion_create_params

from gateway.dialects.registry import DIALECTS
from gateway.openai import BadRequest, request_of, upstream_body
from tests.gateway.wire import TREE

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


def test_the_documented_table_is_what_happens(update_golden: bool) -> None:
    names = [*DIALECTS]
    lines = [
        "# Every field of a chat request",
        "",
        "What becomes of each field of `POST /v1/chat/completions` that OpenAI or vLLM",
        "documents. An upstream of OpenAI's kind (`openai`, `azure`) gets every field as it",
        "came, these and any other; *used* says that the gateway reads it, too. For the other",
        "dialects: *said* in their words; *refused* by name, because the answer would not be what",
        "was asked for; *ignored*, because it is a hint or for the books. The table is made by",
        "sending each field.",
        "",
        f"| field | from | used for | {' | '.join(names)} |",
        "|---|---|---|" + "---|" * len(names),
    ]
    for field, row in FIELDS.items():
        cells = [fate(field, dialect) for dialect in names]
        used = row.get("used", "")
        where = ", ".join(row["from"])
        lines.append(f"| `{field}` | {where} | {used} | {' | '.join(cells)} |")
    text = "\n".join(lines) + "\n"
    if update_golden:
        PAGE.write_text(text)
    assert PAGE.read_text() == text
    assert not re.search(
        r"\| `(messages|tools|stop|response_format|functions)` .*ignored", text
    )
