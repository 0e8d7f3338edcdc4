"""The document of the surface, and a stranger's tool that holds the gateway to it."""

from __future__ import annotations

import asyncio
import copy
import json
import os
import sys
from pathlib import Path
from typing import get_args

import aiohttp
from jsonschema import Draft202012Validator

from gateway.openai import HOT_PATHS
from gateway.openapi import document
from schemas.gateway import Capability, GatewayConfig, Store
from tests.gateway.wire import KEY, MockUpstream, Start, config_for

# Of made-up requests for each operation, besides the systematic ones. More of them are
# made up anew each time; in the suite they are the same each time.
MORE = os.environ.get("BUD_EXAMPLES")
EXAMPLES = ("--max-examples", MORE) if MORE else ("--max-examples", "2", "--seed", "1")

# Only what is answered in the background can be cancelled, and OpenAI says so by 400:
# its clients ask again after the 409 that would otherwise be right.
RULES = """
[[operations]]
include-operation-id = "cancel-response"

[operations.checks.positive_data_acceptance]
expected-statuses = ["2xx", 400, 401, 403, 404, 409, 429, "5xx"]
"""


def all_served(upstream: MockUpstream) -> GatewayConfig:
    config = config_for(upstream, listener={"store": Store()})
    # Responses are made of chat answers, which the upstream gives to everything.
    able = {"capabilities": tuple(c for c in get_args(Capability) if c != "responses")}
    upstreams = {n: u.model_copy(update=able) for n, u in config.upstreams.items()}
    return config.model_copy(update={"upstreams": upstreams})


def test_each_operation_has_a_name_of_its_own_and_all_schemas_are_schemas() -> None:
    said = document()
    operations = [o for path in said["paths"].values() for o in path.values()]
    assert len({o["operationId"] for o in operations}) == len(operations)
    for schema in said["components"]["schemas"].values():
        Draft202012Validator.check_schema(schema)
    assert {path.decode() for path in HOT_PATHS} < said["paths"].keys()


async def test_the_document_is_served_to_everybody(
    start: Start, upstream: MockUpstream
) -> None:
    gateway = await start(config_for(upstream))
    async with (
        aiohttp.ClientSession() as session,
        session.get(gateway.url + "/openapi.json") as answer,
    ):
        assert await answer.json() == document()


async def test_no_made_up_request_gets_an_answer_that_is_not_in_the_document(
    start: Start, upstream: MockUpstream, tmp_path: Path
) -> None:
    gateway = await start(all_served(upstream))
    said = copy.deepcopy(document())
    for schema in said["components"]["schemas"].values():
        if "model" in schema["properties"] and "object" not in schema["properties"]:
            # Most of the surface lies behind a model that is there.
            schema["properties"]["model"] = {"enum": ["smol"]}
    (tmp_path / "schemathesis.toml").write_text(RULES)
    where = tmp_path / "openapi.json"
    where.write_text(json.dumps(said))
    tool = await asyncio.create_subprocess_exec(
        *(Path(sys.executable).with_name("schemathesis"), "run", where),
        *("--url", gateway.url, "--header", f"Authorization: Bearer {KEY}"),
        # No plain request is what a websocket's handshake is.
        *("--exclude-operation-id", "realtime"),
        *(*EXAMPLES, "--continue-on-failure", "--no-color"),
        cwd=tmp_path,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    report, _ = await tool.communicate()
    assert tool.returncode == 0, report.decode()
    assert "Tested: " in report.decode()
