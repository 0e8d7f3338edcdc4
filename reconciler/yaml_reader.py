"""Read one YAML file: bytes in, plain data and the place of every field out.

The rule it guards: a file says one thing to everyone. What YAML 1.1 and 1.2 read
differently (``no``, ``010``, ``12:30:45``) is refused with the way to write it,
everything else is read by the 1.2 core schema, and a key is always text. A file
cannot cost more than its budget: libyaml delivers events one by one, so a bomb
is met at its first node too many, before anything is built of it.

``load`` calls it for every file. Pure; it knows nothing of kinds or folders.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Never

from yaml import CSafeLoader, YAMLError
from yaml.events import (
    AliasEvent,
    DocumentStartEvent,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
    StreamEndEvent,
)

from reconciler.values import Position
from reconciler.yaml_scalars import Ambiguous, resolve
from reconciler.yaml_syntax import Refusal, check_bytes, explain, position_of
from schemas.errors import Problem, SpecError

__all__ = ["OBJECT", "Budget", "Places", "child", "read_yaml"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """What one file may cost. The largest Helm values in public charts have about
    4,000 nodes and 12 levels."""

    bytes: int = 1 << 20
    depth: int = 32
    nodes: int = 20_000
    path: int = 1_000
    """Characters in a field's path: long keys times many children is a bomb too."""


OBJECT = Budget()

# Only a scalar that begins like this can be anything but text.
_FIRST = frozenset("0123456789+-.~tTfFnNyYoO")
# Escapes can spell what a reviewer cannot see: terminal control sequences, and the
# bidirectional overrides that reorder a line on screen (CVE-2021-42574).
_INVISIBLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]"
)


def read_yaml(
    data: bytes, file: str, budget: Budget = OBJECT
) -> tuple[dict[str, Any], Places]:
    """Read one document, whose root is a mapping.

    Raises:
        SpecError: everything in it that has no one meaning, or the first thing
            that stops the reading.
    """
    composer = _Composer(data, file, budget)
    content = composer.document()
    return content, Places(data, file, budget)


def child(path: str, key: str) -> str:
    """The path of a field below ``path``; a key that is no plain word is quoted."""
    step = _step(key)
    return path + step if path else step.removeprefix(".")


@lru_cache(4096)  # the same few hundred names make up every file
def _step(key: str) -> str:
    plain = key.isascii() and key.replace("-", "_").isidentifier()
    return f".{key}" if plain else f"[{json.dumps(key)}]"


class Places(Mapping[str, Position]):
    """Field path -> line and column, found by reading the bytes again when asked.

    Places matter only to a problem, and 10,000 files have a million of them.
    """

    __slots__ = ("_budget", "_data", "_file", "_found", "_plain")

    def __init__(self, data: bytes, file: str, budget: Budget) -> None:
        self._data, self._file, self._budget = data, file, budget
        self._found: dict[str, Position] | None = None
        self._plain: dict[str, str] = {}

    def __getitem__(self, path: str) -> Position:
        return self._read()[path]

    def __iter__(self) -> Iterator[str]:
        return iter(self._read())

    def __len__(self) -> int:
        return len(self._read())

    def plain(self, path: str) -> str | None:
        """How a scalar that is not text was written (``1.30`` is the number 1.3)."""
        self._read()
        return self._plain.get(path)

    def _read(self) -> dict[str, Position]:
        if self._found is None:
            composer = _Composer(self._data, self._file, self._budget)
            composer.document()
            self._found = {at: position_of(m) for at, m in composer.marks.items()}
            self._plain = composer.plain
        return self._found


@dataclass(frozen=True, slots=True)
class _Anchor:
    value: Any
    nodes: int
    height: int


