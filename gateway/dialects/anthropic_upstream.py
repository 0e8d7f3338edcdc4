"""An upstream that speaks Anthropic's Messages API, behind OpenAI's chat.

Shapes: docs.anthropic.com, API version 2023-06-01. Called by the exchange for
upstreams with ``dialect = "anthropic"``. What cannot be said in the other API is
refused by name, never dropped in silence.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import orjson

from gateway.dialects import Cutter, chat, frame
from gateway.openai import BadRequest

__all__ = [
    "HEAD_LINES",
    "AnthropicEvents",
    "answer",
    "count_answer",
    "count_request",
    "request",
]

HEAD_LINES = b"anthropic-version: 2023-06-01\r\n"
_DEFAULT_MAX_TOKENS = 4096
"""Anthropic wants a limit; OpenAI's clients need not give one."""
_FINISH = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
}
_SAME = ("temperature", "top_p", "top_k", "stream")
_UNSAID = ("logprobs", "seed", "frequency_penalty", "presence_penalty")
_CHOICES = {
    "auto": {"type": "auto"},
    "required": {"type": "any"},
    "none": {"type": "none"},
}


def request(document: dict[str, Any], model: str) -> bytes:
    """Write a chat request as a Messages request.

    Raises:
        BadRequest: it asks for what the Messages API cannot do, or is malformed.
    """
    try:
        return _request(document, model)
    except (AttributeError, TypeError) as error:
        raise BadRequest(
            "cannot read `messages`: they are not in the shape of a chat request",
            param="messages",
        ) from error


def _request(document: dict[str, Any], model: str) -> bytes:
    chat.refuse(document, _UNSAID)
    if chat.schema_of(document) is not None:
        raise chat.cannot("response_format")
    system, messages = _messages(document.get("messages") or [])
    limit = document.get("max_completion_tokens") or document.get("max_tokens")
    out: dict[str, Any] = {
        "model": model,
        "max_tokens": limit or _DEFAULT_MAX_TOKENS,
        "messages": messages,
        **{name: document[name] for name in _SAME if document.get(name) is not None},
        **_tools(document),
    }
    if system:
        out["system"] = system
    stops = chat.stops_of(document)
    if stops:
        out["stop_sequences"] = stops
    if isinstance(document.get("user"), str):
        out["metadata"] = {"user_id": document["user"]}
    return orjson.dumps(out)


def count_request(document: dict[str, Any], model: str) -> bytes:
    """Write a request to count the tokens of a chat.

    Raises:
        BadRequest: it is not one of a chat.
    """
    if "messages" not in document:
        raise chat.cannot("prompt")
    asked = orjson.loads(request(document, model))
    names = ("model", "messages", "system", "tools", "tool_choice")
    return orjson.dumps({name: asked[name] for name in names if name in asked})


def count_answer(body: bytes, status: int) -> bytes:
    """Write a count as vLLM's tokenize does."""
    if status >= 400:  # noqa: PLR2004  HTTP's
        return answer(body, status)
    count = orjson.loads(body)["input_tokens"]
    return orjson.dumps({"count": count, "max_model_len": None, "tokens": []})


def _tools(document: dict[str, Any]) -> dict[str, Any]:
    tools = document.get("tools")
    if not tools:
        return {}
    choice = document.get("tool_choice") or "auto"
    if isinstance(choice, dict):
        said = {"type": "tool", "name": choice.get("function", {}).get("name")}
    else:
        said = dict(_CHOICES.get(choice, _CHOICES["auto"]))
    if document.get("parallel_tool_calls") is False and said["type"] != "none":
        said["disable_parallel_tool_use"] = True
    functions = [tool.get("function", {}) for tool in tools]
    return {
        "tool_choice": said,
        "tools": [
            {
                "name": function.get("name"),
                "input_schema": function.get("parameters") or {"type": "object"},
                **(
                    {"description": function["description"]}
                    if function.get("description")
                    else {}
                ),
            }
            for function in functions
        ],
    }


def _messages(given: list[dict[str, Any]]) -> tuple[str, list[dict[str, Any]]]:
    system: list[str] = []
    out: list[dict[str, Any]] = []
    for message in given:
        role = message.get("role")
        if role in {"system", "developer"}:
            system.append(chat.text_of(message.get("content")))
            continue
        blocks = list(_blocks(message))
        role = "assistant" if role == "assistant" else "user"
        if out and out[-1]["role"] == role:
            # Roles alternate there; results of several tools are one turn.
            out[-1]["content"] += blocks
        else:
            out.append({"role": role, "content": blocks})
    return "\n\n".join(system), out


