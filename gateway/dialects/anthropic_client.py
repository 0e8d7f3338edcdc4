"""A client that speaks Anthropic's Messages API, in front of OpenAI's chat.

Called by the edge for ``POST /v1/messages``; the request becomes a chat request
before it is routed, and the answer, its events and its errors are written the
way Anthropic's clients read them.
"""

from __future__ import annotations

from typing import Any

import orjson

from gateway.dialects import Cutter, frame
from gateway.openai import BadRequest

__all__ = ["MessageEvents", "answer", "chat_request", "error_body"]

_STOP = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "function_call": "tool_use",
    "content_filter": "refusal",
}
_ERRORS = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    529: "overloaded_error",
}
_SAME = ("model", "max_tokens", "temperature", "top_p", "top_k", "stream")
_UNSAID = ("container", "inference_geo", "mcp_servers")
_ROLES = frozenset({"user", "assistant", "system"})
_CHOICES = {"auto": "auto", "any": "required", "none": "none"}


def chat_request(document: dict[str, Any]) -> dict[str, Any]:
    """Write a Messages request as a chat request.

    Raises:
        BadRequest: it holds what a chat request cannot say, or is malformed.
    """
    try:
        return _chat_request(document)
    except (AttributeError, TypeError) as error:
        raise BadRequest(
            "cannot read `messages`: they are not in the shape of a Messages request",
            param="messages",
        ) from error


def _chat_request(document: dict[str, Any]) -> dict[str, Any]:
    messages: list[dict[str, Any]] = []
    system = document.get("system")
    if system:
        messages.append({"role": "system", "content": _text(system)})
    for field in _UNSAID:
        if document.get(field):
            raise BadRequest(
                f"cannot ask this model for `{field}`: it is served by a chat API",
                param=field,
            )
    given = document.get("messages")
    if not isinstance(given, list):
        raise BadRequest("cannot read `messages`: it is not a list", param="messages")
    for message in given:
        _check_turn(message)
        messages += _turn(message)
    out = {name: document[name] for name in _SAME if name in document}
    out["messages"] = messages
    if document.get("stop_sequences"):
        out["stop"] = document["stop_sequences"]
    user = (document.get("metadata") or {}).get("user_id")
    if user:
        out["user"] = user
    if document.get("tools"):
        out["tools"] = [_tool(tool) for tool in document["tools"]]
        out |= _choice(document.get("tool_choice") or {"type": "auto"})
    return out | _output(document.get("output_config") or {})


