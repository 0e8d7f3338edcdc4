"""What an unquoted YAML scalar means, and which have no one meaning.

Scalars are read by the YAML 1.2 core schema. One that a YAML 1.1 reader (most
tools around a cluster are one) would read as something else is ``Ambiguous``:
whoever wrote it meant one of two things, and only they know which. Dates stay
text, because both readings name the same day. ``yaml_reader`` calls this. Pure.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

__all__ = ["Ambiguous", "resolve"]


@dataclass(frozen=True, slots=True)
class Ambiguous:
    message: str
    hint: str


_PLAIN = re.compile(
    r"""
      (?P<null>|~|null|Null|NULL)
    | (?P<true>true|True|TRUE)
    | (?P<false>false|False|FALSE)
    | (?P<word>yes|Yes|YES|no|No|NO|on|On|ON|off|Off|OFF)
    | (?P<zero>[-+]?0[0-9]+)
    | (?P<int>[-+]?[0-9]+|0x[0-9a-fA-F]+)
    | (?P<float>(?:[-+]?[0-9]+\.[0-9]*|\.[0-9]+)(?:[eE][-+][0-9]+)?)
    | (?P<new>0o[0-7]+|[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?)
    | (?P<base60>[-+]?[1-9][0-9_]*(?::[0-5]?[0-9])+(?:\.[0-9_]*)?)
    | (?P<grouped>[-+]?(?:0b[01_]+|0x[0-9a-fA-F_]+|[0-9][0-9_]*(?:\.[0-9_]*)?))
    | (?P<unbounded>[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))
    """,
    re.VERBOSE,
).fullmatch
_SIGNED_64 = range(-(2**63), 2**63)
# Longer than any number of 64 bits; int() of very many digits refuses to try.
_LONGEST = 40
_SHOWN = 40


def resolve(text: str) -> object:
    """Read one plain scalar: None, bool, int, float, str, or ``Ambiguous``."""
    match = _PLAIN(text)
    value: object = text
    if match is not None:
        kind = match.lastgroup
        if kind == "null":
            value = None
        elif kind in ("true", "false"):
            value = kind == "true"
        elif kind == "int":
            value = _integer(text)
        elif kind == "float" and math.isfinite(number := float(text)):
            value = number
        else:
            value = _ambiguous(kind or "", text)
    return value


def _integer(text: str) -> int | Ambiguous:
    if len(text) <= _LONGEST:
        number = int(text, 16 if text.startswith("0x") else 10)
        if number in _SIGNED_64:
            return number
    return _ambiguous("int", text)


def _ambiguous(kind: str, text: str) -> Ambiguous:
    shown = text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
    quoted = f'quote it if it is text: "{shown}"'
    reason, hint = {
        "word": (
            "YAML 1.1 takes it for a boolean, YAML 1.2 for text",
            f'write true or false, or quote it: "{shown}"',
        ),
        "zero": (
            "YAML 1.1 takes a leading zero for base 8, YAML 1.2 for base 10",
            f"drop the zero, or {quoted}",
        ),
        "base60": ("YAML 1.1 takes it for a number of base 60", quoted),
        "grouped": (
            "YAML 1.1 takes it for a number, YAML 1.2 for text",
            f"write the number in plain digits, or {quoted}",
        ),
        "new": (
            "YAML 1.1 takes it for text, YAML 1.2 for a number",
            (
                "write the number in plain digits, or with a point and a sign such as "
                f"1.0e+3, or {quoted}"
            ),
        ),
        "int": ("it does not fit into 64 bits", quoted),
        "float": ("it is no finite number", quoted),
        "unbounded": ("it is no finite number", quoted),
    }[kind]
    return Ambiguous(f"cannot read {shown}: {reason}", hint)
