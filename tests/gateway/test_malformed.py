"""What no two parsers must read differently: raw bytes, and the exact outcome."""

from __future__ import annotations

import asyncio

import pytest

from schemas.units import Bytes, Duration
from tests.gateway.wire import KEY, Gateway, MockUpstream, Start, config_for

AUTH = f"Authorization: Bearer {KEY}\r\n".encode()
HOST = b"Host: gateway\r\n"
BODY = b'{"model":"smol","messages":[]}'
LENGTH = b"Content-Length: %d\r\n" % len(BODY)
CHUNKED = b"Transfer-Encoding: chunked\r\n"
CHUNKS = b"%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY)


def post(fields: bytes, body: bytes = BODY, *, line: bytes | None = None) -> bytes:
    first = line or b"POST /v1/chat/completions HTTP/1.1"
    return first + b"\r\n" + fields + b"\r\n" + body


def get(path: bytes, *, fields: bytes = AUTH, version: bytes = b"HTTP/1.1") -> bytes:
    return b"GET " + path + b" " + version + b"\r\n" + HOST + fields + b"\r\n"


ALL = HOST + AUTH
GOOD = post(ALL + LENGTH)
DEEP = b'{"model":"smol","messages":' + b"[" * 100_000 + b"]" * 100_000 + b"}"

