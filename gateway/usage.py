"""Tokens of an answer, from the bytes of the answer.

An answer is not parsed as a whole for the one object at its end: the object is
cut out and only that is read. Called by the stream scanner and the exchange.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

import orjson

__all__ = ["Usage", "find_usage", "read_usage"]

_KEY = b'"usage"'
# The objects inside a usage object (the token details) hold no objects.
_VALUE = re.compile(rb'"usage"\s*:\s*(\{[^{}]*(?:\{[^{}]*\}[^{}]*)*\})')
_ESCAPE = 0x5C  # a backslash


class Usage(NamedTuple):
    """What an upstream says it read and wrote."""

    input: int = 0
    output: int = 0
    cached: int = 0
    """Of the input: what came from the prefix cache."""
    reasoning: int = 0
    """Of the output: what the client is not shown."""


def find_usage(data: bytes) -> Usage | None:
    """Find the last usage object in ``data``."""
    end = len(data)
    while (start := data.rfind(_KEY, 0, end)) >= 0:
        # Inside a string of the answer the quotes are escaped.
        if start == 0 or data[start - 1] != _ESCAPE:
            found = _VALUE.match(data, start)
            if found is not None:
                try:
                    return read_usage(orjson.loads(found[1]))
                except orjson.JSONDecodeError:
                    return None
        end = start
    return None


def read_usage(usage: dict[str, Any]) -> Usage:
    """Read a usage object; what is missing or no number counts as 0.

    Chat says prompt and completion, the Responses API input and output.
    """
    get = usage.get
    if "input_tokens" in usage:
        given, made = get("input_tokens"), get("output_tokens")
        of_given, of_made = get("input_tokens_details"), get("output_tokens_details")
    else:
        given, made = get("prompt_tokens"), get("completion_tokens")
        of_given = get("prompt_tokens_details")
        of_made = get("completion_tokens_details")
    return Usage(
        _count(given),
        _count(made),
        _count(of_given.get("cached_tokens")) if isinstance(of_given, dict) else 0,
        _count(of_made.get("reasoning_tokens")) if isinstance(of_made, dict) else 0,
    )


def _count(value: object) -> int:
    return value if isinstance(value, int) and 0 < value < 2**53 else 0
