"""An upstream that speaks Google's Gemini API, behind chat and embeddings.

Shapes: ai.google.dev, v1beta, generateContent and batchEmbedContents. What it has
no words for is refused by name. A thought's signature travels in a tool call's
``extra_content``, as in Google's own OpenAI-compatible API.
"""

from __future__ import annotations

from typing import Any

import orjson

from gateway.dialects import Cutter, chat, frame
from gateway.openai import BadRequest

__all__ = ["GeminiEvents", "answer", "embed_answer", "embed_request", "request"]

_UNSAID = ("logprobs",)
_SAID = {
    "temperature": "temperature",
    "top_p": "topP",
    "top_k": "topK",
    "seed": "seed",
    "presence_penalty": "presencePenalty",
    "frequency_penalty": "frequencyPenalty",
}
_MODES = {"auto": "AUTO", "required": "ANY", "none": "NONE"}
_FINISH = {"STOP": "stop", "MAX_TOKENS": "length", "MALFORMED_FUNCTION_CALL": "stop"}
# Tokens of thought by OpenAI's words, as in Google's compatible API.
_BUDGETS = {"none": 0, "minimal": 1024, "low": 1024, "medium": 8192, "high": 24576}


def request(document: dict[str, Any], model: str) -> bytes:  # noqa: ARG001  it is in the path
    """Write a chat request for generateContent.

    Raises:
        BadRequest: it asks for what the API cannot do.
    """
    chat.refuse(document, _UNSAID, if_false=("parallel_tool_calls",))
    system, contents = _contents(document.get("messages") or [])
    out: dict[str, Any] = {"contents": contents, **_tools(document)}
    if system:
        out["systemInstruction"] = {"parts": [{"text": system}]}
    settings = _settings(document)
    if settings:
        out["generationConfig"] = settings
    return orjson.dumps(out)


def _settings(document: dict[str, Any]) -> dict[str, Any]:
    out = {
        theirs: document[ours]
        for ours, theirs in _SAID.items()
        if document.get(ours) is not None
    }
    limit = document.get("max_completion_tokens") or document.get("max_tokens")
    if limit:
        out["maxOutputTokens"] = limit
    stops = chat.stops_of(document)
    if stops:
        out["stopSequences"] = stops
    schema = chat.schema_of(document)
    if schema is not None:
        out["responseMimeType"] = "application/json"
        if schema:
            out["responseJsonSchema"] = schema
    effort = document.get("reasoning_effort")
    if effort:
        if effort not in _BUDGETS:
            raise chat.cannot("reasoning_effort")
        out["thinkingConfig"] = {"thinkingBudget": _BUDGETS[effort]}
    return out


def _contents(given: list[dict[str, Any]]) -> tuple[str, list[dict[str, Any]]]:
    system: list[str] = []
    out: list[dict[str, Any]] = []
    names: dict[str, str] = {}
    """Of the functions that were called: results are told by name there."""
    for message in given:
        role = message.get("role")
        if role in {"system", "developer"}:
            system.append(chat.text_of(message.get("content")))
            continue
        parts = _parts(message, names)
        turn = "model" if role == "assistant" else "user"
        if out and out[-1]["role"] == turn:
            out[-1]["parts"] += parts
        else:
            out.append({"role": turn, "parts": parts})
    return "\n\n".join(system), out


def _parts(message: dict[str, Any], names: dict[str, str]) -> list[dict[str, Any]]:
    content = message.get("content")
    if message.get("role") == "tool":
        name = message.get("tool_call_id", "")
        result = {"result": chat.text_of(content)}
        return [
            {"functionResponse": {"name": names.get(name, name), "response": result}}
        ]
    parts: list[dict[str, Any]] = []
    if isinstance(content, str) and content:
        parts.append({"text": content})
    parts += [_part(part) for part in (content if isinstance(content, list) else ())]
    for call in message.get("tool_calls") or ():
        function = call.get("function", {})
        names[call.get("id", "")] = function.get("name", "")
        arguments = chat.arguments_of(function.get("arguments"))
        said: dict[str, Any] = {
            "functionCall": {"name": function.get("name"), "args": arguments}
        }
        google = (call.get("extra_content") or {}).get("google") or {}
        if google.get("thought_signature"):
            said["thoughtSignature"] = google["thought_signature"]
        parts.append(said)
    return parts


def _part(part: dict[str, Any]) -> dict[str, Any]:
    match part.get("type"):
        case "text":
            return {"text": part.get("text", "")}
        case "image_url":
            url = part.get("image_url", {}).get("url", "")
            given = chat.data_url(url)
            if given is None:
                return {"fileData": {"fileUri": url}}
            return {"inlineData": {"mimeType": given[0], "data": given[1]}}
        case "input_audio":
            audio = part.get("input_audio", {})
            kind = f"audio/{audio.get('format')}"
            return {"inlineData": {"mimeType": kind, "data": audio.get("data")}}
        case kind:
            raise chat.cannot(f"messages.content.{kind}")


def _tools(document: dict[str, Any]) -> dict[str, Any]:
    tools = document.get("tools")
    if not tools:
        return {}
    functions = []
    for tool in tools:
        function = tool.get("function", {})
        said = {n: function[n] for n in ("name", "description") if function.get(n)}
        if function.get("parameters"):
            said["parametersJsonSchema"] = function["parameters"]
        functions.append(said)
    choice = document.get("tool_choice") or "auto"
    calling: dict[str, Any] = {"mode": _MODES.get(str(choice), "ANY")}
    if isinstance(choice, dict):
        calling["allowedFunctionNames"] = [choice.get("function", {}).get("name")]
    return {
        "tools": [{"functionDeclarations": functions}],
        "toolConfig": {"functionCallingConfig": calling},
    }


