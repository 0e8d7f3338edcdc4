"""An object as it was written: its file, and the overlay that changes it.

Whoever finds something wrong with an object asks this for the Problem, so that
each lands on the line that someone has to mend. Pure.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from reconciler.values import Document
from reconciler.yaml_reader import Places
from schemas.errors import Problem

__all__ = ["Written", "did_you_mean"]


# No name is longer, and comparing what is costs the square of its length.
_LONGEST = 200
# One step of a field path, as ``yaml_reader.child`` writes it.
_STEP = re.compile(r'\.?([^.\["\]]+)|\[("(?:[^"\\]|\\.)*")\]|\[(\d+)\]')


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    base: Document
    overlay: Document | None = None

    @property
    def file(self) -> str:
        return self.base.file

    def problem(
        self, path: str, message: str, hint: str = "", *, key: bool = False
    ) -> Problem:
        """A problem at a field; one that is not written lies at its nearest parent.

        ``key``: the name of the field is wrong, not its value.
        """
        document = self._author(path)
        place = _nearest_place(document, path)
        if key:
            place = document.places.get(f"{path}#key", place)
        return Problem(
            file=document.file,
            line=place[0],
            column=place[1],
            field=path,
            message=message,
            hint=hint,
        )

    def as_written(self, path: str) -> str | None:
        """The text of a scalar that is not text (``1.30``), None for any other."""
        places = self._author(path).places
        return places.plain(path) if isinstance(places, Places) else None

    def _author(self, path: str) -> Document:
        """Whose line it is: the overlay's where it says anything of this field or
        replaces a parent of it as a whole, else the base's."""
        if self.overlay is None:
            return self.base
        parent = _known_parent(self.overlay.places, path)
        if parent == path or not _holds_fields(self.overlay.content, parent):
            return self.overlay
        in_base = len(_known_parent(self.base.places, path)) > len(parent)
        return self.base if in_base else self.overlay


def did_you_mean(name: str, known: Iterable[str], *, otherwise: str = "") -> str:
    """A hint with the nearest known name, or ``otherwise`` where none is near."""
    if len(name) > _LONGEST:
        return otherwise
    names = {k.casefold(): k for k in known}
    near = difflib.get_close_matches(name.casefold(), names, n=1, cutoff=0.7)
    return f"did you mean {names[near[0]]}?" if near else otherwise


def _nearest_place(document: Document, path: str) -> tuple[int, int]:
    return document.places.get(_known_parent(document.places, path), (0, 0))


def _known_parent(places: Mapping[str, Any], path: str) -> str:
    while path and path not in places:
        path = path[: [step.start() for step in _STEP.finditer(path)][-1]]
    return path


def _holds_fields(content: Any, path: str) -> bool:
    """True where the value at a path of the content is a mapping."""
    for step in _STEP.finditer(path):
        word, quoted, index = step.groups()
        content = content[int(index) if index else word or json.loads(quoted)]
    return isinstance(content, dict)
