"""Streams cut anywhere: what the client gets does not depend on where."""

from __future__ import annotations

import itertools
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.answer import Framing, PlainAnswer, StreamAnswer, UpstreamHead
from gateway.sse import MAX_EVENT, StreamScanner
from gateway.usage import Usage, find_usage
from tests.gateway.wire import delta, event, usage_event

DONE = b"data: [DONE]\n\n"
PLAIN = [delta(role="assistant"), delta("é\n\n"), delta('"usage": {"'), delta("b")]
WITH_USAGE = [*PLAIN, delta(finish="stop"), usage_event(7, 3), DONE]
CRLF = [part.replace(b"\n\n", b"\r\n\r\n") for part in WITH_USAGE]
LINES = b"x-request-id: r\r\n"
HEAD = UpstreamHead.of(200, {b"content-type": b"text/event-stream"})
cuts = st.lists(st.integers(0, 2000), max_size=12)


def pieces(data: bytes, at: list[int]) -> list[bytes]:
    marks = sorted({0, len(data), *(cut % (len(data) + 1) for cut in at)})
    return [data[a:b] for a, b in itertools.pairwise(marks)]


def framing(*, chunked: bool = True) -> Framing:
    return Framing(keep_alive=True, chunked=chunked)


def unchunked(data: bytes) -> bytes:
    """Read chunks strictly, and insist on a proper end."""
    out = b""
    while data:
        size, _, data = data.partition(b"\r\n")
        assert re.fullmatch(rb"[0-9a-f]+", size)
        length = int(size, 16)
        assert data[length : length + 2] == b"\r\n"
        if length == 0:
            assert data == b"\r\n"
            return out
        out, data = out + data[:length], data[length + 2 :]
    raise AssertionError("no last chunk")


def body_of(answer: bytes) -> bytes:
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    return unchunked(body)


@given(cuts)
def test_events_pass_unchanged_wherever_they_are_cut(at: list[int]) -> None:
    answer = StreamAnswer(HEAD, framing(), LINES, hide_usage=False)
    out = b"".join(answer.feed(part) for part in pieces(b"".join(WITH_USAGE), at))
    assert body_of(out + answer.end()) == b"".join(WITH_USAGE)
    assert answer.usage == Usage(7, 3)
    assert answer.done


@given(cuts, st.booleans())
def test_hidden_usage_leaves_no_trace_and_is_counted(at: list[int], crlf: bool) -> None:
    parts = CRLF if crlf else WITH_USAGE
    answer = StreamAnswer(HEAD, framing(), LINES, hide_usage=True)
    out = b"".join(answer.feed(part) for part in pieces(b"".join(parts), at))
    kept = [part for part in parts if b'"prompt_tokens"' not in part]
    assert body_of(out + answer.end()) == b"".join(kept)
    assert answer.usage == Usage(7, 3)


@given(cuts, st.integers(0, 500))
def test_a_stream_that_breaks_ends_at_an_event_and_says_so(
    at: list[int], end: int
) -> None:
    whole = b"".join(PLAIN)
    answer = StreamAnswer(HEAD, framing(), LINES, hide_usage=True)
    out = b"".join(answer.feed(part) for part in pieces(whole[:end], at))
    if not answer.committed:
        assert out == b""  # another upstream can still take over
        return
    last = answer.broken("gone")
    assert last is not None
    events = body_of(out + last)
    assert events.endswith(b"\n\n")
    passed, _, error = events.rpartition(b"data: ")
    assert whole.startswith(passed)
    assert b'"code":"upstream_lost"' in error


@given(cuts)
def test_nothing_is_committed_before_content(at: list[int]) -> None:
    answer = StreamAnswer(HEAD, framing(), LINES, hide_usage=True)
    lead = b": hello\n\n" + delta(role="assistant") + event({"choices": []})
    assert all(answer.feed(part) == b"" for part in pieces(lead, at))
    assert not answer.committed
    out = answer.feed(delta("x"))
    assert body_of(out + answer.end()) == lead + delta("x")


RESPONSES = [
    event({"type": "response.created", "response": {"usage": None}}),
    event({"type": "response.in_progress"}),
]


def test_a_type_may_be_anything() -> None:
    scanner = StreamScanner(hide_usage=True)
    odd = event({"type": {}}) + event({"type": [1]})
    assert scanner.feed(odd) == odd
    assert scanner.content


