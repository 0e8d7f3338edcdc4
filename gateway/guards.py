"""Guardrails: what is looked for in a text, and what becomes of it.

The patterns of a route are RE2's, which takes linear time whatever the text;
personal data is found by a pattern and believed only if its check digits or its
numbering plan agree (python-stdnum, phonenumbers). Runs in a process of its own
(`inspector`), because a long text takes long; pure.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import phonenumbers
import re2
from stdnum import iban, luhn
from stdnum.us import ssn

from gateway.gating import Guard
from gateway.sift import Span

__all__ = ["find"]

_REGION = "US"
"""Whose way to write a number without ``+`` is understood."""
_MEMORY = 64 << 20
"""Bytes that one compiled pattern may take; a larger one is refused."""


@functools.lru_cache(maxsize=1024)
def compiled(pattern: str) -> Any:
    options = re2.Options()
    options.max_mem = _MEMORY
    options.log_errors = False
    return re2.compile(pattern, options)


def find(guards: Sequence[Guard], texts: Sequence[str]) -> list[list[list[Span]]]:
    """Look for what each guard looks for in each text."""
    return [[list(_find(guard, text)) for text in texts] for guard in guards]


def _find(guard: Guard, text: str) -> Iterator[Span]:
    if guard.regex is not None:
        for found in compiled(guard.regex).finditer(text):
            if found.end() > found.start():
                yield Span(found.start(), found.end(), guard.name)
    for kind in guard.pii:
        yield from _PII[kind](text)


def _by_pattern(
    kind: str, pattern: str, believe: Callable[[str], bool]
) -> Callable[[str], Iterator[Span]]:
    def found(text: str) -> Iterator[Span]:
        for match in compiled(pattern).finditer(text):
            if believe(match.group()):
                yield Span(match.start(), match.end(), kind)

    return found


def _phones(text: str) -> Iterator[Span]:
    for match in phonenumbers.PhoneNumberMatcher(text, _REGION):
        yield Span(match.start, match.end, "phone")


_PII: dict[str, Callable[[str], Iterator[Span]]] = {
    "email": _by_pattern(
        "email",
        # RFC 5321: 64 characters before the @, 255 behind it.
        r"\b[A-Za-z0-9._%+'-]{1,64}@(?:[A-Za-z0-9-]{1,63}\.){1,8}[A-Za-z]{2,63}\b",
        lambda _: True,
    ),
    "phone": _phones,
    # ISO/IEC 7812: up to 19 digits, the last one a check digit.
    "card": _by_pattern(
        "card",
        r"\b(?:[0-9][ -]?){11,18}[0-9]\b",
        lambda text: bool(luhn.is_valid(text.replace(" ", "").replace("-", ""))),
    ),
    "ssn": _by_pattern(
        "ssn", r"\b[0-9]{3}-[0-9]{2}-[0-9]{4}\b", lambda text: bool(ssn.is_valid(text))
    ),
    "iban": _by_pattern(
        "iban",
        r"\b[A-Z]{2}[0-9]{2}(?: ?[A-Z0-9]){11,30}\b",
        lambda text: bool(iban.is_valid(text)),
    ),
}
