"""What people ask of us in a comment: `/bud plan`, `apply`, `why`, `unlock` (pure)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

__all__ = ["Command", "read_command"]

Verb = Literal["plan", "apply", "why", "unlock"]
_COMMAND = re.compile(
    r"^/bud[ \t]+(plan|apply|why|unlock)(?:[ \t]+([A-Za-z0-9/-]{1,200}))?[ \t]*$"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    verb: Verb
    argument: str


def read_command(body: str) -> Command | None:
    """The first line alone counts: what is quoted or in a fence asks for nothing."""
    match = _COMMAND.match(body.replace("\r\n", "\n").partition("\n")[0])
    if match is None:
        return None
    return Command(verb=match[1], argument=match[2] or "")  # type: ignore[arg-type]
