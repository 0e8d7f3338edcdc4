"""Keeping secrets out of what is printed, logged and recorded (law 14).

Every error passes `Mask` before it reaches a ledger, a log or a person. It works
by value: what is secret is known from the environment and the credential files
that the spec refers to, whatever the name of the field it turns up in.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable
from urllib.parse import quote

__all__ = ["Mask"]

_SHORTEST = 6
"""A shorter value would mask half of every text, and is no secret."""


# What a wrapped or quoted text puts between two of a secret's characters: the end
# of a line as itself or as JSON says it, indentation, the sign of a diff.
_GAP = r"(?:\\[nrt]|[\s\\])*(?:(?<=[\nn])[+-][ \t]*)?"


class Mask:
    """Replaces each known secret, in each form it is likely to be printed, also where
    lines split it."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        self._forms: set[str] = set()
        self._pattern: re.Pattern[str] | None = None
        self.learn(*secrets)

    def learn(self, *secrets: str) -> None:
        """Mask these as well from now on."""
        for secret in secrets:
            for part in {secret, *secret.splitlines()}:
                if len(part) >= _SHORTEST:
                    self._forms |= _forms(part)
        # The longest first: one form can be a part of another.
        ordered = sorted(self._forms, key=len, reverse=True)
        if ordered:
            self._pattern = re.compile("|".join(map(_spread, ordered)))

    def __call__(self, text: str) -> str:
        return text if self._pattern is None else self._pattern.sub("[secret]", text)


def _spread(form: str) -> str:
    return _GAP.join(re.escape(character) for character in form)


def _forms(secret: str) -> set[str]:
    raw = secret.encode()
    forms = {
        secret,
        raw.hex(),
        raw.hex().upper(),
        quote(secret, safe=""),
        json.dumps(secret)[1:-1],
    }
    for before in range(3):
        # Inside of a longer text, such as user:password, it begins at any of three
        # places of a group; the characters it shares with its neighbours are left.
        coded = base64.b64encode(bytes(before) + raw).decode().rstrip("=")
        first, last = (0, 2, 3)[before], (len(raw) + before) % 3
        core = coded[first : len(coded) - (1 if last else 0)]
        if len(core) >= _SHORTEST:
            forms |= {core, core.translate(_URL_SAFE)}
    return forms


_URL_SAFE = str.maketrans("+/", "-_")
