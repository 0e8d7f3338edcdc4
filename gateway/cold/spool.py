"""Bodies that are too large to hold: on disk, read anew for each try (I/O).

Bytes are written once, as they come from the client, and each try reads them
from the start without waiting for the end, so that an upload streams through
and a failed try still leads to the next upstream. Made by `uploads`.
"""

from __future__ import annotations

import asyncio
import mmap
import os
import re
import tempfile
from collections.abc import AsyncIterator
from typing import Any

import orjson

from gateway.openai import HELD_BYTES, BadRequest

__all__ = ["Form", "JsonBody", "Spool"]

_PIECE = 64 * 1024
# A write or read of one piece stays in the page cache: microseconds, so these
# are done on the loop.


class Spool:
    """Bytes that are still coming, and may be read several times meanwhile."""

    def __init__(self) -> None:
        self._file = tempfile.SpooledTemporaryFile(max_size=HELD_BYTES)  # noqa: SIM115  closed by `close`
        self.size = 0
        self.whole = False
        self._news = asyncio.Event()

    def append(self, data: bytes) -> None:
        self._file.seek(self.size)
        self._file.write(data)
        self.size += len(data)
        self._tell()

    def end(self) -> None:
        self.whole = True
        self._tell()

    def _tell(self) -> None:
        news, self._news = self._news, asyncio.Event()
        news.set()

    async def read(
        self, start: int = 0, stop: int | None = None
    ) -> AsyncIterator[bytes]:
        """Give what is there and what comes, from one offset to another."""
        at = start
        while stop is None or at < stop:
            if at < self.size:
                self._file.seek(at)
                most = _PIECE if stop is None else min(_PIECE, stop - at)
                data = self._file.read(most)
                at += len(data)
                yield data
            elif self.whole:
                return
            else:
                await self._news.wait()

    def fileno(self) -> int:
        return self._file.fileno()

    def close(self) -> None:
        self._file.close()


class Form:
    """A form on its way: written anew, so that nothing of its framing is trusted.

    The field `model` comes first, by the name that each upstream knows.
    """

    def __init__(self) -> None:
        self._mark = b"bud-" + os.urandom(16).hex().encode()
        self.kind = f"multipart/form-data; boundary={self._mark.decode()}"
        self.spool = Spool()
        self.model: str | None = None
        self.fields: dict[str, Any] = {}
        self.known = asyncio.Event()
        """The model is: a request may begin."""

    def add_field(self, name: str, value: bytes) -> None:
        """Take a field that is no file.

        Raises:
            BadRequest: a second model, or one that is no text.
        """
        if name != "model":
            self.fields[name] = value.decode("utf-8", "replace")
            self.spool.append(self._head(name) + value + b"\r\n")
            return
        if self.model is not None:
            raise BadRequest("cannot choose a model: two are named", param="model")
        try:
            self.model = value.decode()
        except UnicodeDecodeError as error:
            raise BadRequest("cannot read `model`: not UTF-8", param="model") from error
        self.known.set()

    def begin_file(self, name: str, filename: str, kind: str | None) -> None:
        self.spool.append(self._head(name, filename, kind))

    def append(self, data: bytes) -> None:
        self.spool.append(data)

    def end_file(self) -> None:
        self.spool.append(b"\r\n")

    def end(self) -> None:
        self.spool.append(b"--%b--\r\n" % self._mark)
        self.spool.end()

    def _head(
        self, name: str, filename: str | None = None, kind: str | None = None
    ) -> bytes:
        text = f'content-disposition: form-data; name="{_quoted(name)}"'
        if filename is not None:
            known = kind is not None and kind.isascii() and kind.isprintable()
            text += f'; filename="{_quoted(filename)}"\r\ncontent-type: '
            text += kind if known and kind else "application/octet-stream"
        return b"--%b\r\n%b\r\n\r\n" % (self._mark, text.encode())

    def _first(self, model: str) -> bytes:
        return self._head("model") + model.encode() + b"\r\n"

    def length(self, model: str) -> int | None:
        size = len(self._first(model)) + self.spool.size
        return size if self.spool.whole else None

    async def read(self, model: str) -> AsyncIterator[bytes]:
        yield self._first(model)
        async for part in self.spool.read():
            yield part


