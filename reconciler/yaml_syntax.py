"""What is no YAML at all: where it stops being that, and the way out.

``yaml_reader`` calls it before it reads and when libyaml gives up. Pure.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from yaml import MarkedYAMLError, YAMLError
from yaml.reader import ReaderError

from reconciler.values import Position

__all__ = ["Refusal", "check_bytes", "explain", "position_of"]

_BOM = b"\xef\xbb\xbf"


class Refusal(NamedTuple):
    reason: str
    hint: str = ""
    position: Position = (0, 0)


def check_bytes(data: bytes, most: int) -> Refusal | None:
    """Why bytes are not to be read as YAML, before any of it is."""
    if len(data) > most:
        return Refusal(
            f"more than {most:,} bytes",
            "one object a file; data of this size belongs elsewhere",
        )
    if data.startswith(_BOM):
        return Refusal(
            "it starts with a byte order mark", "save it as UTF-8 without BOM"
        )
    try:
        data.decode()
    except UnicodeDecodeError as error:
        byte = f"byte {error.start} (0x{data[error.start]:02x})"
        return Refusal(
            f"{byte} is not UTF-8", "save it as UTF-8", _place(data, error.start)
        )
    return None


def explain(error: YAMLError, data: bytes) -> Refusal:
    """Libyaml's error in our words; its own where they say enough."""
    if isinstance(error, ReaderError):
        reason = f"the character {error.character:#06x} is no part of YAML"
        return Refusal(reason, "", _place(data, error.position))
    if not isinstance(error, MarkedYAMLError) or error.problem_mark is None:
        return Refusal(str(error))
    found = data.decode()[error.problem_mark.index :][:1]
    place, hint = position_of(error.problem_mark), ""
    reason = error.problem or "it is no YAML"
    if "mapping values" in reason:
        reason = "a ':' where no field can begin"
        hint = "check the indentation, and quote text that contains ': '"
    elif found == "\t":
        reason, hint = "a tab where YAML takes only spaces", "indent with spaces"
    elif "cannot start any token" in reason:
        reason, hint = f"a value cannot begin with {found}", "quote it"
    elif "end of stream" in reason and "quoted" in str(error.context):
        reason = "the quote that opens here is never closed"
        place = position_of(error.context_mark)
    return Refusal(reason, hint, place)


def position_of(mark: Any) -> Position:
    return mark.line + 1, mark.column + 1


def _place(data: bytes, offset: int) -> Position:
    """Line and column of a byte, in characters as everywhere."""
    above = data[:offset]
    line = above[above.rfind(b"\n") + 1 :]
    return above.count(b"\n") + 1, len(line.decode(errors="replace")) + 1
