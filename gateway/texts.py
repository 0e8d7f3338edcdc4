"""Where people's words are: in requests, in answers and in the events of a stream.

Knows the shapes of OpenAI's and Anthropic's APIs, as clients of the gateway see
them. Used by the guardrails and the semantic cache; pure.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple, TypeAlias

__all__ = ["Channel", "Part", "parts_of"]

Channel: TypeAlias = tuple[int, str] | None
"""Pieces of one text that come in many events share one; None: a text of its own."""

_FIELDS = (
    "messages",
    "input",
    "output",
    "content",
    "prompt",
    "instructions",
    "system",
)
_WORDS = ("content", "text", "reasoning_content", "reasoning", "refusal", "thinking")
_GROWING = (*_WORDS, "partial_json")


class Part(NamedTuple):
    """One text, where it stands."""

    holder: Any
    """The object or list that it is in."""
    name: str | int
    channel: Channel

    @property
    def text(self) -> str:
        text: str = self.holder[self.name]
        return text

    def put(self, text: str) -> None:
        self.holder[self.name] = text


def parts_of(document: dict[str, Any]) -> Iterator[Part]:
    """Find every text of a request, an answer or an event."""
    for field in _FIELDS:
        if field in document:
            yield from _texts(document, field)
    for index, choice in enumerate(_objects(document.get("choices"))):
        place = choice.get("index", index)
        yield from _named(choice, ("text",), (place, "text"))
        yield from _named(choice.get("message"), _WORDS, None)
        yield from _calls(choice.get("message"), None)
        yield from _growing(choice.get("delta"), place)
    delta, place = document.get("delta"), document.get("index", 0)
    if isinstance(delta, str):
        yield Part(document, "delta", (document.get("output_index", 0), "delta"))
    else:
        yield from _growing(delta, place)
    if isinstance(document.get("type"), str):  # an event that says all of it again
        yield from _named(document, ("text", "arguments"), None)
        for whole in (document.get("item"), document.get("part")):
            if isinstance(whole, dict):
                yield from _item(whole)
        response = document.get("response")
        if isinstance(response, dict):
            yield from _texts(response, "output")


def _texts(holder: dict[str, Any], field: str) -> Iterator[Part]:
    """Find the texts of a field that is a text, a list of them, or of objects."""
    value = holder[field]
    if isinstance(value, str):
        yield Part(holder, field, None)
    for index, item in enumerate(value if isinstance(value, list) else ()):
        if isinstance(item, str):
            yield Part(value, index, None)
        elif isinstance(item, dict):
            yield from _item(item)


def _item(item: dict[str, Any]) -> Iterator[Part]:
    yield from _named(item, ("text", "thinking", "arguments", "output"), None)
    yield from _calls(item, None)
    if "content" in item:
        yield from _texts(item, "content")


def _growing(delta: object, place: int) -> Iterator[Part]:
    for name in _GROWING:
        yield from _named(delta, (name,), (place, name))
    for call in _objects(_get(delta, "tool_calls")):
        channel = place, f"call {call.get('index', 0)}"
        yield from _named(call.get("function"), ("arguments",), channel)


def _calls(message: object, channel: Channel) -> Iterator[Part]:
    for call in _objects(_get(message, "tool_calls")):
        yield from _named(call.get("function"), ("arguments",), channel)


def _named(holder: object, names: tuple[str, ...], channel: Channel) -> Iterator[Part]:
    for name in names:
        if isinstance(holder, dict) and isinstance(holder.get(name), str):
            yield Part(holder, name, channel)


def _get(holder: object, name: str) -> object:
    return holder.get(name) if isinstance(holder, dict) else None


def _objects(value: object) -> list[dict[str, Any]]:
    items = value if isinstance(value, list) else []
    return [item for item in items if isinstance(item, dict)]
