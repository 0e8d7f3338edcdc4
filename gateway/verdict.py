"""What a whole answer says about its upstream, and whether to ask another (pure).

Called by a try before anything of its answer has reached the client.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

__all__ = ["Verdict", "verdict_of"]

_OK, _BAD_REQUEST, _TOO_MANY = 200, 400, 429
_JSON = b"application/json"
_OVERFLOW = (b"context_length_exceeded", b"maximum context length")
# Statuses that say nothing about the request: another try may go through.
_RETRY = frozenset({408, _TOO_MANY, 500, 502, 503, 504, 529})
# Ours or that upstream's fault, never the client's, whose key we have checked.
_REFUSED_US = frozenset({401, 403, 404})
# Not those of an address that is ill: too much asked of it, or not for it.
_SAYS_NOTHING = _REFUSED_US | {_TOO_MANY}


class Verdict(NamedTuple):
    """Why another upstream may do better."""

    shown: bool
    """The client may have this answer when there is no other."""
    sound: bool | None
    """What it says of the address; None: nothing."""
    rest_s: int
    """How long the address asked to be left alone."""


def verdict_of(
    status: int, fields: Mapping[bytes, bytes], body: bytes
) -> Verdict | None:
    """Judge a whole answer; None: it is the client's."""
    if status == _OK:
        plain = b"content-encoding" not in fields
        json = plain and fields.get(b"content-type", b"").startswith(_JSON)
        # Its length was announced too short: what is missing comes too late.
        cut = json and body.rstrip()[-1:] not in b"}]"
        return Verdict(shown=False, sound=False, rest_s=0) if cut else None
    overflow = status == _BAD_REQUEST and any(mark in body for mark in _OVERFLOW)
    if not overflow and status not in _RETRY and status not in _REFUSED_US:
        return None
    asked = fields.get(b"retry-after", b"") if status == _TOO_MANY else b""
    return Verdict(
        # A refusal of our credential must not look like one of the client's.
        shown=status not in {401, 403},
        sound=None if overflow or status in _SAYS_NOTHING else False,
        rest_s=int(asked[:9]) if asked.isdigit() else 0,
    )
