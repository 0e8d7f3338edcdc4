"""Which whole answers send a request on, and what they say of their address."""

from __future__ import annotations

import pytest

from gateway.verdict import Verdict, verdict_of

JSON = {b"content-type": b"application/json; charset=utf-8"}
OVERFLOW = b'{"error":{"code":"context_length_exceeded"}}'


@pytest.mark.parametrize(
    ("status", "fields", "body", "expected"),
    [
        (200, {}, b"{}", None),
        (200, JSON, b'{"a":[]}\r\n', None),
        (200, JSON, b"", None),
        (200, JSON, b'{"a":[', Verdict(shown=False, sound=False, rest_s=0)),
        (200, JSON | {b"content-encoding": b"br"}, b"\x00", None),
        (200, {b"content-type": b"audio/mpeg"}, b"\x00", None),
        (400, {}, b"{}", None),
        (422, {}, b"{}", None),
        (400, {}, OVERFLOW, Verdict(shown=True, sound=None, rest_s=0)),
        (401, {}, b"", Verdict(shown=False, sound=None, rest_s=0)),
        (404, {}, b"", Verdict(shown=True, sound=None, rest_s=0)),
        (503, {b"retry-after": b"7"}, b"", Verdict(shown=True, sound=False, rest_s=0)),
        (429, {b"retry-after": b"7"}, b"", Verdict(shown=True, sound=None, rest_s=7)),
        (429, {b"retry-after": b"-7"}, b"", Verdict(shown=True, sound=None, rest_s=0)),
    ],
    ids=str,
)
def test_an_answer_is_the_clients_unless_another_upstream_may_do_better(
    status: int, fields: dict[bytes, bytes], body: bytes, expected: Verdict | None
) -> None:
    assert expected == verdict_of(status, fields, body)
