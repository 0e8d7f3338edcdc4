"""Coverage-guided fuzzing of what reads bytes that strangers send.

usage: python benchmarks/gateway/fuzz.py request|answer|events [libFuzzer options]

``request``: the bytes of a client's connection. ``answer``: those of an upstream's.
``events``: a stream's, as it is scanned and sifted. A minute each unless
``-max_total_time`` says otherwise; a crash leaves its input in a file. Beyond not
crashing: what is read does not depend on how it was cut, and what was not
redacted comes out as it went in. Memory is bounded by libFuzzer's own limit.
"""

from __future__ import annotations

import contextlib
import sys
import tempfile
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

with atheris.instrument_imports(include=["gateway"]):
    from gateway.answer import Framing, Malformed, PlainAnswer, StreamAnswer
    from gateway.answer import UpstreamHead as Head
    from gateway.http1 import Refused, RequestReader
    from gateway.openai import BadRequest, read_request
    from gateway.sift import Sift
    from gateway.sse import StreamScanner
    from gateway.usage import find_usage

# Where the search begins; the first byte says where the rest is cut.
SEEDS = {
    "request": [
        (
            b"@POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Length: 28\r\n"
            b"Authorization: Bearer k\r\n\r\n"
            b'{"model":"m","stream":false}'
        ),
        (
            b"@POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
            b"3;x=y\r\nabc\r\n0\r\nT: 1\r\n\r\n"
        ),
        b"@GET /v1/models HTTP/1.0\r\nConnection: close\r\nExpect: 100-continue\r\n\r\n",
    ],
    "events": [
        (
            b'@data: {"choices":[{"index":0,"delta":{"content":"a"}}]}\n\n'
            b'data: {"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":2}}\n\n'
            b"data: [DONE]\n\n"
        ),
        (
            b'@event: content_block_delta\r\ndata: {"type":"content_block_delta","index":0,'
            b'"delta":{"type":"text_delta","text":"a"}}\r\n\r\n: ping\r\n\r\n'
        ),
    ],
}
SEEDS["answer"] = SEEDS["events"]
SECONDS, MEMORY_MIB, LONGEST = 60, 768, 4096
STREAM = Head.of(200, {b"content-type": b"text/event-stream"})
PLAIN = Head.of(200, {b"content-type": b"application/json"})


def halves(data: bytes) -> tuple[bytes, list[bytes]]:
    """Take the first byte as where to cut the rest."""
    if not data:
        return b"", []
    at, rest = data[0] * max(1, len(data) // 256), data[1:]
    return rest, [rest[:at], rest[at:]]


def read(parts: list[bytes]) -> tuple[list[object], bool]:
    reader = RequestReader(max_head=1024, max_body=2048)
    seen: list[object] = []
    try:
        for part in parts:
            reader.push(part)
            while reader.head is not None or reader.read_head():
                if not reader.read_body():
                    break
                seen.append((*(reader.head or ()), reader.body()))
                with contextlib.suppress(BadRequest):
                    read_request("chat", reader.body())
                reader.next()
    except Refused:
        return seen, True
    return seen, False


def fuzz_request(data: bytes) -> None:
    whole, parts = halves(data)
    one, two = read([whole]), read(parts)
    # What stands behind a chunked body refuses that as well, if it is there in time.
    at_least = two[0][: len(one[0])] if one[1] else two[0]
    assert one[0] == at_least, (one, two)


def fuzz_events(data: bytes) -> None:
    whole, parts = halves(data)
    scanner = StreamScanner(hide_usage=False)
    out = b"".join(scanner.feed(part) for part in parts) + scanner.rest()
    assert out == whole, (out, whole)
    find_usage(whole)
    sift, sifted = Sift(), b""
    for part in parts:
        sift.push(part)
        sift.texts()
        sifted += sift.release({}, last=False)
    sift.texts()
    assert sifted + sift.release({}, last=True) == whole


def fuzz_answer(data: bytes) -> None:
    _, parts = halves(data)
    for head in (STREAM, PLAIN):
        framing = Framing(keep_alive=True, chunked=True)
        answer = (
            StreamAnswer(head, framing, b"", hide_usage=True)
            if head is STREAM
            else PlainAnswer(head, framing, b"")
        )
        try:
            for part in parts:
                answer.feed(part)
            answer.end()
        except Malformed:
            return
        answer.broken("gone")


def main() -> None:
    target = {"request": fuzz_request, "events": fuzz_events, "answer": fuzz_answer}
    options = [
        f"-max_total_time={SECONDS}",
        f"-rss_limit_mb={MEMORY_MIB}",
        f"-max_len={LONGEST}",
        *sys.argv[2:],
    ]
    with tempfile.TemporaryDirectory() as corpus:
        for number, seed in enumerate(SEEDS[sys.argv[1]]):
            Path(corpus, str(number)).write_bytes(seed)
        atheris.Setup([sys.argv[0], *options, corpus], target[sys.argv[1]])
        atheris.Fuzz()


if __name__ == "__main__":
    main()
