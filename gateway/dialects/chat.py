"""OpenAI's chat shapes, as the translators of other APIs write them (pure)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import orjson

from gateway.dialects import frame
from gateway.openai import BadRequest

__all__ = [
    "DONE",
    "arguments_of",
    "call",
    "cannot",
    "chunk",
    "completion",
    "data_url",
    "error",
    "refuse",
    "refuse_pooled",
    "schema_of",
    "stops_of",
    "text_of",
    "usage",
]

DONE = b"data: [DONE]\n\n"
_OF_OPENAI = (
    "audio",
    "function_call",
    "functions",
    "logit_bias",
    "moderation",
    "prediction",
    "top_logprobs",
    "web_search_options",
)
# Of vLLM: sampling and templates that a provider's API leaves to itself.
_OF_ENGINES = (
    "allowed_token_ids",
    "bad_words",
    "chat_template",
    "chat_template_kwargs",
    "continue_final_message",
    "documents",
    "echo",
    "ignore_eos",
    "include_stop_str_in_output",
    "length_penalty",
    "min_p",
    "min_tokens",
    "mm_processor_kwargs",
    "prompt_logprobs",
    "repetition_penalty",
    "return_token_ids",
    "return_tokens_as_token_ids",
    "stop_token_ids",
    "structured_outputs",
    "thinking_token_budget",
    "truncate_prompt_tokens",
    "use_beam_search",
)
_OF_POOLING = (
    "chat_template",
    "chat_template_kwargs",
    "continue_final_message",
    "embed_dtype",
    "endianness",
    "messages",
    "mm_processor_kwargs",
    "normalize",
    "truncate_prompt_tokens",
)
_IF_FALSE = (
    "add_generation_prompt",
    "skip_special_tokens",
    "spaces_between_special_tokens",
)


def cannot(field: str) -> BadRequest:
    return BadRequest(
        f"cannot ask this model's provider for `{field}`",
        param=field,
        code="unsupported_parameter",
    )


def refuse_pooled(document: dict[str, Any], *more: str) -> None:
    """Refuse by name what would change an embedding or a rank, as `refuse` does.

    Raises:
        BadRequest: one of the fields is asked for.
    """
    _refuse_any(document, (*_OF_POOLING, *more))


def _refuse_any(document: dict[str, Any], fields: Iterable[str]) -> None:
    for field in fields:
        if document.get(field):
            raise cannot(field)


def refuse(
    document: dict[str, Any], fields: Iterable[str], *, if_false: Iterable[str] = ()
) -> None:
    """Refuse by name what would change the answer and cannot be said.

    Hints and bookkeeping (effort, metadata, tiers) are left out without a word.

    Raises:
        BadRequest: one of the fields is asked for, or several answers are.
    """
    _refuse_any(document, (*_OF_OPENAI, *_OF_ENGINES, *fields))
    for field in (*_IF_FALSE, *if_false):
        if document.get(field) is False:
            raise cannot(field)
    if document.get("n", 1) not in {None, 1}:
        raise cannot("n")
    if "audio" in (document.get("modalities") or ()):
        raise cannot("modalities")


def text_of(content: object) -> str:
    """Read a message's words, whether one text or parts."""
    if isinstance(content, list):
        return "".join(part.get("text", "") for part in content)
    return str(content or "")


def data_url(url: str) -> tuple[str, str] | None:
    """Split an image given by value into its type and base64."""
    head, comma, data = url.partition(",")
    if comma and head.startswith("data:") and head.endswith(";base64"):
        return head.removeprefix("data:").removesuffix(";base64"), data
    return None


def arguments_of(text: object) -> dict[str, Any]:
    """Raises: BadRequest: a tool call's arguments are no JSON object."""
    try:
        found = orjson.loads(text or "{}") if isinstance(text, str) else {}
    except orjson.JSONDecodeError as bad:
        raise BadRequest(
            "cannot read a tool call's `arguments` as JSON", param="messages"
        ) from bad
    return found if isinstance(found, dict) else {"arguments": found}


def schema_of(document: dict[str, Any]) -> dict[str, Any] | None:
    """Give the schema that the answer must fit; {}: any JSON; None: it is text.

    Raises:
        BadRequest: a format that only OpenAI knows.
    """
    kind = document.get("response_format") or {"type": "text"}
    match kind.get("type"):
        case "text":
            return None
        case "json_object":
            return {}
        case "json_schema":
            schema: dict[str, Any] = kind["json_schema"].get("schema") or {}
            return schema
        case _:
            raise cannot("response_format")


def stops_of(document: dict[str, Any]) -> list[str]:
    stop = document.get("stop") or []
    return [stop] if isinstance(stop, str) else stop


def usage(prompt: int, output: int, *, cached: int = 0, reasoning: int = 0) -> Any:
    return {
        "prompt_tokens": prompt,
        "completion_tokens": output,
        "total_tokens": prompt + output,
        "prompt_tokens_details": {"cached_tokens": cached},
        "completion_tokens_details": {"reasoning_tokens": reasoning},
    }


def call(name: object, function: object, arguments: object) -> dict[str, Any]:
    """Write a tool call; ``arguments`` as text, or as what the text says."""
    text = arguments if isinstance(arguments, str) else orjson.dumps(arguments).decode()
    said = {"name": function, "arguments": text}
    return {"id": name, "type": "function", "function": said}


def completion(
    *,
    name: object,
    model: object,
    text: str,
    thought: str,
    calls: list[dict[str, Any]],
    finish: str,
    used: dict[str, Any],
) -> bytes:
    message: dict[str, Any] = {"role": "assistant", "content": text or None}
    if thought:
        message["reasoning_content"] = thought
    if calls:
        message["tool_calls"] = calls
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": finish}
    return orjson.dumps(
        {
            "id": name,
            "object": "chat.completion",
            "created": 0,
            "model": model,
            "choices": [choice],
            "usage": used,
        }
    )


def chunk(
    name: str,
    model: str,
    delta: dict[str, Any] | None,
    *,
    finish: str | None = None,
    used: dict[str, Any] | None = None,
) -> bytes:
    """Write a chunk; without a delta the one that brings the usage."""
    document: dict[str, Any] = {
        "id": name,
        "object": "chat.completion.chunk",
        "created": 0,
        "model": model,
        "choices": [],
    }
    if delta is None:
        document["usage"] = used
    else:
        choice = {"index": 0, "delta": delta, "finish_reason": finish}
        document["choices"] = [choice]
    return frame(document)


def error(message: object, kind: object) -> dict[str, Any]:
    said = {"message": str(message), "type": kind, "param": None, "code": kind}
    return {"error": said}