def _output(config: dict[str, Any]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    if config.get("effort"):
        out["reasoning_effort"] = config["effort"]
    kind = config.get("format")
    if kind:
        named = {"name": "answer", "schema": kind.get("schema"), "strict": True}
        out["response_format"] = {"type": "json_schema", "json_schema": named}
    return out


def _text(content: object) -> str:
    if isinstance(content, list):
        return "".join(block.get("text", "") for block in content)
    return str(content or "")


def _tool(tool: dict[str, Any]) -> dict[str, Any]:
    if "input_schema" not in tool:
        raise BadRequest(
            f"cannot offer the tool {tool.get('name')!r}: it is run by Anthropic",
            param="tools",
        )
    function = {"name": tool.get("name"), "parameters": tool["input_schema"]}
    if tool.get("description"):
        function["description"] = tool["description"]
    return {"type": "function", "function": function}


def _choice(choice: dict[str, Any]) -> dict[str, Any]:
    kind = choice.get("type", "auto")
    said: object = _CHOICES.get(kind, "auto")
    if kind == "tool":
        said = {"type": "function", "function": {"name": choice.get("name")}}
    parallel = choice.get("disable_parallel_tool_use")
    return {"tool_choice": said} | ({"parallel_tool_calls": False} if parallel else {})


def _check_turn(message: dict[str, Any]) -> None:
    role, content = message.get("role"), message.get("content")
    if not isinstance(role, str) or role not in _ROLES:
        raise BadRequest(f"cannot place a turn of {role!r}", param="messages")
    if not isinstance(content, str | list):
        raise BadRequest(
            "cannot read `content`: neither text nor a list of blocks",
            param="messages",
        )


def _turn(message: dict[str, Any]) -> list[dict[str, Any]]:
    role, content = message.get("role"), message.get("content")
    if isinstance(content, str):
        return [{"role": role, "content": content}]
    results: list[dict[str, Any]] = []
    parts: list[dict[str, Any]] = []
    calls: list[dict[str, Any]] = []
    for block in content or ():
        match block.get("type"):
            case "text":
                parts.append({"type": "text", "text": block.get("text", "")})
            case "image":
                parts.append(_image(block.get("source") or {}))
            case "tool_use":
                calls.append(_call(block))
            case "tool_result":
                which = {"tool_call_id": block.get("tool_use_id")}
                text = _text(block.get("content"))
                results.append({"role": "tool", **which, "content": text})
            case "thinking" | "redacted_thinking":
                pass  # a model's own thoughts are not said to it again
            case kind:
                raise BadRequest(f"cannot pass on a {kind!r} block", param="messages")
    out = list(results)
    if parts or calls:
        text_only = all(part["type"] == "text" for part in parts)
        said = "".join(p["text"] for p in parts) if text_only else parts
        turn: dict[str, Any] = {"role": role, "content": said or None}
        out.append(turn | ({"tool_calls": calls} if calls else {}))
    return out


def _image(source: dict[str, Any]) -> dict[str, Any]:
    url = source.get("url")
    if source.get("type") == "base64":
        url = f"data:{source.get('media_type')};base64,{source.get('data')}"
    return {"type": "image_url", "image_url": {"url": url}}


def _call(block: dict[str, Any]) -> dict[str, Any]:
    arguments = orjson.dumps(block.get("input") or {}).decode()
    function = {"name": block.get("name"), "arguments": arguments}
    return {"id": block.get("id"), "type": "function", "function": function}


def error_body(status: int, message: str) -> bytes:
    """Write an error the way Anthropic's clients read it."""
    kind = _ERRORS.get(status, "api_error")
    return orjson.dumps({"type": "error", "error": {"type": kind, "message": message}})


def answer(body: bytes, status: int) -> bytes:
    """Write a chat completion, or an error, as a Messages answer."""
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        return error_body(502, "the upstream's answer is not JSON")
    if "error" in document or not document.get("choices"):
        error = document.get("error")
        said = error.get("message") if isinstance(error, dict) else error
        return error_body(status, str(said or document))
    choice = document["choices"][0]
    message = choice.get("message") or {}
    content: list[dict[str, Any]] = []
    thought = message.get("reasoning_content") or message.get("reasoning")
    if thought:
        content.append({"type": "thinking", "thinking": thought, "signature": ""})
    if message.get("content"):
        content.append({"type": "text", "text": message["content"]})
    for call in message.get("tool_calls") or ():
        function = call.get("function", {})
        try:
            given = orjson.loads(function.get("arguments") or "{}")
        except orjson.JSONDecodeError:
            given = {"arguments": function.get("arguments")}
        said = {"id": call.get("id"), "name": function.get("name"), "input": given}
        content.append({"type": "tool_use", **said})
    return orjson.dumps(
        {
            "id": document.get("id"),
            "type": "message",
            "role": "assistant",
            "model": document.get("model"),
            "content": content,
            "stop_reason": _STOP.get(choice.get("finish_reason"), "end_turn"),
            "stop_sequence": None,
            "usage": _usage(document.get("usage") or {}),
        }
    )


def _usage(usage: dict[str, Any]) -> dict[str, int]:
    details = usage.get("prompt_tokens_details") or {}
    cached = details.get("cached_tokens") or 0
    return {
        "input_tokens": (usage.get("prompt_tokens") or 0) - cached,
        "output_tokens": usage.get("completion_tokens") or 0,
        "cache_read_input_tokens": cached,
        "cache_creation_input_tokens": 0,
    }


class MessageEvents:
    """Translates chat completion chunks into a Messages stream."""

    __slots__ = ("_block", "_cutter", "_index", "_over", "_started", "_stop", "_usage")

    def __init__(self) -> None:
        self._cutter = Cutter()
        self._started = self._over = False
        self._index = -1
        self._block: tuple[str, object] | None = None
        """Kind of the open block, and which tool call it is."""
        self._stop = "end_turn"
        self._usage = _usage({})

    def feed(self, data: bytes) -> bytes:
        return b"".join(self._translate(chunk) for chunk in self._cutter.feed(data))

    def end(self) -> bytes:
        """Close the block and the message."""
        if self._over or not self._started:
            return b""
        self._over = True
        delta = {"stop_reason": self._stop, "stop_sequence": None}
        last = {"type": "message_delta", "delta": delta, "usage": self._usage}
        return (
            self._close()
            + frame(last, name="message_delta")
            + frame({"type": "message_stop"}, name="message_stop")
        )

    def _translate(self, chunk: dict[str, Any]) -> bytes:
        if "error" in chunk:
            error = chunk["error"]
            said = error.get("message") if isinstance(error, dict) else error
            self._over = True
            body = error_body(502, str(said))
            return b"event: error\ndata: " + body + b"\n\n"
        out = b"" if self._started else self._start(chunk)
        if chunk.get("usage"):
            self._usage = _usage(chunk["usage"])
        for choice in chunk.get("choices") or ():
            out += self._delta(choice.get("delta") or {})
            if choice.get("finish_reason"):
                self._stop = _STOP.get(choice["finish_reason"], "end_turn")
        return out

    def _start(self, chunk: dict[str, Any]) -> bytes:
        self._started = True
        message: dict[str, Any] = {
            "id": chunk.get("id"),
            "type": "message",
            "role": "assistant",
            "model": chunk.get("model"),
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": self._usage,
        }
        return frame(
            {"type": "message_start", "message": message}, name="message_start"
        )

    def _delta(self, delta: dict[str, Any]) -> bytes:
        out = b""
        thought = delta.get("reasoning_content") or delta.get("reasoning")
        if thought:
            block = {"type": "thinking", "thinking": "", "signature": ""}
            out += self._open("thinking", None, block)
            out += self._say({"type": "thinking_delta", "thinking": thought})
        if delta.get("content"):
            out += self._open("text", None, {"type": "text", "text": ""})
            out += self._say({"type": "text_delta", "text": delta["content"]})
        for call in delta.get("tool_calls") or ():
            function = call.get("function") or {}
            said = {"id": call.get("id"), "name": function.get("name"), "input": {}}
            out += self._open("tool", call.get("index"), {"type": "tool_use", **said})
            if function.get("arguments"):
                part = {"type": "input_json_delta"}
                out += self._say({**part, "partial_json": function["arguments"]})
        return out

    def _open(self, kind: str, which: object, block: dict[str, Any]) -> bytes:
        if self._block == (kind, which):
            return b""
        out = self._close()
        self._block = (kind, which)
        self._index += 1
        event = {"type": "content_block_start", "index": self._index}
        return out + frame({**event, "content_block": block}, name=str(event["type"]))

    def _close(self) -> bytes:
        if self._block is None:
            return b""
        self._block = None
        event = {"type": "content_block_stop", "index": self._index}
        return frame(event, name="content_block_stop")

    def _say(self, delta: dict[str, Any]) -> bytes:
        event = {"type": "content_block_delta", "index": self._index, "delta": delta}
        return frame(event, name="content_block_delta")