def _quoted(text: str) -> str:
    """Write a name as browsers do (WHATWG HTML, multipart/form-data encoding)."""
    return text.replace('"', "%22").replace("\r", "%0D").replace("\n", "%0A")


_SPACE = rb"[ \t\r\n]*+"
_STRING = rb'"(?:[^"\\]++|\\.)*+"'
_MEMBER = re.compile(
    _SPACE + rb"(" + _STRING + rb")" + _SPACE + rb":" + _SPACE, re.DOTALL
)
_SCALAR = re.compile(_STRING + rb"|[^\s,{}\[\]\"]++", re.DOTALL)
_NESTING = re.compile(_STRING + rb"|[\[\]{}]", re.DOTALL)
_NEXT = re.compile(_SPACE + rb"([,}])")
_START = re.compile(_SPACE + rb"\{")
_SMALL = 4096
"""A member up to this size is read; a larger one, such as the messages, is passed
over: nothing that decides is so long."""


class JsonBody:
    """A large JSON object: its small members read, the rest only passed on."""

    kind = "application/json"

    def __init__(self, spool: Spool) -> None:
        """Look through it once it is whole.

        Raises:
            BadRequest: it is no object, or names a member twice.
        """
        self._spool = spool
        self.members: dict[str, Any] = {}
        self._spans: dict[str, tuple[int, int]] = {}
        with mmap.mmap(spool.fileno(), spool.size, prot=mmap.PROT_READ) as data:
            try:
                self._end = self._skim(data)
            except orjson.JSONDecodeError as error:
                raise BadRequest(f"cannot read the body as JSON: {error}") from error
        self._ask_usage = False

    def _skim(self, data: mmap.mmap) -> int:
        """Note where each member is; give where the object ends."""
        start = _START.match(data)
        at = start.end() if start is not None else -1
        while start is not None:
            member = _MEMBER.match(data, at)
            if member is None:
                break
            stop = _value_end(data, member.end())
            name = orjson.loads(member[1])
            if name in self._spans:
                # Two readers may each believe another one of them.
                raise BadRequest(f"cannot read the body: {name!r} is there twice")
            self._spans[name] = member.end(), stop
            if stop - member.end() <= _SMALL:
                self.members[name] = orjson.loads(data[member.end() : stop])
            following = _NEXT.match(data, stop)
            if following is None:
                break
            at = following.end()
            if following[1] == b"}" and not data[at:].strip():
                return at - 1
        raise BadRequest("cannot read the body: it is not a JSON object")

    def ask_usage(self) -> None:
        """Have a stream end with its usage, whatever the client asked for."""
        self._ask_usage = True

    def _edits(self, model: str) -> list[tuple[int, int, bytes]]:
        edits = [(*self._spans["model"], orjson.dumps(model))]
        if self._ask_usage:
            options = {**(self.members.get("stream_options") or {})}
            value = orjson.dumps(options | {"include_usage": True})
            span = self._spans.get("stream_options")
            if span is None:
                edits.append((self._end, self._end, b',"stream_options":' + value))
            else:
                edits.append((*span, value))
        return sorted(edits)

    def length(self, model: str) -> int | None:
        grown = (len(new) - (stop - start) for start, stop, new in self._edits(model))
        return self._spool.size + sum(grown)

    async def read(self, model: str) -> AsyncIterator[bytes]:
        at = 0
        for start, stop, new in self._edits(model):
            async for part in self._spool.read(at, start):
                yield part
            yield new
            at = stop
        async for part in self._spool.read(at):
            yield part


def _value_end(data: mmap.mmap, at: int) -> int:
    if data[at : at + 1] not in {b"{", b"["}:
        found = _SCALAR.match(data, at)
        if found is None:
            raise BadRequest("cannot read the body: it is not a JSON object")
        return found.end()
    depth = 0
    for mark in _NESTING.finditer(data, at):
        sign = mark[0][:1]
        if sign in {b"{", b"["}:
            depth += 1
        elif sign != b'"':
            depth -= 1
            if depth == 0:
                return mark.end()
    raise BadRequest("cannot read the body: it is not whole")
