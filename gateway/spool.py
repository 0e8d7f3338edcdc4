"""Records on disk that outlive the process that writes them (I/O).

A worker appends one line to its own file for each request that is over, before
the client sees its end, and keeps what is in flight in a memory-mapped file
beside it. Both are in the kernel's hands at once: a worker that is killed loses
nothing (the machine losing power may cost the last seconds). The supervisor
reads every file on, and writes the records of the requests that a killed
worker left in flight.
"""

from __future__ import annotations

import json
import mmap
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import orjson

__all__ = ["IN_FLIGHT", "RECORDS", "InFlight", "Records", "Tail", "left_in_flight"]

RECORDS, IN_FLIGHT = ".jsonl", ".in-flight"
_MAX_FILE = 64 << 20
_SLOT = 1024
_COUNT = 4  # bytes at a slot's start: chunks passed on so far
_LENGTH = 2  # then the length of the JSON that follows; 0: the slot is free
_HEAD = _COUNT + _LENGTH
_GROWTH = 256


class Records:
    """The file that one worker appends to; full, the next one is begun."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder, self._name = folder, name
        self._number = 0
        self._open()

    def _open(self) -> None:
        path = self._folder / f"{self._name}.{self._number:03}{RECORDS}"
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self._size = 0

    def write(self, line: bytes) -> None:
        os.write(self._file, line)
        self._size += len(line)
        if self._size >= _MAX_FILE:
            os.close(self._file)
            self._number += 1
            self._open()


class InFlight:
    """What one worker has taken on and not yet recorded."""

    def __init__(self, folder: Path, name: str) -> None:
        self.path = folder / (name + IN_FLIGHT)
        file = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600)
        os.ftruncate(file, _SLOT * _GROWTH)
        self._map = mmap.mmap(file, _SLOT * _GROWTH)
        os.close(file)
        self._free = list(range(_GROWTH))

    def begin(self, record: dict[str, Any]) -> int:
        """Keep a record in a slot, and give the slot."""
        data = orjson.dumps(record)[: _SLOT - _HEAD]
        if not self._free:
            count = len(self._map) // _SLOT
            self._map.resize((count + _GROWTH) * _SLOT)
            self._free = list(range(count, count + _GROWTH))
        slot = self._free.pop()
        at = slot * _SLOT
        self._map[at + _HEAD : at + _HEAD + len(data)] = data
        # The length comes last: a slot counts only once it is whole.
        self._map[at : at + _HEAD] = bytes(_COUNT) + len(data).to_bytes(_LENGTH)
        return slot

    def passed(self, slot: int, chunks: int) -> None:
        at = slot * _SLOT
        self._map[at : at + _COUNT] = chunks.to_bytes(_COUNT)

    def end(self, slot: int) -> None:
        at = slot * _SLOT
        self._map[at : at + _HEAD] = bytes(_HEAD)
        self._free.append(slot)

    def close(self) -> None:
        """Drop the file: nothing is in flight any more."""
        self._map.close()
        self.path.unlink(missing_ok=True)


def left_in_flight(path: Path) -> Iterator[tuple[dict[str, Any], int]]:
    """Read what a dead worker left: each record, and the chunks it had passed on."""
    data = path.read_bytes()
    for at in range(0, len(data) - _SLOT + 1, _SLOT):
        length = int.from_bytes(data[at + _COUNT : at + _HEAD])
        if length:
            with suppress(json.JSONDecodeError):  # cut off: longer than a slot
                record = orjson.loads(data[at + _HEAD : at + _HEAD + length])
                yield record, int.from_bytes(data[at : at + _COUNT])


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
