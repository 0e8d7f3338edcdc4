"""A client that speaks OpenAI's Responses API, in front of chat.

Called for ``POST /v1/responses`` where no upstream of the route speaks it itself:
the request becomes a chat request, and the answer and its events are written the
way clients of the Responses API read them. What chat cannot say is refused by
name. Shapes: platform.openai.com, API reference of November 2026.
"""

from __future__ import annotations

from typing import Any

import orjson

from gateway.dialects import Cutter, frame
from gateway.openai import BadRequest

__all__ = ["ResponseEvents", "answer", "chat_request", "items_of", "skeleton"]

_UNSAID = ("prompt", "conversation", "context_management", "moderation", "image")
# What is said in other words, done here, or for OpenAI's own books.
_NOT_PASSED = frozenset(
    {
        "access_programs",
        "background",
        "background_options",
        "include",
        "input",
        "instructions",
        "max_output_tokens",
        "max_tool_calls",
        "metadata",
        "previous_response_id",
        "prompt_cache_options",
        "prompt_cache_retention",
        "reasoning",
        "store",
        "stream_options",
        "text",
        "tool_choice",
        "tools",
        "truncation",
        *_UNSAID,
    }
)
_LIMITED = {"length": "max_output_tokens", "content_filter": "content_filter"}


def skeleton(
    document: dict[str, Any], *, name: str, now: int, store: bool
) -> dict[str, Any]:
    """Write a response without its output: mostly what the request said."""
    given = document.get
    return {
        "id": name,
        "object": "response",
        "created_at": now,
        "status": "in_progress",
        "background": bool(given("background")),
        "error": None,
        "incomplete_details": None,
        "instructions": given("instructions"),
        "max_output_tokens": given("max_output_tokens"),
        "metadata": given("metadata") or {},
        "model": given("model"),
        "output": [],
        "parallel_tool_calls": given("parallel_tool_calls", True),
        "previous_response_id": given("previous_response_id"),
        "reasoning": given("reasoning") or {"effort": None, "summary": None},
        "service_tier": given("service_tier") or "default",
        "store": store,
        "temperature": given("temperature"),
        "text": given("text") or {"format": {"type": "text"}},
        "tool_choice": given("tool_choice") or "auto",
        "tools": given("tools") or [],
        "top_p": given("top_p"),
        "truncation": "disabled",
        "usage": None,
        "user": given("user"),
    }


def items_of(document: dict[str, Any]) -> list[dict[str, Any]]:
    """Give the input as items, each with an id of its own kind.

    Raises:
        BadRequest: it is neither text nor a list of items.
    """
    given = document.get("input")
    if isinstance(given, str):
        given = [{"role": "user", "content": [{"type": "input_text", "text": given}]}]
    if not isinstance(given, list) or not all(isinstance(i, dict) for i in given):
        raise BadRequest(
            "cannot read `input`: neither text nor a list of items", param="input"
        )
    return [{"type": "message", **item} for item in given]


def chat_request(
    document: dict[str, Any], items: list[dict[str, Any]]
) -> dict[str, Any]:
    """Write a request for a response as a chat request.

    Raises:
        BadRequest: it asks for what chat cannot do, or is malformed.
    """
    try:
        return _chat_request(document, items)
    except (AttributeError, KeyError, TypeError) as error:
        raise BadRequest(
            "cannot read `input`: it is not in the shape of the Responses API",
            param="input",
        ) from error


