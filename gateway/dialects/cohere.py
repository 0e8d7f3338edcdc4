"""An upstream that speaks Cohere's API v2, behind chat, embeddings and rerank.

Shapes: docs.cohere.com, v2/chat, v2/embed and v2/rerank. Its messages and tools
are nearly OpenAI's; what it has no words for is refused by name.
"""

from __future__ import annotations

from typing import Any

import orjson

from gateway.dialects import Cutter, chat, frame
from gateway.dialects.gemini import embeddings
from gateway.openai import BadRequest

__all__ = [
    "CohereEvents",
    "answer",
    "embed_answer",
    "embed_request",
    "request",
    "rerank_answer",
    "rerank_request",
]

_SAID = {
    "temperature": "temperature",
    "top_p": "p",
    "top_k": "k",
    "seed": "seed",
    "presence_penalty": "presence_penalty",
    "frequency_penalty": "frequency_penalty",
    "stream": "stream",
    "logprobs": "logprobs",
}
_CHOICES = {"required": "REQUIRED", "none": "NONE"}
_FINISH = {
    "COMPLETE": "stop",
    "STOP_SEQUENCE": "stop",
    "MAX_TOKENS": "length",
    "TOOL_CALL": "tool_calls",
}


def request(document: dict[str, Any], model: str) -> bytes:
    """Write a chat request for v2/chat.

    Raises:
        BadRequest: it asks for what the API cannot do.
    """
    chat.refuse(document, (), if_false=("parallel_tool_calls",))
    out: dict[str, Any] = {
        "model": model,
        "messages": [_message(message) for message in document.get("messages") or ()],
    }
    out |= {
        theirs: document[ours]
        for ours, theirs in _SAID.items()
        if document.get(ours) is not None
    }
    limit = document.get("max_completion_tokens") or document.get("max_tokens")
    if limit:
        out["max_tokens"] = limit
    if chat.stops_of(document):
        out["stop_sequences"] = chat.stops_of(document)
    schema = chat.schema_of(document)
    if schema is not None:
        more = {"json_schema": schema} if schema else {}
        out["response_format"] = {"type": "json_object", **more}
    if document.get("tools"):
        out["tools"] = document["tools"]
        choice = document.get("tool_choice") or "auto"
        if isinstance(choice, dict):
            raise chat.cannot("tool_choice")
        if choice in _CHOICES:
            out["tool_choice"] = _CHOICES[choice]
    return orjson.dumps(out)


def _message(message: dict[str, Any]) -> dict[str, Any]:
    role = "system" if message["role"] == "developer" else message["role"]
    names = ("content", "tool_calls", "tool_call_id")
    said = {n: message[n] for n in names if message.get(n) is not None}
    return {"role": role, **said}


def _read_error(body: bytes, status: int) -> bytes | None:
    if status < 400:  # noqa: PLR2004  HTTP's
        return None
    return orjson.dumps(chat.error(orjson.loads(body).get("message"), None))


def answer(body: bytes, status: int) -> bytes:
    """Write a v2/chat answer, or its error, as a chat completion's."""
    error = _read_error(body, status)
    if error is not None:
        return error
    document = orjson.loads(body)
    message = document["message"]
    content = message.get("content") or []
    thought = "".join(part.get("thinking", "") for part in content)
    return chat.completion(
        name=document.get("id"),
        model=None,
        text=chat.text_of(content),
        thought=(message.get("tool_plan") or "") + thought,
        calls=message.get("tool_calls") or [],
        finish=_FINISH.get(str(document.get("finish_reason")), "content_filter"),
        used=_usage(document.get("usage") or {}),
    )


def _usage(used: dict[str, Any]) -> dict[str, Any]:
    tokens = used.get("tokens") or used.get("billed_units") or {}
    found: dict[str, Any] = chat.usage(
        int(tokens.get("input_tokens") or 0),
        int(tokens.get("output_tokens") or 0),
        cached=int(used.get("cached_tokens") or 0),
    )
    return found


