"""An upstream that speaks Amazon Bedrock's Converse API, behind chat.

Shapes: docs.aws.amazon.com, Bedrock runtime API 2023-09-30, and the event stream
encoding of Smithy. A stream's frames are binary, each with two checksums; one
that does not fit ends the try.
"""

from __future__ import annotations

import zlib
from typing import Any

import orjson

from gateway.dialects import chat, frame

__all__ = ["EVENT_STREAM", "BedrockEvents", "answer", "request"]

EVENT_STREAM = b"application/vnd.amazon.eventstream"
_UNSAID = ("logprobs", "seed", "presence_penalty", "frequency_penalty")
_FINISH = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "tool_use": "tool_calls",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "guardrail_intervened": "content_filter",
    "content_filtered": "content_filter",
}
_PRELUDE, _CHECKSUM = 12, 4
_MAX_FRAME = 16 << 20  # as the SDKs bound it
_STRING = 7
"""The type of a header's value; others have no meaning for us."""
_WIDTHS = {0: 0, 1: 0, 2: 1, 3: 2, 4: 4, 5: 8, 8: 8, 9: 16}


def request(document: dict[str, Any], model: str) -> bytes:  # noqa: ARG001  it is in the path
    """Write a chat request for Converse.

    Raises:
        BadRequest: it asks for what the API cannot do.
    """
    chat.refuse(document, _UNSAID, if_false=("parallel_tool_calls",))
    if chat.schema_of(document) is not None:
        raise chat.cannot("response_format")
    system, messages = _messages(document.get("messages") or [])
    limit = document.get("max_completion_tokens") or document.get("max_tokens")
    settings = {
        "maxTokens": limit,
        "temperature": document.get("temperature"),
        "topP": document.get("top_p"),
        "stopSequences": chat.stops_of(document) or None,
    }
    out: dict[str, Any] = {"messages": messages, **_tools(document)}
    if system:
        out["system"] = [{"text": system}]
    said = {name: value for name, value in settings.items() if value is not None}
    if said:
        out["inferenceConfig"] = said
    if document.get("top_k") is not None:
        out["additionalModelRequestFields"] = {"top_k": document["top_k"]}
    return orjson.dumps(out)


def _messages(given: list[dict[str, Any]]) -> tuple[str, list[dict[str, Any]]]:
    system: list[str] = []
    out: list[dict[str, Any]] = []
    for message in given:
        if message.get("role") in {"system", "developer"}:
            system.append(chat.text_of(message.get("content")))
            continue
        role = "assistant" if message.get("role") == "assistant" else "user"
        blocks = _blocks(message)
        if out and out[-1]["role"] == role:
            # Roles alternate there; results of several tools are one turn.
            out[-1]["content"] += blocks
        else:
            out.append({"role": role, "content": blocks})
    return "\n\n".join(system), out


def _blocks(message: dict[str, Any]) -> list[dict[str, Any]]:
    content = message.get("content")
    if message.get("role") == "tool":
        said = [{"text": chat.text_of(content)}]
        return [
            {"toolResult": {"toolUseId": message.get("tool_call_id"), "content": said}}
        ]
    blocks: list[dict[str, Any]] = []
    if isinstance(content, str) and content:
        blocks.append({"text": content})
    blocks += [_part(part) for part in (content if isinstance(content, list) else ())]
    for call in message.get("tool_calls") or ():
        function = call.get("function", {})
        use = {
            "toolUseId": call.get("id"),
            "name": function.get("name"),
            "input": chat.arguments_of(function.get("arguments")),
        }
        blocks.append({"toolUse": use})
    return blocks


def _part(part: dict[str, Any]) -> dict[str, Any]:
    match part.get("type"):
        case "text":
            return {"text": part.get("text", "")}
        case "image_url":
            given = chat.data_url(part.get("image_url", {}).get("url", ""))
            if given is None:
                raise chat.cannot("messages.content.image_url.url")
            kind = given[0].removeprefix("image/")
            return {"image": {"format": kind, "source": {"bytes": given[1]}}}
        case kind:
            raise chat.cannot(f"messages.content.{kind}")


def _tools(document: dict[str, Any]) -> dict[str, Any]:
    tools, choice = document.get("tools"), document.get("tool_choice") or "auto"
    if not tools:
        return {}
    if choice == "none":
        raise chat.cannot("tool_choice")
    said: dict[str, Any] = {"any" if choice == "required" else "auto": {}}
    if isinstance(choice, dict):
        said = {"tool": {"name": choice.get("function", {}).get("name")}}
    specs = []
    for tool in tools:
        function = tool.get("function", {})
        spec = {n: function[n] for n in ("name", "description") if function.get(n)}
        schema = function.get("parameters") or {"type": "object"}
        specs.append({"toolSpec": {**spec, "inputSchema": {"json": schema}}})
    return {"toolConfig": {"tools": specs, "toolChoice": said}}


