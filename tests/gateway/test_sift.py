"""What is found in a stream does not depend on how it was cut into events."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.gating import Guard
from gateway.guards import find
from gateway.sift import LAG, Sift, Span, redact
from gateway.sse import parse_event, split_events
from gateway.texts import parts_of

PII = Guard("pii", True, True, None, ("email", "card", "iban"), None, "redact", False)
SECRETS = [
    "ann@example.com",
    "4111 1111 1111 1111",
    "DE89 3704 0044 0532 0130 00",
]
words = st.sampled_from(
    ["hello ", "1234 ", "a@b ", "und ", *(s + " " for s in SECRETS)]
)


def delta(text: str, index: int = 0) -> bytes:
    choice = {"index": index, "delta": {"content": text}, "finish_reason": None}
    return b"data: " + json.dumps({"choices": [choice]}).encode() + b"\n\n"


def said(data: bytes, index: int = 0) -> str:
    text = ""
    for event in split_events(data):
        document = parse_event(event) or {}
        for choice in document.get("choices", []):
            if choice["index"] == index:
                text += choice["delta"].get("content", "")
    return text


def sift(events: list[bytes]) -> bytes:
    held, out = Sift(), b""
    for event in [*events, None]:
        if event is not None:
            held.push(event)
        texts = held.texts()
        [found] = find([PII], list(texts.values()))
        out += held.release(dict(zip(texts, found, strict=True)), last=event is None)
    return out


@given(st.lists(words, max_size=12), st.lists(st.integers(0, 250), max_size=30))
def test_a_stream_is_redacted_as_if_it_had_come_whole(
    given_: list[str], cuts: list[int]
) -> None:
    text = "".join(given_)
    marks = sorted({0, len(text), *(cut % (len(text) + 1) for cut in cuts)})
    events = [delta(text[a:b]) for a, b in itertools.pairwise(marks)]
    [[spans]] = find([PII], [text])
    assert said(sift([*events, b"data: [DONE]\n\n"])) == redact(text, spans)


def test_what_is_clean_goes_on_untouched_and_choices_are_apart() -> None:
    events = [delta("x" * 50, n % 2) for n in range(20)]
    assert sift(events) == b"".join(events)
    mixed = [delta("ann@exa"), delta("ann", 1), delta("mple.com"), delta("@x.org", 1)]
    assert said(sift(mixed)) == "[email]"
    assert said(sift(mixed), 1) == "[email]"


def test_nothing_is_given_before_enough_of_what_follows_is_known() -> None:
    held = Sift()
    held.push(delta("4111 1111"))
    held.texts()
    assert held.release({}, last=False) == b""
    held.push(delta("x" * LAG))
    held.texts()
    assert said(held.release({}, last=False)) == "4111 1111"


def test_what_is_held_stays_bounded_in_a_long_stream() -> None:
    held = Sift()
    for _ in range(500):
        held.push(delta("y" * 40))
        held.texts()
        held.release({}, last=False)
    assert sum(len(text) for text in held.texts().values()) < 4 * LAG


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("write to a.b+c@mail.example.org now", "write to [email] now"),
        ("4111-1111-1111-1111", "[card]"),
        ("4111-1111-1111-1112 has a wrong check digit", None),
        ("call (415) 555-2671 or +49 30 901820", "call [phone] or [phone]"),
        ("ssn 536-90-4399", "ssn [ssn]"),
        ("iban GB82 WEST 1234 5698 7654 32", "iban [iban]"),
        ("version 1.2.3-4 of 2026-11-23, 12345 tokens", None),
        ("naïve ünïcode ann@example.com", "naïve ünïcode [email]"),
    ],
)
def test_personal_data_is_believed_by_its_check_digits(
    text: str, found: str | None
) -> None:
    every = PII._replace(pii=("email", "phone", "card", "ssn", "iban"))
    [[spans]] = find([every], [text])
    assert redact(text, spans) == (text if found is None else found)


def test_overlapping_findings_are_said_once() -> None:
    spans = [Span(0, 4, "a"), Span(2, 6, "b"), Span(8, 9, "c")]
    assert redact("0123456789", spans) == "[a]67[c]9"


@pytest.mark.parametrize(
    ("document", "texts"),
    [
        ({"messages": [{"role": "user", "content": "a"}]}, ["a"]),
        ({"messages": [{"content": [{"type": "text", "text": "a"}, {}]}]}, ["a"]),
        (
            {"messages": [{"tool_calls": [{"function": {"arguments": "a"}}]}]},
            ["a"],
        ),
        ({"prompt": ["a", "b"]}, ["a", "b"]),
        ({"input": [{"content": [{"text": "a"}]}], "instructions": "b"}, ["a", "b"]),
        ({"choices": [{"message": {"content": "a", "refusal": "b"}}]}, ["a", "b"]),
        ({"type": "message", "content": [{"type": "text", "text": "a"}]}, ["a"]),
        ({"type": "content_block_delta", "delta": {"text": "a"}}, ["a"]),
        ({"type": "response.output_text.delta", "delta": "a"}, ["a"]),
        (
            {
                "type": "response.completed",
                "response": {"output": [{"content": [{"text": "a"}]}]},
            },
            ["a"],
        ),
        ({"choices": [None, {"delta": None}], "messages": [None, 3]}, []),
    ],
)
def test_texts_are_found_where_each_api_has_them(
    document: dict[str, Any], texts: list[str]
) -> None:
    assert [part.text for part in parts_of(document)] == texts
    for part in parts_of(document):
        part.put("z")
    assert {part.text for part in parts_of(document)} <= {"z"}