def _error(document: Any) -> dict[str, Any] | None:
    # Outside of a stream of events, errors of streams come in a list.
    first = document[0] if isinstance(document, list) and document else document
    error = first.get("error")
    return chat.error(error.get("message"), error.get("status")) if error else None


def answer(body: bytes, status: int) -> bytes:  # noqa: ARG001  its body says it, too
    """Write a generateContent answer, or its error, as a chat completion's."""
    document = orjson.loads(body)
    error = _error(document)
    if error is not None:
        return orjson.dumps(error)
    candidate = (document.get("candidates") or [{}])[0]
    text, thought, calls = _read(candidate, 0)
    return chat.completion(
        name=document.get("responseId"),
        model=document.get("modelVersion"),
        text=text,
        thought=thought,
        calls=calls,
        finish=_finish(document, candidate, called=bool(calls)),
        used=_usage(document.get("usageMetadata") or {}),
    )


def _read(
    candidate: dict[str, Any], before: int
) -> tuple[str, str, list[dict[str, Any]]]:
    """Take a candidate's parts apart; ``before`` tool calls came earlier."""
    text = thought = ""
    calls: list[dict[str, Any]] = []
    for part in (candidate.get("content") or {}).get("parts") or ():
        if "functionCall" in part:
            said = part["functionCall"]
            name = said.get("id") or f"call_{before + len(calls)}"
            call = chat.call(name, said.get("name"), said.get("args") or {})
            if part.get("thoughtSignature"):
                google = {"thought_signature": part["thoughtSignature"]}
                call["extra_content"] = {"google": google}
            calls.append(call)
        elif part.get("thought"):
            thought += part.get("text", "")
        else:
            text += part.get("text", "")
    return text, thought, calls


def _finish(
    document: dict[str, Any], candidate: dict[str, Any], *, called: bool
) -> str:
    if (document.get("promptFeedback") or {}).get("blockReason"):
        return "content_filter"
    reason = _FINISH.get(str(candidate.get("finishReason")), "content_filter")
    return "tool_calls" if called and reason == "stop" else reason


def _usage(used: dict[str, Any]) -> dict[str, Any]:
    thoughts = used.get("thoughtsTokenCount") or 0
    found: dict[str, Any] = chat.usage(
        used.get("promptTokenCount") or 0,
        (used.get("candidatesTokenCount") or 0) + thoughts,
        cached=used.get("cachedContentTokenCount") or 0,
        reasoning=thoughts,
    )
    return found


class GeminiEvents:
    """Translates streamGenerateContent events into chat completion chunks."""

    __slots__ = ("_calls", "_cutter", "_started")

    def __init__(self) -> None:
        self._cutter = Cutter()
        self._calls = 0
        self._started = False

    def feed(self, data: bytes) -> bytes:
        return b"".join(self._translate(event) for event in self._cutter.feed(data))

    def end(self) -> bytes:
        return b""

    def _translate(self, event: dict[str, Any]) -> bytes:
        error = _error(event)
        if error is not None:
            return frame(error)
        name, model = event.get("responseId", ""), event.get("modelVersion", "")
        out = b""
        if not self._started:
            self._started = True
            out = chat.chunk(name, model, {"role": "assistant", "content": ""})
        candidate = (event.get("candidates") or [{}])[0]
        text, thought, calls = _read(candidate, self._calls)
        if thought:
            out += chat.chunk(name, model, {"reasoning_content": thought})
        if text:
            out += chat.chunk(name, model, {"content": text})
        for call in calls:
            indexed = {"index": self._calls, **call}
            out += chat.chunk(name, model, {"tool_calls": [indexed]})
            self._calls += 1
        blocked = (event.get("promptFeedback") or {}).get("blockReason")
        if candidate.get("finishReason") or blocked:
            finish = _finish(event, candidate, called=self._calls > 0)
            used = _usage(event.get("usageMetadata") or {})
            out += chat.chunk(name, model, {}, finish=finish)
            out += chat.chunk(name, model, None, used=used) + chat.DONE
        return out


def embed_request(document: dict[str, Any], model: str) -> bytes:
    """Write an embeddings request for batchEmbedContents.

    Raises:
        BadRequest: its input is not text, or it asks for what the API cannot do.
    """
    chat.refuse_pooled(document)
    given = document.get("input")
    texts = given if isinstance(given, list) else [given]
    if not all(isinstance(text, str) for text in texts):
        raise BadRequest("cannot embed what is not text", param="input")
    more = {}
    if document.get("dimensions"):
        more["outputDimensionality"] = document["dimensions"]
    asks = [
        {"model": f"models/{model}", "content": {"parts": [{"text": text}]}, **more}
        for text in texts
    ]
    return orjson.dumps({"requests": asks})


def embed_answer(body: bytes, status: int) -> bytes:  # noqa: ARG001  its body says it, too
    document = orjson.loads(body)
    error = _error(document)
    if error is not None:
        return orjson.dumps(error)
    vectors = [found["values"] for found in document["embeddings"]]
    return orjson.dumps(embeddings(vectors, 0))


def embeddings(vectors: list[list[float]], tokens: int) -> dict[str, Any]:
    """Write vectors as OpenAI does."""
    data = [
        {"object": "embedding", "index": index, "embedding": vector}
        for index, vector in enumerate(vectors)
    ]
    used = {"prompt_tokens": tokens, "total_tokens": tokens}
    return {"object": "list", "model": None, "data": data, "usage": used}
