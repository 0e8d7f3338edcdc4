"""Tokens of an answer, from the bytes of the answer.

An answer is not parsed as a whole for the one object at its end: the object is
cut out and only that is read. Called by the stream scanner and the exchange.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import orjson

__all__ = ["Usage", "find_usage", "read_usage"]

# A key of the answer, not text inside a string: there its quotes are escaped.
# The objects inside a usage object (the token details) hold no objects.
USAGE = re.compile(rb'(?<!\\)"usage"\s*:\s*(\{(?:[^{}]|\{[^{}]*\})*\})')


@dataclass(frozen=True, slots=True)
class Usage:
    """What an upstream says it read and wrote."""

    input: int = 0
    output: int = 0
    cached: int = 0
    """Of the input: what came from the prefix cache."""
    reasoning: int = 0
    """Of the output: what the client is not shown."""


def find_usage(data: bytes) -> Usage | None:
    """Find the last usage object in ``data``."""
    found = None
    for found in USAGE.finditer(data):  # noqa: B007  the last one is wanted
        pass
    if found is None:
        return None
    try:
        return read_usage(orjson.loads(found[1]))
    except orjson.JSONDecodeError:
        return None


def read_usage(usage: dict[str, Any]) -> Usage:
    """Read an OpenAI usage object; what is missing or no number counts as 0."""
    prompt = usage.get("prompt_tokens_details")
    answer = usage.get("completion_tokens_details")
    return Usage(
        input=_count(usage.get("prompt_tokens")),
        output=_count(usage.get("completion_tokens")),
        cached=_count(prompt.get("cached_tokens")) if isinstance(prompt, dict) else 0,
        reasoning=(
            _count(answer.get("reasoning_tokens")) if isinstance(answer, dict) else 0
        ),
    )


def _count(value: object) -> int:
    return value if isinstance(value, int) and 0 < value < 2**53 else 0