def _blocks(message: dict[str, Any]) -> Iterator[dict[str, Any]]:
    content = message.get("content")
    if message.get("role") == "tool":
        yield {
            "type": "tool_result",
            "tool_use_id": message.get("tool_call_id"),
            "content": chat.text_of(content),
        }
        return
    if isinstance(content, str) and content:
        yield {"type": "text", "text": content}
    for part in content if isinstance(content, list) else ():
        yield _part(part)
    for call in message.get("tool_calls") or ():
        function = call.get("function", {})
        yield {
            "type": "tool_use",
            "id": call.get("id"),
            "name": function.get("name"),
            "input": chat.arguments_of(function.get("arguments")),
        }


def _part(part: dict[str, Any]) -> dict[str, Any]:
    match part.get("type"):
        case "text":
            return {"type": "text", "text": part.get("text", "")}
        case "image_url":
            url = part.get("image_url", {}).get("url", "")
            given = chat.data_url(url)
            source = {"type": "url", "url": url}
            if given is not None:
                kind, data = given
                source = {"type": "base64", "media_type": kind, "data": data}
            return {"type": "image", "source": source}
        case kind:
            raise chat.cannot(f"messages.content.{kind}")


def answer(body: bytes, status: int) -> bytes:
    """Write a Messages answer, or its error, as a chat completion's."""
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        return body
    if not isinstance(document, dict):
        return body
    if document.get("type") == "error" or status >= 400:  # noqa: PLR2004  HTTP's
        error = document.get("error") or {}
        return orjson.dumps(chat.error(error.get("message"), error.get("type")))
    content = document.get("content") or []
    calls = [block for block in content if block.get("type") == "tool_use"]
    thought = "".join(b.get("thinking", "") for b in content)
    text = "".join(b.get("text", "") for b in content if b.get("type") == "text")
    return chat.completion(
        name=document.get("id"),
        model=document.get("model"),
        text=text,
        thought=thought,
        calls=[
            chat.call(c.get("id"), c.get("name"), c.get("input") or {}) for c in calls
        ],
        finish=_FINISH.get(str(document.get("stop_reason")), "stop"),
        used=_usage(document.get("usage") or {}),
    )


def _usage(used: dict[str, Any]) -> dict[str, Any]:
    cached = used.get("cache_read_input_tokens") or 0
    # Anthropic counts what was read from or written to the cache beside the rest.
    prompt = (used.get("input_tokens") or 0) + cached
    prompt += used.get("cache_creation_input_tokens") or 0
    found: dict[str, Any] = chat.usage(
        prompt, used.get("output_tokens") or 0, cached=cached
    )
    return found


class AnthropicEvents:
    """Translates a Messages stream into chat completion chunks."""

    __slots__ = ("_calls", "_cutter", "_id", "_model", "_usage")

    def __init__(self) -> None:
        self._cutter = Cutter()
        self._id = self._model = ""
        self._calls = -1
        self._usage: dict[str, Any] = {}

    def feed(self, data: bytes) -> bytes:
        return b"".join(self._translate(event) for event in self._cutter.feed(data))

    def end(self) -> bytes:
        return b""

    def _translate(self, event: dict[str, Any]) -> bytes:
        match event.get("type"):
            case "message_start":
                message = event.get("message") or {}
                self._id, self._model = message.get("id", ""), message.get("model", "")
                self._usage.update(message.get("usage") or {})
                out = self._chunk({"role": "assistant", "content": ""})
            case "content_block_start":
                out = self._begin(event.get("content_block") or {})
            case "content_block_delta":
                out = self._delta(event.get("delta") or {})
            case "message_delta":
                self._usage.update(event.get("usage") or {})
                reason = str((event.get("delta") or {}).get("stop_reason"))
                out = self._chunk({}, finish=_FINISH.get(reason, "stop"))
            case "message_stop":
                out = self._chunk(None) + b"data: [DONE]\n\n"
            case "error":
                error = event.get("error") or {}
                out = frame({"error": {**error, "code": error.get("type")}})
            case _:
                out = b""  # pings, and the ends of blocks
        return out

    def _begin(self, block: dict[str, Any]) -> bytes:
        if block.get("type") != "tool_use":
            return b""
        self._calls += 1
        function = {"name": block.get("name"), "arguments": ""}
        call = {"id": block.get("id"), "type": "function", "function": function}
        return self._chunk({"tool_calls": [{"index": self._calls, **call}]})

    def _delta(self, delta: dict[str, Any]) -> bytes:
        match delta.get("type"):
            case "text_delta":
                return self._chunk({"content": delta.get("text", "")})
            case "thinking_delta":
                return self._chunk({"reasoning_content": delta.get("thinking", "")})
            case "input_json_delta":
                function = {"arguments": delta.get("partial_json", "")}
                return self._chunk(
                    {"tool_calls": [{"index": self._calls, "function": function}]}
                )
            case _:
                return b""

    def _chunk(
        self, delta: dict[str, Any] | None, *, finish: str | None = None
    ) -> bytes:
        """Write a chunk; without a delta the one that brings the usage."""
        used = _usage(self._usage) if delta is None else None
        return chat.chunk(self._id, self._model, delta, finish=finish, used=used)