# (what it is, the bytes, the status of each answer that comes back)
CASES: list[tuple[str, bytes, list[int]]] = [
    # Sound requests, so that the refusals below mean something.
    ("a plain request", GOOD, [200]),
    ("a chunked body", post(ALL + CHUNKED, CHUNKS), [200]),
    ("chunks with an extension", post(ALL + CHUNKED, b"%x;a=b\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY)), [200]),
    ("a trailer", post(ALL + CHUNKED, CHUNKS[:-2] + b"X-T: 1\r\n\r\n"), [200]),
    ("a trailer that names a key", post(HOST + CHUNKED, CHUNKS[:-2] + AUTH + b"\r\n"), [401]),
    ("an upper-case scheme", post(HOST + AUTH.replace(b"Bearer", b"BEARER") + LENGTH), [200]),
    ("two requests at once", GOOD + GOOD, [200, 200]),
    ("a list, then a request", get(b"/v1/models") + GOOD, [200, 200]),
    ("HTTP/1.0", post(AUTH + LENGTH, line=b"POST /v1/chat/completions HTTP/1.0"), [200]),
    ("a query", post(ALL + LENGTH, line=b"POST /v1/chat/completions?a=b HTTP/1.1"), [200]),
    ("latin-1 in a field", post(ALL + LENGTH + b"X-Name: caf\xe9\r\n"), [200]),
    ("an empty field", post(ALL + LENGTH + b"X-Empty:\r\n"), [200]),
    ("100-continue with its body", post(ALL + LENGTH + b"Expect: 100-continue\r\n"), [200]),
    # Two ways to frame a body.
    ("CL.TE", post(ALL + LENGTH + CHUNKED, CHUNKS), [400]),
    ("TE.CL", post(ALL + CHUNKED + LENGTH, CHUNKS), [400]),
    ("CL.TE with a request inside", post(ALL + b"Content-Length: 5\r\n" + CHUNKED, b"0\r\n\r\n" + GOOD), [400]),
    ("two lengths that differ", post(ALL + LENGTH + b"Content-Length: 1\r\n"), [400]),
    ("two lengths that agree", post(ALL + LENGTH + LENGTH), [400]),
    ("a list of lengths", post(ALL + b"Content-Length: 30, 30\r\n"), [400]),
    ("a signed length", post(ALL + b"Content-Length: +30\r\n"), [400]),
    ("a negative length", post(ALL + b"Content-Length: -1\r\n"), [400]),
    ("a hexadecimal length", post(ALL + b"Content-Length: 0x1e\r\n"), [400]),
    ("a length with a space inside", post(ALL + b"Content-Length: 3 0\r\n"), [400]),
    ("a length past 64 bits", post(ALL + b"Content-Length: 99999999999999999999\r\n"), [400]),
    ("an empty length", post(ALL + b"Content-Length:\r\n"), [400]),
    ("a length of words", post(ALL + b"Content-Length: ten\r\n"), [400]),
    ("two codings", post(ALL + CHUNKED + CHUNKED, CHUNKS), [400]),
    ("chunked twice in one field", post(ALL + b"Transfer-Encoding: chunked, chunked\r\n", CHUNKS), [400]),
    ("gzip, chunked", post(ALL + b"Transfer-Encoding: gzip, chunked\r\n", CHUNKS), [501]),
    ("chunked, identity", post(ALL + b"Transfer-Encoding: chunked, identity\r\n", CHUNKS), [400]),
    ("identity", post(ALL + b"Transfer-Encoding: identity\r\n"), [400]),
    ("xchunked", post(ALL + b"Transfer-Encoding: xchunked\r\n", CHUNKS), [400]),
    ("chunked behind a vertical tab", post(ALL + b"Transfer-Encoding: \x0bchunked\r\n", CHUNKS), [400]),
    ("chunked in quotes", post(ALL + b'Transfer-Encoding: "chunked"\r\n', CHUNKS), [400]),
    ("a coding on HTTP/1.0", post(AUTH + CHUNKED, CHUNKS, line=b"POST /v1/chat/completions HTTP/1.0"), [400]),
    ("a space before the colon of a length", post(ALL + b"Content-Length : 30\r\n"), [400]),
    ("a tab before the colon of a coding", post(ALL + b"Transfer-Encoding\t: chunked\r\n", CHUNKS), [400]),
    # Chunks.
    ("a chunk size of words", post(ALL + CHUNKED, b"zz\r\n" + BODY), [400]),
    ("a negative chunk size", post(ALL + CHUNKED, b"-1\r\n" + BODY), [400]),
    ("a chunk size with 0x", post(ALL + CHUNKED, b"0x5\r\nhello\r\n0\r\n\r\n"), [400]),
    ("a chunk size past 64 bits", post(ALL + CHUNKED, b"fffffffffffffffff\r\n"), [400]),
    ("a chunk longer than it says", post(ALL + CHUNKED, b"1\r\nhello\r\n0\r\n\r\n"), [400]),
    ("a bare LF behind a chunk size", post(ALL + CHUNKED, b"5\nhello\r\n0\r\n\r\n"), [400]),
    ("a bare LF behind a chunk", post(ALL + CHUNKED, b"5\r\nhello\n0\r\n\r\n"), [400]),
    ("a request behind chunks", post(ALL + CHUNKED, CHUNKS + GOOD), [400]),
    ("mostly framing", post(ALL + CHUNKED, b"1;" + b"x" * 70_000 + b"\r\n{\r\n" * 1), [400]),
    ("endless tiny chunks with fat extensions", post(ALL + CHUNKED, (b"1;" + b"y" * 60 + b"\r\n{\r\n") * 2_000), [400]),
    # Lines.
    ("bare LFs", GOOD.replace(b"\r\n", b"\n"), [400]),
    ("one bare LF", post(b"Host: gateway\n" + AUTH + LENGTH), [400]),
    ("one bare CR", post(b"Host: gateway\r" + AUTH + LENGTH), [400]),
    ("a bare CR inside a value", post(ALL + LENGTH + b"X-A: b\rc\r\n"), [400]),
    ("a bare LF inside a value", post(ALL + LENGTH + b"X-A: b\nc: d\r\n"), [400]),
    ("a folded field", post(ALL + b"Content-Length: 3\r\n 0\r\n"), [400]),
    ("a folded field with a tab", post(ALL + LENGTH + b"X-A: b\r\n\tc\r\n"), [400]),
    ("a line that begins with a space", post(b" " + ALL + LENGTH), [400]),
    ("NUL in a value", post(ALL + LENGTH + b"X-A: b\0c\r\n"), [400]),
    ("NUL in a name", post(ALL + LENGTH + b"X\0A: b\r\n"), [400]),
    ("NUL in the path", get(b"/v1/\0models"), [400]),
    ("a field without a colon", post(ALL + LENGTH + b"Nothing\r\n"), [400]),
    ("a field without a name", post(ALL + LENGTH + b": x\r\n"), [400]),
    ("brackets in a name", post(ALL + LENGTH + b"X[a]: x\r\n"), [400]),
    ("an empty line before the request", b"\r\n" + GOOD, [400]),
    # The request line.
    ("no version", b"GET /v1/models\r\n\r\n", [505]),
    ("HTTP/2 on this port", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", [505]),
    ("HTTP/3.0", get(b"/v1/models", version=b"HTTP/3.0"), [400]),
    ("HTTP/0.9", get(b"/v1/models", version=b"HTTP/0.9"), [505]),
    ("http in small letters", get(b"/v1/models", version=b"http/1.1"), [400]),
    ("an unknown method", b"FOO / HTTP/1.1\r\n" + HOST + b"\r\n", [501]),
    ("a method in small letters", post(ALL + LENGTH, line=b"post /v1/chat/completions HTTP/1.1"), [501]),
    ("CONNECT", b"CONNECT evil:443 HTTP/1.1\r\n" + HOST + b"\r\n", [400]),
    ("an absolute target", get(b"http://evil/v1/models"), [400]),
    ("an asterisk", b"OPTIONS * HTTP/1.1\r\n" + HOST + b"\r\n", [400]),
    ("a target without a slash", get(b"v1/models"), [400]),
    ("spaces in the target", get(b"/v1/mod els"), [400]),
    ("bytes past ASCII in the target", get(b"/v1/caf\xc3\xa9"), [400]),
    ("TLS on this port", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", [400]),
    # Host, key, and the paths around them.
    ("no host", post(AUTH + LENGTH), [400]),
    ("an empty host", post(b"Host:\r\n" + AUTH + LENGTH), [400]),
    ("two hosts", post(HOST + ALL + LENGTH), [400]),
    ("two keys", post(ALL + AUTH + LENGTH), [400]),
    ("no key", post(HOST + LENGTH), [401]),
    ("another scheme", post(HOST + AUTH.replace(b"Bearer", b"Basic") + LENGTH), [401]),
    ("an empty key", post(HOST + b"Authorization: Bearer \r\n" + LENGTH), [401]),
    ("SQL as a key", post(HOST + b"Authorization: Bearer ' OR 1=1 --\r\n" + LENGTH), [401]),
    ("bytes past ASCII as a key", post(HOST + b"Authorization: Bearer \xff\xfe\r\n" + LENGTH), [401]),
    ("a path with two slashes, no key", get(b"//v1/models", fields=b""), [401]),
    ("a path with dots, no key", get(b"/v1/x/../models", fields=b""), [401]),
    ("an encoded path, no key", get(b"/v1/%6dodels", fields=b""), [401]),
    ("a path with two slashes", get(b"//v1/models"), [404]),
    ("an encoded slash", get(b"/v1%2fmodels"), [404]),
    ("a path parameter", get(b"/v1/models;a=b"), [404]),
    ("a backslash", get(b"/v1\\models"), [404]),
    ("an unknown path", get(b"/admin"), [404]),
    ("the admin's path on this port", get(b"/metrics"), [404]),
    ("GET where POST is served", get(b"/v1/chat/completions"), [405]),
    ("POST where GET is served", post(ALL + LENGTH, line=b"POST /v1/models HTTP/1.1"), [405]),
    # Sizes and bodies.
    ("a head past its size", post(ALL + LENGTH + b"X-A: " + b"a" * 70_000 + b"\r\n"), [431]),
    ("a head that never ends", b"GET / HTTP/1.1\r\nX-A: " + b"a" * 70_000, [431]),
    ("too many fields", post(ALL + LENGTH + b"".join(b"X-%d: 1\r\n" % i for i in range(120))), [431]),
    ("a length past the limit", post(ALL + b"Content-Length: 99999999\r\n"), [413]),
    ("chunks past the limit", post(ALL + CHUNKED, b"%x\r\n%b" % (300_000, b"x" * 300_000)), [413]),
    ("a compressed body", post(ALL + LENGTH + b"Content-Encoding: gzip\r\n"), [415]),
    ("an unknown expectation", post(ALL + LENGTH + b"Expect: 200-ok\r\n"), [417]),
    ("no body", post(ALL, b""), [400]),
    ("not JSON", post(ALL + b"Content-Length: 3\r\n", b"abc"), [400]),
    ("not UTF-8", post(ALL + b"Content-Length: 4\r\n", b'"\xff"\n'), [400]),
    ("JSON that is no object", post(ALL + b"Content-Length: 2\r\n", b"[]"), [400]),
    ("NaN", post(ALL + b"Content-Length: 9\r\n", b'{"a":NaN}'), [400]),
    ("JSON 100,000 deep", post(ALL + b"Content-Length: %d\r\n" % len(DEEP), DEEP), [400]),
    ("no model", post(ALL + b"Content-Length: 2\r\n", b"{}"), [400]),
    ("a model that is no text", post(ALL + b"Content-Length: 11\r\n", b'{"model":1}'), [400]),
    ("a stream that is no boolean", post(ALL + b"Content-Length: 30\r\n", b'{"model":"smol","stream":"on"}'), [400]),
    ("an error, then a sound request", post(ALL + b"Content-Length: 2\r\n", b"{}") + GOOD, [400, 200]),
]  # fmt: skip


@pytest.fixture
async def gateway(start: Start, upstream: MockUpstream) -> Gateway:
    limits = {"max_body": Bytes("256KiB"), "head_timeout": Duration("1s")}
    return await start(config_for(upstream, listener=limits))


async def exchange(gateway: Gateway, raw: bytes, *, answers: int = 1) -> list[int]:
    """Send bytes and read until so many final answers came, or the end."""
    host, _, port = gateway.listen.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    statuses: list[int] = []
    try:
        writer.write(raw)
        async with asyncio.timeout(10):
            while len(statuses) < answers:
                head = await reader.readuntil(b"\r\n\r\n")
                status = int(head.split(b" ")[1])
                fields = dict(
                    line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:-2]
                )
                if status != 100:
                    statuses.append(status)
                    await reader.readexactly(int(fields[b"content-length"]))
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        writer.close()
    return statuses


@pytest.mark.parametrize(
    ("raw", "expected"), [case[1:] for case in CASES], ids=[case[0] for case in CASES]
)
async def test_a_request_has_one_reading_or_none(
    gateway: Gateway, upstream: MockUpstream, raw: bytes, expected: list[int]
) -> None:
    assert await exchange(gateway, raw, answers=len(expected)) == expected
    listed = raw.startswith(b"GET /v1/models HTTP/1.1") and expected[0] == 200
    assert len(upstream.asked) == expected.count(200) - listed


@pytest.mark.parametrize("cut", range(0, len(GOOD), 7))
async def test_a_request_may_come_in_any_two_pieces(
    gateway: Gateway, upstream: MockUpstream, cut: int
) -> None:
    host, _, port = gateway.listen.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(GOOD[:cut])
    await asyncio.sleep(0)
    writer.write(GOOD[cut:])
    assert (await reader.readuntil(b"\r\n")).startswith(b"HTTP/1.1 200 ")
    writer.close()


SLOW = {
    "a head that dribbles": b"POST /v1/chat/completions HTTP/1.1\r\nHost: g",
    "a body that dribbles": post(ALL + b"Content-Length: 5000\r\n", b"{"),
}


@pytest.mark.parametrize("kind", SLOW)
async def test_a_client_that_dribbles_is_cut(gateway: Gateway, kind: str) -> None:
    host, _, port = gateway.listen.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(SLOW[kind])

    async def dribble() -> None:
        while True:
            await asyncio.sleep(0.05)
            writer.write(b"a")

    dribbling = asyncio.ensure_future(dribble())
    try:
        async with asyncio.timeout(5):
            assert await reader.read() == b""
    except ConnectionError:
        pass  # cut while it was still sending
    finally:
        dribbling.cancel()
        writer.close()


async def test_more_connections_than_allowed_are_refused(
    start: Start, upstream: MockUpstream
) -> None:
    gateway = await start(config_for(upstream, listener={"max_connections": 3}))
    host, _, port = gateway.listen.rpartition(":")
    held = [await asyncio.open_connection(host, int(port)) for _ in range(3)]
    assert await exchange(gateway, GOOD) == []
    for _, writer in held:
        writer.close()
    async with asyncio.timeout(5):
        while await exchange(gateway, GOOD) != [200]:
            await asyncio.sleep(0.02)
