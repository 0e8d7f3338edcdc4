"""What an upstream's connection hears does not depend on how its bytes arrive."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.answer import UpstreamHead
from gateway.attempt import Attempt
from gateway.pool import Pool
from gateway.snapshot import Address
from gateway.upstream import UpstreamConnection

ADDRESS = Address.parse("http://127.0.0.1:1")
PLAIN = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\nx: y\r\n\r\n%b"
STREAM = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"
    b"transfer-encoding: chunked\r\n\r\n"
)


class Line:
    """A transport that stays open until it is cut."""

    closing = False

    def is_closing(self) -> bool:
        return self.closing

    def abort(self) -> None:
        self.closing = True

    close = abort

    def write(self, data: bytes) -> None: ...


class Heard:
    """What a try is told: heads, the body put together, the end."""

    def __init__(self, *, raw: bool) -> None:
        self.raw = raw
        self.statuses: list[int] = []
        self.body = b""
        self.end = "open"
        self.chunks = 0
        """That were passed on as they came."""

    def answered(self, head: UpstreamHead) -> None:
        self.statuses.append(head.status)

    def passed(self, framed: bytes) -> bool:
        if not self.raw or not self.statuses:
            return False
        while framed:
            size, _, rest = framed.partition(b"\r\n")
            end = int(size, 16)
            assert size == b"%x" % end
            assert rest[end : end + 2] == b"\r\n"
            self.body += rest[:end]
            framed = rest[end + 2 :]
            self.chunks += 1
        return True

    def received(self, data: bytes) -> None:
        self.body += data

    def whole(self, head: UpstreamHead, body: bytes) -> None:
        self.answered(head)
        self.received(body)
        self.completed()

    def completed(self) -> None:
        self.end = "completed"

    def lost(self, reason: str) -> None:
        self.end = reason


def hear(answers: list[bytes], cuts: list[int], *, raw: bool) -> list[tuple[Any, ...]]:
    """Ask as often as there are answers; each comes cut where ``cuts`` say."""
    loop = asyncio.new_event_loop()
    pool = Pool(ADDRESS, loop, None, wanted=lambda _: True)
    line, told = Line(), []
    connection = UpstreamConnection(pool)
    connection.connection_made(cast("asyncio.Transport", line))
    for answer in answers:
        heard = Heard(raw=raw)
        connection.send(b"", cast("Attempt", heard))
        marks = sorted({0, len(answer), *(cut % (len(answer) + 1) for cut in cuts)})
        for a, b in itertools.pairwise(marks):
            if heard.end == "open":
                connection.data_received(answer[a:b])
        told.append((heard.statuses, heard.body, heard.end))
        if line.closing or heard.end != "completed":
            break
    loop.close()
    return told


def chunked(parts: list[bytes], form: bytes) -> bytes:
    coded = b"".join(form % len(part) + b"\r\n%b\r\n" % part for part in parts if part)
    return STREAM + coded + b"0\r\n\r\n"


events = st.lists(
    st.sampled_from(
        [
            b"data: a\n\n",
            b"data: a\n\ndata: b\n\n",
            b"data: half",
            b"\n\n",
            b"\r\n",
            b"a",
        ]
    ),
    max_size=6,
)
answers = st.one_of(
    st.binary(max_size=40).map(lambda body: PLAIN % (len(body), body)),
    st.binary(max_size=40).map(lambda body: PLAIN % (len(body) + 1, body)),
    st.builds(chunked, events, st.sampled_from([b"%x", b"%X", b"0%x", b"%x;ext=1"])),
    st.just(b"HTTP/1.1 429 No\r\ncontent-length: 2\r\nx: y\r\n\r\n{}"),
    st.just(b"HTTP/1.1 204 No\r\n\r\n"),
)
cuts = st.lists(st.integers(0, 300), max_size=8)


@given(st.lists(answers, min_size=1, max_size=4), cuts, st.booleans())
def test_answers_are_heard_the_same_however_they_are_cut(
    given_: list[bytes], at: list[int], raw: bool
) -> None:
    every = list(range(301))  # a byte at a time: only the parser ever sees them
    assert hear(given_, at, raw=raw) == hear(given_, every, raw=False)


@given(events, st.lists(st.integers(0, 300), max_size=3))
def test_whole_chunks_are_heard_as_the_parser_would_read_them(
    parts: list[bytes], at: list[int]
) -> None:
    whole = [STREAM, *(b"%x\r\n%b\r\n" % (len(p), p) for p in parts), b"0\r\n\r\n"]
    marks = list(itertools.accumulate(len(one) for one in whole))
    answer = b"".join(whole)
    expected = hear([answer], list(range(len(answer) + 1)), raw=False)
    assert hear([answer], [*marks, *at], raw=True) == expected


def test_a_size_that_lies_is_malformed_and_nothing_is_passed_on() -> None:
    lies = b"5\r\ndata: a\n\n\r\n"
    [(statuses, body, end)] = hear(
        [STREAM + b"9\r\ndata: b\n\n\r\n" + lies],
        [len(STREAM), len(STREAM) + 14],
        raw=True,
    )
    assert (statuses, end) == ([200], "malformed")
    assert b"data: a\n\n" not in body


@pytest.mark.parametrize(
    ("given_", "passed"),
    [
        (b"9\r\ndata: b\n\n\r\n", 1),
        (b"9\r\ndata: b\n\n\r\n" * 3, 3),
        (b"9\r\ndata: b\n\n\r\n09\r\ndata: c\n\n\r\n", 0),
        (b"7\r\ndata: b\r\n2\r\n\n\n\r\n", 0),
        (b"9\r\ndata: b\n\n\r\n9\r\ndata", 0),
    ],
    ids=["one", "three", "one is not canonical", "an event in two", "the last is cut"],
)
def test_only_whole_chunks_of_whole_events_pass(given_: bytes, passed: int) -> None:
    first = STREAM + b"9\r\ndata: a\n\n\r\n"
    loop = asyncio.new_event_loop()
    pool = Pool(ADDRESS, loop, None, wanted=lambda _: True)
    connection, heard = UpstreamConnection(pool), Heard(raw=True)
    connection.connection_made(cast("asyncio.Transport", Line()))
    connection.send(b"", cast("Attempt", heard))
    connection.data_received(first)
    connection.data_received(given_)
    assert passed == heard.chunks
    loop.close()
