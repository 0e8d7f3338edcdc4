"""Forms as they come: each part checked, nothing held but small fields (I/O).

Called by the handlers that take files; what becomes of the parts is theirs.
"""

from __future__ import annotations

import asyncio
import re
from http import HTTPStatus
from typing import Protocol

from aiohttp import BodyPartReader, MultipartReader, web
from aiohttp.http_exceptions import HttpProcessingError

from gateway.openai import BadRequest

__all__ = ["Sink", "read_form", "too_large"]

_PIECE = 64 * 1024
_MAX_FIELD = 64 * 1024
_MAX_PARTS = 100
_NAME = re.compile(r"[A-Za-z0-9_.\[\]-]{1,64}")
"""It stands in a head on its way to an upstream."""


class Sink(Protocol):
    """What takes the parts of a form."""

    def add_field(self, name: str, value: bytes) -> None: ...
    def begin_file(self, name: str, filename: str, kind: str | None) -> None: ...
    def append(self, data: bytes) -> None: ...
    def end_file(self) -> None: ...


async def read_form(
    request: web.Request, sink: Sink, *, most: int, quiet_s: float
) -> None:
    """Read a form of at most so many bytes of files, never silent for long.

    Raises:
        BadRequest: it is no form, malformed or too large.
        TimeoutError: it stopped coming.
    """
    if request.content_type != "multipart/form-data":
        raise BadRequest(
            f"cannot read a body of {request.content_type!r}: it is not a form",
            status=HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
        )
    try:
        reader = await request.multipart()
        for _ in range(_MAX_PARTS):
            async with asyncio.timeout(quiet_s):
                part = await reader.next()
            if part is None:
                return
            most -= await _take(part, sink, most=most, quiet_s=quiet_s)
    except (ValueError, HttpProcessingError) as error:
        raise BadRequest(f"cannot read the form: {error}") from error
    raise BadRequest(f"cannot read the form: it has more than {_MAX_PARTS} parts")


async def _take(
    part: BodyPartReader | MultipartReader, sink: Sink, *, most: int, quiet_s: float
) -> int:
    """Read one part; give the bytes of its file."""
    if isinstance(part, MultipartReader) or part.name is None:
        raise BadRequest("cannot read the form: a part of it has no name")
    if _NAME.fullmatch(part.name) is None:
        raise BadRequest(f"cannot read the form: {part.name[:64]!r} names no field")
    if {"content-encoding", "content-transfer-encoding"} & {
        name.lower() for name in part.headers
    }:
        raise BadRequest(f"cannot read the form: {part.name!r} is encoded")
    is_file = part.filename is not None
    if part.filename is not None:
        sink.begin_file(part.name, part.filename, part.headers.get("content-type"))
    value, size = b"", 0
    while True:
        async with asyncio.timeout(quiet_s):
            data = await part.read_chunk(_PIECE)
        if not data:
            break
        size += len(data)
        if size > (most if is_file else _MAX_FIELD):
            raise too_large(most if is_file else _MAX_FIELD)
        if is_file:
            sink.append(data)
        else:
            value += data
    if is_file:
        sink.end_file()
        return size
    sink.add_field(part.name, value)
    return 0


def too_large(most: int) -> BadRequest:
    return BadRequest(
        f"the body is larger than {most} bytes",
        status=HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    )
