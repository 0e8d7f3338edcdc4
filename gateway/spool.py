"""Records on disk that outlive the process that writes them (I/O).

A worker keeps what is in flight, and what is over but not yet in its file, in
two memory-mapped files: a line is in the kernel's hands before the client sees
the end of its request, without a system call for each. A few times a second the
finished lines go to the file that others read. A worker that is killed loses
nothing (the machine losing power may cost the last seconds): the supervisor
reads what it left, and writes the records of the requests that it left in
flight.
"""

from __future__ import annotations

import json
import mmap
import os
import struct
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import orjson

__all__ = [
    "FINISHED",
    "IN_FLIGHT",
    "RECORDS",
    "InFlight",
    "Records",
    "Tail",
    "left_finished",
    "left_in_flight",
]

RECORDS, IN_FLIGHT, FINISHED = ".jsonl", ".in-flight", ".finished"
_MAX_FILE = 64 << 20
_FINISHED_BYTES = 1 << 20
_FLUSH_BYTES = 64 << 10
"""Small enough that writing them to the page cache takes microseconds."""
_USED = struct.Struct("<Q")
"""At the start of the finished lines: the bytes of them."""
_SLOT = 1024
_HEAD = struct.Struct("<IH")
"""At a slot's start: the chunks passed on so far, and the length of the JSON that
follows; 0: the slot is free."""
_CHUNKS = struct.Struct("<I")
_GROWTH = 256


def _mapped(path: Path, size: int) -> mmap.mmap:
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        # A hole that the disk cannot fill later would kill the process.
        os.posix_fallocate(file, 0, size)
        return mmap.mmap(file, size)
    finally:
        os.close(file)


class Records:
    """The file that one worker appends to; full, the next one is begun."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder, self._name = folder, name
        self._number = self._size = 0
        self._file = self._open()
        self._path = folder / (name + FINISHED)
        self._map = _mapped(self._path, _FINISHED_BYTES)
        self._end = _USED.size
        self.dropped = 0
        """Lines that there was no room for, because the disk took none."""

    def _open(self) -> int:
        path = self._folder / f"{self._name}.{self._number:03}{RECORDS}"
        return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def write(self, line: bytes) -> None:
        """Keep a line; it is safe from now on, and in the file with a `flush`."""
        begin, end = self._end, self._end + len(line)
        if end > _FINISHED_BYTES:
            self.dropped += 1
            return
        self._map[begin:end] = line
        # The length comes last: a line counts only once it is whole.
        _USED.pack_into(self._map, 0, end - _USED.size)
        self._end = end
        if end > _FLUSH_BYTES:
            self.flush()

    def flush(self) -> None:
        """Append what was kept; a disk that is full keeps it here."""
        begin = _USED.size
        if self._end == begin:
            return
        data = self._map[begin : self._end]
        with suppress(OSError):
            while data:
                written = os.write(self._file, data)
                self._size += written
                data = data[written:]
        self._map[begin : begin + len(data)] = data
        self._end = begin + len(data)
        _USED.pack_into(self._map, 0, len(data))
        if self._size >= _MAX_FILE and not data:
            os.close(self._file)
            self._number += 1
            self._size = 0
            self._file = self._open()

    def close(self) -> None:
        self.flush()
        empty = self._end == _USED.size
        self._map.close()
        if empty:
            self._path.unlink(missing_ok=True)


class InFlight:
    """What one worker has taken on and not yet recorded."""

    def __init__(self, folder: Path, name: str) -> None:
        self.path = folder / (name + IN_FLIGHT)
        self._map = _mapped(self.path, _SLOT * _GROWTH)
        self._free = list(range(_GROWTH))

    def begin(self, data: bytes) -> int:
        """Keep a record's JSON in a slot, and give the slot."""
        if not self._free:
            count = len(self._map) // _SLOT
            self._map.close()
            self._map = _mapped(self.path, (count + _GROWTH) * _SLOT)
            self._free = list(range(count, count + _GROWTH))
        slot = self._free.pop()
        at, data = slot * _SLOT, data[: _SLOT - _HEAD.size]
        begin = at + _HEAD.size
        self._map[begin : begin + len(data)] = data
        # The length comes last: a slot counts only once it is whole.
        _HEAD.pack_into(self._map, at, 0, len(data))
        return slot

    def passed(self, slot: int, chunks: int) -> None:
        _CHUNKS.pack_into(self._map, slot * _SLOT, chunks)

    def end(self, slot: int) -> None:
        _HEAD.pack_into(self._map, slot * _SLOT, 0, 0)
        self._free.append(slot)

    def close(self) -> None:
        """Drop the file: nothing is in flight any more."""
        self._map.close()
        self.path.unlink(missing_ok=True)


def left_in_flight(path: Path) -> Iterator[tuple[dict[str, Any], int]]:
    """Read what a dead worker left: each record, and the chunks it had passed on."""
    data = path.read_bytes()
    for at in range(0, len(data) - _SLOT + 1, _SLOT):
        chunks, length = _HEAD.unpack_from(data, at)
        if length:
            begin = at + _HEAD.size
            with suppress(json.JSONDecodeError):  # cut off: longer than a slot
                yield orjson.loads(data[begin : begin + length]), chunks


def left_finished(path: Path) -> Iterator[dict[str, Any]]:
    """Read the records that a dead worker had not yet put into its file."""
    data = path.read_bytes()
    (used,) = _USED.unpack_from(data)
    for line in data[_USED.size : _USED.size + used].splitlines():
        with suppress(json.JSONDecodeError):  # killed while it made room
            yield orjson.loads(line)


class Tail:
    """Reads one file on from where it was left; half a line waits for its rest."""

    def __init__(self, path: Path, offset: int = 0) -> None:
        self.path, self.offset = path, offset

    def read(self) -> Iterator[dict[str, Any]]:
        with self.path.open("rb") as file:
            file.seek(self.offset)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                self.offset += len(line)
                with suppress(json.JSONDecodeError):
                    yield orjson.loads(line)