def _chat_request(
    document: dict[str, Any], items: list[dict[str, Any]]
) -> dict[str, Any]:
    for field in _UNSAID:
        if document.get(field):
            raise _cannot(field)
    if document.get("truncation") not in (None, "disabled"):
        raise _cannot("truncation")
    if not isinstance(document.get("instructions"), str | None):
        raise _cannot("instructions")
    # An engine's own fields, top_k and the like, mean the same in both APIs.
    out = {
        name: value
        for name, value in document.items()
        if name not in _NOT_PASSED and value is not None
    }
    messages = _messages(items)
    if document.get("instructions"):
        messages.insert(0, {"role": "system", "content": document["instructions"]})
    out["messages"] = messages
    if document.get("max_output_tokens"):
        # The older name: engines know it, and some know only it.
        out["max_tokens"] = document["max_output_tokens"]
    effort = (document.get("reasoning") or {}).get("effort")
    if effort:
        out["reasoning_effort"] = effort
    if "message.output_text.logprobs" in (document.get("include") or ()):
        out["logprobs"] = True
    return out | _format(document.get("text") or {}) | _tools(document)


def _cannot(field: str) -> BadRequest:
    return BadRequest(
        f"cannot ask this model for `{field}`: it is served by a chat API",
        param=field,
        code="unsupported_parameter",
    )