def answer(body: bytes, status: int) -> bytes:
    """Write a Converse answer, or its error, as a chat completion's."""
    document = orjson.loads(body)
    if status >= 400:  # noqa: PLR2004  HTTP's
        message = document.get("message") or document.get("Message")
        return orjson.dumps(chat.error(message, document.get("__type")))
    blocks = document["output"]["message"]["content"]
    uses = [block["toolUse"] for block in blocks if "toolUse" in block]
    thoughts = [b["reasoningContent"] for b in blocks if "reasoningContent" in b]
    return chat.completion(
        name=None,
        model=None,
        text="".join(block.get("text", "") for block in blocks),
        thought="".join(
            (thought.get("reasoningText") or {}).get("text", "") for thought in thoughts
        ),
        calls=[chat.call(u["toolUseId"], u["name"], u.get("input")) for u in uses],
        finish=_FINISH.get(str(document.get("stopReason")), "stop"),
        used=_usage(document.get("usage") or {}),
    )


def _usage(used: dict[str, Any]) -> dict[str, Any]:
    cached = used.get("cacheReadInputTokens") or 0
    # What was read from or written to the cache is counted beside the rest.
    prompt = (used.get("inputTokens") or 0) + cached
    prompt += used.get("cacheWriteInputTokens") or 0
    found: dict[str, Any] = chat.usage(
        prompt, used.get("outputTokens") or 0, cached=cached
    )
    return found


class BedrockEvents:
    """Translates a ConverseStream into chat completion chunks."""

    __slots__ = ("_buffer", "_calls")

    def __init__(self) -> None:
        self._buffer = b""
        self._calls = -1

    def feed(self, data: bytes) -> bytes:
        """Raises: ValueError: the bytes are no event stream."""
        self._buffer += data
        out = b""
        while (taken := _take(self._buffer)) is not None:
            headers, payload, self._buffer = taken
            out += self._translate(headers, orjson.loads(payload or b"{}"))
        return out

    def end(self) -> bytes:
        return b""

    def _translate(self, headers: dict[str, str], event: dict[str, Any]) -> bytes:
        if headers.get(":message-type") in {"exception", "error"}:
            kind = headers.get(":exception-type") or headers.get(":error-code")
            said = event.get("message") or headers.get(":error-message")
            return frame(chat.error(said, kind))
        out = b""
        match headers.get(":event-type"):
            case "messageStart":
                out = _chunk({"role": "assistant", "content": ""})
            case "contentBlockStart":
                out = self._begin(event.get("start") or {})
            case "contentBlockDelta":
                out = self._delta(event.get("delta") or {})
            case "messageStop":
                reason = str(event.get("stopReason"))
                out = _chunk({}, finish=_FINISH.get(reason, "stop"))
            case "metadata":
                used = _usage(event.get("usage") or {})
                out = chat.chunk("", "", None, used=used) + chat.DONE
        return out

    def _begin(self, start: dict[str, Any]) -> bytes:
        if "toolUse" not in start:
            return b""
        self._calls += 1
        use = start["toolUse"]
        call = chat.call(use.get("toolUseId"), use.get("name"), "")
        return _chunk({"tool_calls": [{"index": self._calls, **call}]})

    def _delta(self, delta: dict[str, Any]) -> bytes:
        if "text" in delta:
            return _chunk({"content": delta["text"]})
        if "toolUse" in delta:
            function = {"arguments": delta["toolUse"].get("input", "")}
            return _chunk(
                {"tool_calls": [{"index": self._calls, "function": function}]}
            )
        thought = (delta.get("reasoningContent") or {}).get("text")
        return _chunk({"reasoning_content": thought}) if thought else b""


def _chunk(delta: dict[str, Any], *, finish: str | None = None) -> bytes:
    return chat.chunk("", "", delta, finish=finish)


def _take(data: bytes) -> tuple[dict[str, str], bytes, bytes] | None:
    """Cut the first frame off: its headers, its payload and the rest."""
    if len(data) < _PRELUDE:
        return None
    size, headers_size = int.from_bytes(data[:4]), int.from_bytes(data[4:8])
    if zlib.crc32(data[:8]) != int.from_bytes(data[8:12]) or size > _MAX_FRAME:
        raise ValueError("a frame's prelude does not fit its checksum")
    if len(data) < size:
        return None
    end, first = size - _CHECKSUM, _PRELUDE + headers_size
    if zlib.crc32(data[:end]) != int.from_bytes(data[end:size]) or first > end:
        raise ValueError("a frame does not fit its checksum")
    return _headers(data[_PRELUDE:first]), data[first:end], data[size:]


def _headers(data: bytes) -> dict[str, str]:
    found: dict[str, str] = {}
    while data:
        name, data = data[1 : 1 + data[0]], data[1 + data[0] :]
        kind, data = data[0], data[1:]
        if kind in _WIDTHS:
            data = data[_WIDTHS[kind] :]
            continue
        size = int.from_bytes(data[:2])
        if kind == _STRING:
            found[name.decode()] = data[2 : 2 + size].decode()
        data = data[2 + size :]
    return found
