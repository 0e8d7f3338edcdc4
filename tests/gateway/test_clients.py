"""Clients as people use them, unchanged, against the real gateway.

The official Python clients have the other tests of this folder to themselves.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import warnings
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import openai
import pytest

from schemas.gateway import Store as StoreTable
from tests.gateway.wire import (
    KEY,
    TREE,
    Gateway,
    MockUpstream,
    Start,
    chat_document,
    config_for,
    respond,
)

with warnings.catch_warnings():
    # Of its own dependencies, at import.
    warnings.simplefilter("ignore")
    from langchain_core.tools import tool
    from langchain_openai import ChatOpenAI, OpenAIEmbeddings

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:langchain.*")


@pytest.fixture
async def http() -> AsyncIterator[Any]:
    """Connections of this test's loop; LangChain's own are the whole process'."""
    async with openai.DefaultAsyncHttpxClient() as client:
        yield client


def chain(gateway: Gateway, http: Any) -> ChatOpenAI:
    return ChatOpenAI(
        model="smol",
        base_url=gateway.url + "/v1",
        api_key=KEY,
        max_retries=0,
        http_async_client=http,
    )


@tool
def weather(city: str) -> str:
    """Tell the weather of a city."""
    return f"rain in {city}"


async def test_langchain_answers_and_streams(
    start: Start, upstream: MockUpstream, http: Any
) -> None:
    gateway = await start(config_for(upstream))
    answer = await chain(gateway, http).ainvoke("hi")
    assert answer.content == "hello"
    assert answer.usage_metadata is not None
    assert answer.usage_metadata["total_tokens"] == 10
    parts = [str(part.content) async for part in chain(gateway, http).astream("hi")]
    assert "".join(parts) == "hello"


async def test_langchain_calls_tools(
    start: Start, upstream: MockUpstream, http: Any
) -> None:
    gateway = await start(config_for(upstream))
    document = chat_document()
    function = {"name": "weather", "arguments": '{"city":"Oslo"}'}
    call = {"id": "call_1", "type": "function", "function": function}
    document["choices"][0] |= {
        "finish_reason": "tool_calls",
        "message": {"role": "assistant", "content": None, "tool_calls": [call]},
    }
    upstream.script.append(respond(200, document))
    answer = await chain(gateway, http).bind_tools([weather]).ainvoke("hi")
    [said] = answer.tool_calls
    assert (said["name"], said["args"]) == ("weather", {"city": "Oslo"})
    [offered] = upstream.asked[0].body["tools"]
    assert offered["function"]["name"] == "weather"


async def test_langchain_embeds(
    start: Start, upstream: MockUpstream, http: Any
) -> None:
    gateway = await start(config_for(upstream))
    embeddings = OpenAIEmbeddings(
        model="smol",
        base_url=gateway.url + "/v1",
        api_key=KEY,
        check_embedding_ctx_length=False,
        http_async_client=http,
        max_retries=0,
    )
    assert await embeddings.aembed_query("hi") == [0.5, 1.0]


def javascript() -> tuple[str, Path]:
    """Node and the folder of its clients."""
    node, modules = shutil.which("node"), TREE / ".tools" / "javascript"
    if node is None or shutil.which("npm") is None:
        pytest.skip("there is no Node on this machine, and nothing of ours needs it")
    if not (modules / "node_modules").is_dir():
        message = "the JavaScript client is not installed: `make tools` provides it"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    return node, modules


async def test_the_javascript_client_makes_its_ordinary_calls(
    start: Start, upstream: MockUpstream
) -> None:
    node, modules = javascript()
    gateway = await start(config_for(upstream, listener={"store": StoreTable()}))
    process = await asyncio.create_subprocess_exec(
        node,
        Path(__file__).with_name("client.mjs"),
        modules,
        gateway.url + "/v1",
        KEY,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(90):
        out, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()
    assert json.loads(out) == {
        "models": ["smol"],
        "chat": "hello",
        "stream": "hello",
        "embedding": [0.5, 1.0],
        "response": "hello",
        "file": "{}",
        "error": [404, "model_not_found"],
    }