def _format(text: dict[str, Any]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    if text.get("verbosity"):
        out["verbosity"] = text["verbosity"]
    kind = dict(text.get("format") or {})
    if kind.get("type") == "json_schema":
        kind.pop("type")
        out["response_format"] = {"type": "json_schema", "json_schema": kind}
    elif kind.get("type") not in {None, "text"}:
        out["response_format"] = kind
    return out


def _tools(document: dict[str, Any]) -> dict[str, Any]:
    tools = []
    for tool in document.get("tools") or ():
        if tool.get("type") != "function":
            raise _cannot(f"tools.{tool.get('type')}")
        function = {n: v for n, v in tool.items() if n != "type" and v is not None}
        tools.append({"type": "function", "function": function})
    if not tools:
        return {}
    choice = document.get("tool_choice") or "auto"
    if isinstance(choice, dict):
        if choice.get("type") != "function":
            raise _cannot(f"tool_choice.{choice.get('type')}")
        choice = {"type": "function", "function": {"name": choice.get("name")}}
    return {"tools": tools, "tool_choice": choice}


def _messages(items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    out: list[dict[str, Any]] = []
    for item in items:
        match item["type"]:
            case "message":
                out.append(_message(item))
            case "function_call":
                function = {"name": item["name"], "arguments": item["arguments"]}
                call = {"id": item["call_id"], "type": "function", "function": function}
                if not out or out[-1]["role"] != "assistant":
                    out.append({"role": "assistant", "content": None})
                out[-1].setdefault("tool_calls", []).append(call)
            case "function_call_output":
                said = item["output"]
                text = said if isinstance(said, str) else _text(said)
                which = {"tool_call_id": item["call_id"]}
                out.append({"role": "tool", **which, "content": text})
            case "reasoning":
                pass  # a model's own thoughts are not said to it again
            case kind:
                raise _cannot(f"input.{kind}")
    return out


def _message(item: dict[str, Any]) -> dict[str, Any]:
    # Chat templates of open models know a system's word, not a developer's.
    role = "system" if item["role"] == "developer" else item["role"]
    content = item["content"]
    if isinstance(content, str):
        return {"role": role, "content": content}
    if all(part["type"] in {"input_text", "output_text", "text"} for part in content):
        return {"role": role, "content": _text(content)}
    return {"role": role, "content": [_part(part) for part in content]}


def _text(parts: list[dict[str, Any]]) -> str:
    return "".join(part.get("text", "") for part in parts)


def _part(part: dict[str, Any]) -> dict[str, Any]:
    match part["type"]:
        case "input_text" | "output_text" | "text":
            return {"type": "text", "text": part["text"]}
        case "input_image" if part.get("image_url"):
            image = {"url": part["image_url"]}
            if part.get("detail"):
                image["detail"] = part["detail"]
            return {"type": "image_url", "image_url": image}
        case "input_file" if part.get("file_data"):
            names = ("file_data", "filename")
            return {"type": "file", "file": {n: part[n] for n in names if n in part}}
        case "input_audio":
            return {"type": "input_audio", "input_audio": part["input_audio"]}
        case "refusal":
            return {"type": "text", "text": part["refusal"]}
        case kind:
            raise _cannot(f"input.content.{kind}")


def answer(body: bytes, status: int, echo: dict[str, Any]) -> bytes:
    """Write a chat completion as a response; an error stays what it is."""
    document = orjson.loads(body)
    if status >= 400 or not document.get("choices"):  # noqa: PLR2004  HTTP's
        return body
    choice = document["choices"][0]
    message = choice.get("message") or {}
    suffix = echo["id"].removeprefix("resp_")
    output: list[dict[str, Any]] = []
    thought = message.get("reasoning_content") or message.get("reasoning")
    if thought:
        output.append(_reasoning(f"rs_{suffix}", thought))
    if message.get("content"):
        output.append(_said(f"msg_{suffix}", message["content"], _logprobs(choice)))
    elif message.get("refusal"):
        refusal = {"type": "refusal", "refusal": message["refusal"]}
        output.append({**_said(f"msg_{suffix}", "", []), "content": [refusal]})
    for number, call in enumerate(message.get("tool_calls") or ()):
        function = call.get("function") or {}
        output.append(
            _call(
                f"fc_{suffix}_{number}",
                call.get("id"),
                function.get("name"),
                function.get("arguments") or "",
            )
        )
    return orjson.dumps(
        echo
        | {"output": output, "usage": _usage(document.get("usage"))}
        | _ending(choice.get("finish_reason"))
    )


def _ending(finish: str | None) -> dict[str, Any]:
    reason = _LIMITED.get(str(finish))
    if reason is None:
        return {"status": "completed"}
    return {"status": "incomplete", "incomplete_details": {"reason": reason}}


def _reasoning(name: str, text: str) -> dict[str, Any]:
    content = [{"type": "reasoning_text", "text": text}]
    return {"id": name, "type": "reasoning", "summary": [], "content": content}


def _said(name: str, text: str, logprobs: list[Any]) -> dict[str, Any]:
    return {
        "id": name,
        "type": "message",
        "status": "completed",
        "role": "assistant",
        "content": [_output_text(text, logprobs)],
    }


def _output_text(text: str, logprobs: list[Any]) -> dict[str, Any]:
    return {
        "type": "output_text",
        "text": text,
        "annotations": [],
        "logprobs": logprobs,
    }


def _logprobs(choice: dict[str, Any]) -> list[Any]:
    return (choice.get("logprobs") or {}).get("content") or []


def _call(
    name: str, call_id: str | None, function: str | None, arguments: str
) -> dict[str, Any]:
    return {
        "id": name,
        "type": "function_call",
        "status": "completed",
        "call_id": call_id or name,
        "name": function,
        "arguments": arguments,
    }


def _usage(usage: dict[str, Any] | None) -> dict[str, Any] | None:
    if not usage:
        return None
    given = usage.get("prompt_tokens") or 0
    made = usage.get("completion_tokens") or 0
    cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
    details = usage.get("completion_tokens_details") or {}
    return {
        "input_tokens": given,
        "input_tokens_details": {"cached_tokens": cached},
        "output_tokens": made,
        "output_tokens_details": {
            "reasoning_tokens": details.get("reasoning_tokens") or 0
        },
        "total_tokens": given + made,
    }


class ResponseEvents:
    """Translates chat completion chunks into a response's events."""

    __slots__ = ("_cutter", "_echo", "_finish", "_open", "_output", "_over", "_seen")

    def __init__(self, echo: dict[str, Any]) -> None:
        self._cutter = Cutter()
        self._echo = echo
        self._output: list[dict[str, Any]] = []
        self._open: tuple[str, object] | None = None
        """Kind of the item that grows, and which tool call it is."""
        self._finish: str | None = None
        self._seen = -1
        self._over = False

    def feed(self, data: bytes) -> bytes:
        return b"".join(self._translate(chunk) for chunk in self._cutter.feed(data))

    def end(self) -> bytes:
        """Close the item and the response."""
        if self._over or self._seen < 0:
            return b""
        self._over = True
        ending = _ending(self._finish)
        whole = self._echo | {"output": self._output} | ending
        return self._close() + self._event(
            f"response.{ending['status']}", response=whole
        )

    def _translate(self, chunk: dict[str, Any]) -> bytes:
        if "error" in chunk:
            self._over = True
            return frame({"error": chunk["error"]}, name="error")
        out = b"" if self._seen >= 0 else self._start()
        if chunk.get("usage"):
            self._echo = self._echo | {"usage": _usage(chunk["usage"])}
        for choice in chunk.get("choices") or ():
            out += self._delta(choice.get("delta") or {}, _logprobs(choice))
            self._finish = choice.get("finish_reason") or self._finish
        return out

    def _event(self, kind: str, **fields: Any) -> bytes:
        self._seen += 1
        event = {"type": kind, "sequence_number": self._seen, **fields}
        return frame(event, name=kind)

    def _start(self) -> bytes:
        return self._event("response.created", response=self._echo) + self._event(
            "response.in_progress", response=self._echo
        )

    def _delta(self, delta: dict[str, Any], logprobs: list[Any]) -> bytes:
        out = b""
        suffix = self._echo["id"].removeprefix("resp_")
        thought = delta.get("reasoning_content") or delta.get("reasoning")
        if thought:
            item = _reasoning(f"rs_{suffix}", "")
            out += self._begin("reasoning", None, item)
            self._output[-1]["content"][0]["text"] += thought
            out += self._say("response.reasoning_text.delta", thought, content_index=0)
        if delta.get("content"):
            text = delta["content"]
            out += self._begin("message", None, _said(f"msg_{suffix}", "", []))
            part = self._output[-1]["content"][0]
            part["text"] += text
            part["logprobs"] += logprobs
            more = {"content_index": 0, "logprobs": logprobs}
            out += self._say("response.output_text.delta", text, **more)
        for call in delta.get("tool_calls") or ():
            function = call.get("function") or {}
            name = f"fc_{suffix}_{call.get('index') or 0}"
            item = _call(name, call.get("id"), function.get("name"), "")
            out += self._begin("function_call", call.get("index"), item)
            arguments = function.get("arguments")
            if arguments:
                self._output[-1]["arguments"] += arguments
                out += self._say("response.function_call_arguments.delta", arguments)
        return out

    def _place(self) -> dict[str, Any]:
        item = self._output[-1]
        return {"item_id": item["id"], "output_index": len(self._output) - 1}

    def _say(self, kind: str, delta: str, **more: Any) -> bytes:
        return self._event(kind, **self._place(), **more, delta=delta)

    def _begin(self, kind: str, which: object, item: dict[str, Any]) -> bytes:
        if self._open == (kind, which):
            return b""
        out = self._close()
        self._open = kind, which
        self._output.append(item)
        index = len(self._output) - 1
        shown = item | ({"status": "in_progress"} if "status" in item else {})
        if kind != "function_call":
            shown["content"] = []
        out += self._event("response.output_item.added", output_index=index, item=shown)
        if kind == "message":
            part = _output_text("", [])
            out += self._event(
                "response.content_part.added",
                **self._place(),
                content_index=0,
                part=part,
            )
        return out

    def _close(self) -> bytes:
        if self._open is None:
            return b""
        kind, self._open = self._open[0], None
        item, place = self._output[-1], self._place()
        if kind == "function_call":
            said = {"name": item["name"], "arguments": item["arguments"]}
            out = self._event("response.function_call_arguments.done", **place, **said)
        else:
            part = item["content"][0]
            place |= {"content_index": 0}
            name = "output_text" if kind == "message" else "reasoning_text"
            more = {"logprobs": part["logprobs"]} if kind == "message" else {}
            out = self._event(
                f"response.{name}.done", **place, text=part["text"], **more
            )
            if kind == "message":
                out += self._event("response.content_part.done", **place, part=part)
        index = len(self._output) - 1
        return out + self._event(
            "response.output_item.done", output_index=index, item=item
        )
