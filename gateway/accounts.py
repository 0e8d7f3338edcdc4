"""What a request is estimated to cost, what it did cost, and the record of it.

Pure: values in, a line of JSON out. The worker reserves and records with it,
the supervisor reads the lines back.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import orjson

from gateway.limits import Amounts
from gateway.usage import Usage

__all__ = [
    "Price",
    "amounts",
    "charge",
    "estimate_input",
    "record_line",
    "reserve",
]

_BYTES_PER_TOKEN = 4
"""English text in common vocabularies; JSON around it makes this an estimate
that is rather too high, and what is reserved too much is given back."""
_DEFAULT_OUTPUT = 512
"""Reserved for an answer whose request names no limit."""
_MILLION = 1_000_000


class Price(NamedTuple):
    """Nano-dollars for a million tokens."""

    input: int
    output: int
    cached: int


def estimate_input(body: bytes) -> int:
    return len(body) // _BYTES_PER_TOKEN + 1


def reserve(document: dict[str, Any], body: bytes, price: Price) -> Amounts:
    """Estimate what a request may use at most."""
    given = document.get("max_completion_tokens") or document.get("max_tokens")
    output = given if isinstance(given, int) and given > 0 else _DEFAULT_OUTPUT
    count = document.get("n")
    if isinstance(count, int) and count > 1:
        output *= count
    given_tokens = estimate_input(body)
    cost = given_tokens * price.input + output * price.output
    return amounts(given_tokens + output, -(-cost // _MILLION), running=1)


def amounts(tokens: int, cost: int, *, running: int) -> Amounts:
    """Say what a request takes of each kind of limit; ``cost`` in nano-dollars."""
    return {"requests": 1, "tokens": tokens, "concurrent": running, "budget": cost}


def charge(usage: Usage, price: Price) -> int:
    """Compute nano-dollars, rounded up."""
    given, made, cached, _ = usage
    cached = min(cached, given)
    total = (given - cached) * price.input + cached * price.cached + made * price.output
    return -(-total // _MILLION)


def record_line(record: dict[str, Any]) -> bytes:
    return orjson.dumps(record) + b"\n"
