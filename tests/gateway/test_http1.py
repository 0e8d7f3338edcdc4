"""The request reader over any bytes, cut anywhere: one outcome, and no crash."""

from __future__ import annotations

import itertools
from http import HTTPStatus
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.http1 import Refused, RequestReader, chunk, response_head

LIMITS = {"max_head": 2048, "max_body": 4096}
cuts = st.lists(st.integers(0, 4000), max_size=6)
name = st.sampled_from(
    ["Host", "Content-Length", "Transfer-Encoding", "Connection", "X-A", "Expect", "te"]
)
value = st.sampled_from(
    ["a", "3", "0", "chunked", "close", " 3", "3 ", "", "3, 3", "\t", "identity", "é"]
)
field = st.tuples(name, st.sampled_from([":", ": ", " :", ""]), value)
line_end = st.sampled_from(["\r\n", "\r\n", "\r\n", "\r\n", "\n", "\r", "\r\n "])
requests = st.builds(
    lambda first, fields, ends, body: (
        first + ends + "".join("".join(item) + ends for item in fields) + "\r\n" + body
    ).encode("latin-1"),
    st.sampled_from(
        ["GET / HTTP/1.1", "POST /a HTTP/1.1", "POST /a HTTP/1.0", "GET  / HTTP/1.1"]
    ),
    st.lists(field, max_size=5),
    line_end,
    st.sampled_from(
        ["", "abc", "3\r\nabc\r\n0\r\n\r\n", "3;x\r\nabc\r\n0\r\nT: 1\r\n\r\n"]
    ),
)


def read_all(parts: list[bytes]) -> tuple[list[tuple[Any, ...]], HTTPStatus | None]:
    """Read every request of a connection; the last word is a refusal or None."""
    reader = RequestReader(**LIMITS)
    got: list[tuple[Any, ...]] = []
    for part in parts:
        body = reader.again(part)
        if body is not None:
            assert reader._known is not None
            got.append((*reader._known, body))
            continue
        reader.push(part)
        while True:
            try:
                if reader.head is None and not reader.read_head():
                    break
                if not reader.read_body():
                    break
            except Refused as refused:
                return got, refused.status
            assert reader.head is not None
            got.append((*reader.head, reader.body()))
            reader.next()
    return got, None


def pieces(data: bytes, at: list[int]) -> list[bytes]:
    marks = sorted({0, len(data), *(cut % (len(data) + 1) for cut in at)})
    return [data[a:b] for a, b in itertools.pairwise(marks)]


@settings(max_examples=400)
@given(st.lists(requests, min_size=1, max_size=3), cuts)
def test_what_is_read_does_not_depend_on_where_it_was_cut(
    given_: list[bytes], at: list[int]
) -> None:
    data = b"".join(given_)
    whole, cut = read_all([data]), read_all(pieces(data, at))
    # Only how early a refusal comes may differ, never what was read before it.
    assert whole[0] == cut[0]
    assert (whole[1] is None) == (cut[1] is None)


@settings(max_examples=400)
@given(st.binary(max_size=600), cuts)
def test_no_bytes_do_more_than_be_refused(data: bytes, at: list[int]) -> None:
    read_all(pieces(data, at))


@given(st.binary(max_size=4000), st.lists(st.integers(1, 500), max_size=8), cuts)
def test_a_chunked_body_is_what_its_chunks_hold(
    body: bytes, sizes: list[int], at: list[int]
) -> None:
    marks = [0, *itertools.accumulate(sizes), len(body)]
    parts = [body[a:b] for a, b in itertools.pairwise(marks) if body[a:b]]
    framed = b"".join(chunk(part) for part in parts) + b"0\r\n\r\n"
    expected = b"".join(parts)
    head = b"POST /a HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
    [request], refused = read_all(pieces(head + framed, at))
    assert refused is None
    assert isinstance(request, tuple)
    assert request[-1] == expected


@pytest.mark.parametrize(
    ("options", "head"),
    [
        ({"length": 3}, b"HTTP/1.1 200 OK\r\na: b\r\ncontent-length: 3\r\n\r\n"),
        (
            {"length": None},
            b"HTTP/1.1 200 OK\r\na: b\r\ntransfer-encoding: chunked\r\n\r\n",
        ),
        (
            {"length": None, "chunked": False, "keep_alive": False},
            b"HTTP/1.1 200 OK\r\na: b\r\nconnection: close\r\n\r\n",
        ),
    ],
)
def test_a_head_is_written_one_way(options: dict[str, object], head: bytes) -> None:
    assert head == response_head(200, b"a: b\r\n", **options)  # type: ignore[arg-type]


def test_a_status_that_nobody_knows_is_passed_on() -> None:
    assert response_head(599, b"", length=0).startswith(b"HTTP/1.1 599 ")


@given(st.lists(field, max_size=4), st.integers(0, 1200))
def test_a_head_that_was_read_before_is_read_as_if_it_were_new(
    fields: list[tuple[str, str, str]], length: int
) -> None:
    extra = "".join("".join(item) + "\r\n" for item in fields).encode("latin-1")
    head = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n" + extra + b"\r\n"
    first, again = head % 3 + b"abc", head % length + b"d" * length
    alone = [read_all([first]), read_all([again])]
    together = read_all([first, again, first])
    if alone[0][1] is not None:
        assert together == alone[0]
        return
    bodies = [item[-1] for got, _ in alone for item in got]
    assert [item[-1] for item in together[0]] == [*bodies, b"abc"]
    # But for the length, which nobody reads there, every field is as it was.
    assert {str(item[:-1]) for item in together[0]} == {str(alone[0][0][0][:-1])}


@pytest.mark.parametrize(
    "length", [b"+3", b"3_0", b"", b" ", b"0x3", b"3, 3", b"9" * 30]
)
def test_a_known_head_with_a_strange_length_is_refused(length: bytes) -> None:
    head = b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: %b\r\nx: y\r\n\r\n"
    got, refused = read_all([head % b"3" + b"abc", head % length + b"abc"])
    assert len(got) == 1
    assert refused == HTTPStatus.BAD_REQUEST