def test_what_comes_before_content_counts_for_nothing() -> None:
    lead, content = [delta(role="assistant"), b": ping\n\n"], [delta("a"), delta("b")]
    for crlf in (False, True):
        scanner = StreamScanner(hide_usage=True)
        for part in (*lead, lead[0] + content[0], content[1], DONE):
            scanner.feed(part.replace(b"\n\n", b"\r\n\r\n") if crlf else part)
        assert scanner.events == 2


def test_life_signs_of_the_responses_api_are_not_content() -> None:
    answer = StreamAnswer(HEAD, framing(), LINES, hide_usage=True)
    assert [answer.feed(part) for part in RESPONSES] == [b"", b""]
    assert answer.feed(event({"type": "response.output_text.delta", "delta": "x"}))
    usage = {"input_tokens": 5, "output_tokens": 2, "output_tokens_details": {}}
    answer.feed(event({"type": "response.completed", "response": {"usage": usage}}))
    assert answer.usage == Usage(5, 2)


@pytest.mark.parametrize(
    "failure",
    [
        event({"error": {"message": "boom"}}),
        event({"error": "boom"}),
        event({"type": "error", "message": "boom"}),
        event({"type": "response.failed", "response": {"error": {"message": "boom"}}}),
    ],
)
def test_an_error_before_content_is_no_answer(failure: bytes) -> None:
    answer = StreamAnswer(HEAD, framing(), LINES, hide_usage=True)
    assert answer.feed(failure) == b""
    assert answer.error is not None
    assert "boom" in answer.error
    assert not answer.committed


def test_an_event_without_end_is_not_held_for_ever() -> None:
    scanner = StreamScanner(hide_usage=True)
    scanner.content = True
    piece, passed = b"x" * 65536, 0
    for count in range(64):
        passed += len(scanner.feed(piece))
        assert (count + 1) * len(piece) - passed <= MAX_EVENT
    assert passed > 0


def test_an_http_1_0_client_gets_no_chunks() -> None:
    answer = StreamAnswer(HEAD, framing(chunked=False), LINES, hide_usage=True)
    out = answer.feed(delta("x")) + answer.end()
    assert out.endswith(b"\r\n\r\n" + delta("x"))
    assert b"chunked" not in out


@settings(deadline=None)
@given(st.integers(0, 600_000), st.integers(1000, 200_000), st.booleans())
def test_a_plain_answer_is_whole_whatever_its_size(
    size: int, piece: int, sized: bool
) -> None:
    body = b"a" * size
    fields = {b"content-type": b"application/json"}
    if sized:
        fields[b"content-length"] = b"%d" % size
    answer = PlainAnswer(UpstreamHead.of(200, fields), framing(), LINES)
    out = b"".join(answer.feed(body[i : i + piece]) for i in range(0, size, piece))
    head, _, rest = (out + answer.end()).partition(b"\r\n\r\n")
    if b"chunked" in head:
        assert unchunked(rest) == body
    else:
        assert rest == body
        assert b"content-length: %d" % size in head


def test_an_upstreams_cookies_and_quotas_stay_behind() -> None:
    fields = {
        b"content-type": b"application/json",
        b"set-cookie": b"a=b",
        b"x-ratelimit-remaining-requests": b"1",
        b"retry-after": b"3",
    }
    answer = PlainAnswer(UpstreamHead.of(429, fields), framing(), LINES)
    out = answer.feed(b"{}") + answer.end()
    assert b"cookie" not in out
    assert b"ratelimit" not in out
    assert b"retry-after: 3\r\n" in out


USAGES = {
    b'{"usage":{"prompt_tokens":1,"completion_tokens":2}}': Usage(1, 2),
    b'{"usage" : {"prompt_tokens":1, "prompt_tokens_details":{"cached_tokens":1}}}': (
        Usage(1, 0, cached=1)
    ),
    b'{"a":"\\"usage\\":{\\"prompt_tokens\\":9}"}': None,
    b'{"usage":null}': None,
    b'{"usage":{"prompt_tokens":-1,"completion_tokens":1e400}}': None,
    b'{"usage":{"prompt_tokens":"7","completion_tokens":true}}': Usage(0, 1),
    b'{"usage":{"prompt_tokens":1},"x":{"usage":{"prompt_tokens":2}}}': Usage(2),
    b'"usage"': None,
    b"": None,
}


@pytest.mark.parametrize("data", USAGES)
def test_usage_is_read_from_the_bytes(data: bytes) -> None:
    assert USAGES[data] == find_usage(data)


@given(st.binary(max_size=300))
def test_no_bytes_break_the_scanner(data: bytes) -> None:
    scanner = StreamScanner(hide_usage=True)
    out = scanner.feed(data) + scanner.rest()
    assert out == data or b'"usage"' in data
    find_usage(data)
