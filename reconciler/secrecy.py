"""Keeping secrets out of what is printed, logged and recorded (law 14).

Every error passes `Mask` before it reaches a ledger, a log or a person. It works
by value: what is secret is known from the environment and the credential files
that the spec refers to, whatever the name of the field it turns up in.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable
from urllib.parse import quote

__all__ = ["Mask"]

_SHORTEST = 6
"""A shorter value would mask half of every text, and is no secret."""


class Mask:
    """Replaces each known secret, in each form it is likely to be printed."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        forms: set[str] = set()
        for secret in secrets:
            if len(secret) >= _SHORTEST:
                forms |= _forms(secret)
        # The longest first: one form can be a part of another.
        self._forms = sorted(forms, key=len, reverse=True)

    def __call__(self, text: str) -> str:
        for form in self._forms:
            text = text.replace(form, "[secret]")
        return text


def _forms(secret: str) -> set[str]:
    raw = secret.encode()
    return {
        secret,
        base64.b64encode(raw).decode(),
        base64.urlsafe_b64encode(raw).decode().rstrip("="),
        raw.hex(),
        quote(secret, safe=""),
        json.dumps(secret)[1:-1],
    }
