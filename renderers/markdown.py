"""Pieces of Markdown that nothing from outside breaks out of (pure).

The plan comment is made of them. Text from content goes through `safe`, or through
`escaped` where HTML is written.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

__all__ = ["UNSEEN", "bullets", "escaped", "folded", "money", "number", "safe", "size"]

_LONGEST = 300
"""Characters of one text from outside; the document has all of it."""
# Controls, and characters that turn the direction of text or cannot be seen.
UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u061c\u180e\u200b-\u200f\u2028-\u202e"
    "\u2060-\u206f\ufeff\ufff9-\ufffb\U000e0000-\U000e007f]"
)


def safe(text: str) -> str:
    """Text from outside as inline code: it mentions nobody and ends nothing."""
    short = (
        text if len(text) <= _LONGEST else text[:_LONGEST] + "\N{HORIZONTAL ELLIPSIS}"
    )
    seen = UNSEEN.sub(lambda m: f"U+{ord(m[0]):04X}", " ".join(short.split()))
    return f"`{seen.replace('`', chr(39)).replace('|', chr(0x2502)) or ' '}`"


def size(lines: Iterable[str]) -> int:
    """Characters of lines, each with its end."""
    return sum(len(line) + 1 for line in lines)


def number(value: float | None) -> str:
    """Three digits and a unit, as far as anybody knows them."""
    if value is None:
        return "?"
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= limit:
            scale = 1e3 if unit == "k" else limit
            return f"{value / scale:.1f}{unit}"
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"  # noqa: PLR2004


def money(low: float | None, high: float | None) -> str:
    """USD, as a range where it is one; never 0 for what nobody knows."""
    if low is None or high is None:
        return "unknown"
    return number(low) if low == high else f"{number(low)}-{number(high)}"


def bullets(title: str, items: Iterable[str]) -> list[str]:
    """A list under its title; nothing for an empty one."""
    lines = [f"- {item}" for item in items]
    return [f"**{title}**", "", *lines, ""] if lines else []


def folded(title: str, lines: list[str]) -> list[str]:
    """Lines behind their title; nothing for none."""
    if not lines:
        return []
    return [
        f"<details><summary>{escaped(title)}</summary>",
        "",
        *lines,
        "",
        "</details>",
        "",
    ]


def escaped(text: str) -> str:
    """Text from outside inside of HTML."""
    plain = UNSEEN.sub("?", text).replace("&", "&amp;").replace("<", "&lt;")
    # A mention needs its sign to stand before the name.
    return plain.replace("@", "&#64;").replace("`", "'")