class CohereEvents:
    """Translates a v2/chat stream into chat completion chunks."""

    __slots__ = ("_calls", "_cutter", "_id")

    def __init__(self) -> None:
        self._cutter = Cutter()
        self._id = ""
        self._calls = -1

    def feed(self, data: bytes) -> bytes:
        return b"".join(self._translate(event) for event in self._cutter.feed(data))

    def end(self) -> bytes:
        return b""

    def _translate(self, event: dict[str, Any]) -> bytes:
        delta = event.get("delta") or {}
        message = delta.get("message") or {}
        out = b""
        match event.get("type"):
            case "message-start":
                self._id = event.get("id", "")
                out = self._chunk({"role": "assistant", "content": ""})
            case "content-delta":
                content = message.get("content") or {}
                if content.get("thinking"):
                    out = self._chunk({"reasoning_content": content["thinking"]})
                else:
                    out = self._chunk({"content": content.get("text", "")})
            case "tool-plan-delta":
                out = self._chunk({"reasoning_content": message.get("tool_plan", "")})
            case "tool-call-start":
                self._calls += 1
                out = self._call(message["tool_calls"])
            case "tool-call-delta":
                out = self._call(message["tool_calls"])
            case "message-end":
                out = self._end(delta)
        return out

    def _call(self, call: dict[str, Any]) -> bytes:
        return self._chunk({"tool_calls": [{"index": self._calls, **call}]})

    def _end(self, delta: dict[str, Any]) -> bytes:
        reason = str(delta.get("finish_reason"))
        if reason in {"ERROR", "TIMEOUT"}:
            said = delta.get("error") or f"the model ended with {reason}"
            return frame(chat.error(said, reason))
        finish = _FINISH.get(reason, "content_filter")
        used = _usage(delta.get("usage") or {})
        last = chat.chunk(self._id, "", None, used=used)
        return self._chunk({}, finish=finish) + last + chat.DONE

    def _chunk(self, delta: dict[str, Any], *, finish: str | None = None) -> bytes:
        return chat.chunk(self._id, "", delta, finish=finish)


def embed_request(document: dict[str, Any], model: str) -> bytes:
    """Write an embeddings request for v2/embed.

    Raises:
        BadRequest: its input is not text, or it asks for what the API cannot do.
    """
    chat.refuse_pooled(document)
    given = document.get("input")
    texts = given if isinstance(given, list) else [given]
    if not all(isinstance(text, str) for text in texts):
        raise BadRequest("cannot embed what is not text", param="input")
    out = {
        "model": model,
        "texts": texts,
        # It wants to know; a client that searches says search_query itself.
        "input_type": document.get("input_type") or "search_document",
        "embedding_types": ["float"],
    }
    if document.get("dimensions"):
        out["output_dimension"] = document["dimensions"]
    return orjson.dumps(out)


def embed_answer(body: bytes, status: int) -> bytes:
    error = _read_error(body, status)
    if error is not None:
        return error
    document = orjson.loads(body)
    return orjson.dumps(embeddings(document["embeddings"]["float"], _billed(document)))


def rerank_request(document: dict[str, Any], model: str) -> bytes:
    """Write a rerank request for v2/rerank.

    Raises:
        BadRequest: it asks for what the API cannot do.
    """
    chat.refuse_pooled(document, "return_documents")
    names = ("query", "documents", "top_n", "max_tokens_per_doc")
    said = {n: document[n] for n in names if document.get(n) is not None}
    return orjson.dumps({"model": model, **said})


def rerank_answer(body: bytes, status: int) -> bytes:
    error = _read_error(body, status)
    if error is not None:
        return error
    document = orjson.loads(body)
    used = {"total_tokens": _billed(document), "prompt_tokens": _billed(document)}
    results = document["results"]
    return orjson.dumps({"id": document.get("id"), "results": results, "usage": used})


def _billed(document: dict[str, Any]) -> int:
    units = (document.get("meta") or {}).get("billed_units") or {}
    return int(units.get("input_tokens") or 0)