class _Composer:
    """One pass over the events of one file."""

    __slots__ = (
        "_anchors", "_budget", "_data", "_deepest", "_file", "_next", "_nodes",
        "_problems", "marks", "plain",
    )  # fmt: skip

    def __init__(self, data: bytes, file: str, budget: Budget) -> None:
        self._data, self._file, self._budget = data, file, budget
        self._problems: list[Problem] = []
        self._anchors: dict[str, _Anchor | None] = {}
        self._nodes = self._deepest = 0
        self.marks: dict[str, Any] = {}
        self.plain: dict[str, str] = {}

    def document(self) -> dict[str, Any]:
        refusal = check_bytes(self._data, self._budget.bytes)
        if refusal is not None:
            self._stop(refusal)
        try:
            self._next = CSafeLoader(self._data).get_event
            root = self._only_document()
        except YAMLError as error:
            self._stop(explain(error, self._data))
        if not isinstance(root, dict):
            noun = "nothing" if root is None else f"a {_noun(root)}"
            self._problem(f"cannot read the file: it holds {noun}, not fields", "")
        if self._problems:
            raise SpecError(self._problems)
        assert isinstance(root, dict), "anything else is a problem"
        return root

    def _only_document(self) -> Any:
        self._next()
        start = self._next()
        if not isinstance(start, DocumentStartEvent):
            self._stop(Refusal("it is empty"))
        if start.version or start.tags:
            hint = "remove it: every file is read by the same rules"
            at = position_of(start.start_mark)
            self._stop(Refusal("it has a % directive", hint, at))
        root = self._node(self._next(), "", 0)
        self._next()
        after: Any = self._next()
        if not isinstance(after, StreamEndEvent):
            hint = "one object a file: move it into a file of its own"
            at = position_of(after.start_mark)
            self._stop(Refusal("it holds a second document", hint, at))
        return root

    def _node(self, event: Any, path: str, depth: int) -> Any:
        self.marks[path] = event.start_mark
        self._spend(1, depth, path)
        kind = type(event)
        if kind is AliasEvent:
            return self._alias(event.anchor, path, depth)
        if event.tag is not None:
            tag = event.tag.replace("tag:yaml.org,2002:", "!!")[:60]
            self._problem(
                f"cannot use the tag {tag}: no tag means anything here",
                path,
                "remove it; quote a value that is meant as text",
            )
        if event.anchor is None:
            return self._value(kind, event, path, depth)
        self._anchors[event.anchor] = None
        nodes, outer, self._deepest = self._nodes, self._deepest, depth
        value = self._value(kind, event, path, depth)
        self._anchors[event.anchor] = _Anchor(
            value, self._nodes - nodes + 1, self._deepest - depth
        )
        self._deepest = max(outer, self._deepest)
        return value

    def _value(self, kind: type, event: Any, path: str, depth: int) -> Any:
        if kind is ScalarEvent:
            value: str = event.value
            if not value.isprintable() and _INVISIBLE.search(value):
                self._problem("cannot use a control character", path)
            if event.implicit[0] and (not value or value[0] in _FIRST):
                return self._scalar(value, path)
            return value
        if kind is MappingStartEvent:
            return self._mapping(path, depth + 1)
        assert kind is SequenceStartEvent, "libyaml has four kinds of node"
        items: list[Any] = []
        while type(item := self._next()) is not SequenceEndEvent:
            items.append(self._node(item, f"{path}[{len(items)}]", depth + 1))
        return items

    def _mapping(self, path: str, depth: int) -> dict[str, Any]:
        fields: dict[str, Any] = {}
        event: Any
        while type(event := self._next()) is not MappingEndEvent:
            mark = event.start_mark
            if type(event) is not ScalarEvent:
                self._stop(Refusal("a key is not text", "", position_of(mark)))
            key: str = event.value
            inner = child(path, key)
            if len(inner) > self._budget.path:
                reason = f"the path of a field is longer than {self._budget.path:,}"
                self._stop(Refusal(reason, "", position_of(mark)))
            if key in fields or key in ("", "<<") or not key.isprintable():
                self._refuse_key(key, fields, inner, position_of(mark))
            self.marks[f"{inner}#key"] = mark
            fields[key] = self._node(self._next(), inner, depth)
        return fields

    def _refuse_key(
        self, key: str, fields: dict[str, Any], path: str, position: Position
    ) -> None:
        message, hint = "cannot use a control character in a key", ""
        if key in fields:
            first = self.marks[f"{path}#key"].line + 1
            message = f"cannot set it twice: first set in line {first}"
            hint = "keep one of the two"
        elif key == "<<":
            message = "cannot merge keys with <<"
            hint = "write the fields out, or repeat a whole value with an alias"
        elif not key:
            message = "cannot use an empty key"
        self._problems.append(_problem(self._file, position, path, message, hint))

    def _alias(self, name: str, path: str, depth: int) -> Any:
        anchor = self._anchors.get(name)
        if anchor is None:
            found = "it contains itself" if name in self._anchors else "nothing has it"
            self._problem(f"cannot use the alias *{name[:60]}: {found}", path)
            return None
        self._spend(anchor.nodes, depth + anchor.height, path)
        return anchor.value

    def _spend(self, nodes: int, depth: int, path: str) -> None:
        self._nodes += nodes
        self._deepest = max(self._deepest, depth)
        if self._nodes <= self._budget.nodes and depth <= self._budget.depth:
            return
        limit = f"{self._budget.depth} levels deep"
        if self._nodes > self._budget.nodes:
            limit = f"{self._budget.nodes:,} values, aliases expanded"
        self._stop(Refusal(f"more than {limit}", "", position_of(self.marks[path])))

    def _scalar(self, text: str, path: str) -> Any:
        value = resolve(text)
        if isinstance(value, Ambiguous):
            self._problem(value.message, path, value.hint)
        elif value is not text and value is not None:
            self.plain[path] = text
        return value

    def _problem(self, message: str, path: str, hint: str = "") -> None:
        place = position_of(self.marks[path]) if path in self.marks else (0, 0)
        self._problems.append(_problem(self._file, place, path, message, hint))

    def _stop(self, refusal: Refusal) -> Never:
        """Read no further; what was found before is told too."""
        message = f"cannot read the file: {refusal.reason}"
        problem = _problem(self._file, refusal.position, "", message, refusal.hint)
        raise SpecError([*self._problems, problem]) from None


def _problem(
    file: str, position: Position, field: str, message: str, hint: str
) -> Problem:
    line, column = position
    return Problem(
        file=file, line=line, column=column, field=field, message=message, hint=hint
    )


def _noun(value: object) -> str:
    return "list" if isinstance(value, list) else "single value"
