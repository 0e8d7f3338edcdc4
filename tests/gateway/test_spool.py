"""Records outlive the worker that wrote them, wherever it was killed."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import orjson
import pytest

from gateway.books import Books
from gateway.limits import Authority
from gateway.spool import InFlight, Records

LINE = {"id": "", "at": 1.0, "key": "a/k", "route": "a/r", "cost_nano_usd": 5}


def line(name: str) -> bytes:
    return orjson.dumps({**LINE, "id": name}) + b"\n"


def all_of(folder: Path) -> list[dict[str, Any]]:
    return [
        orjson.loads(line)
        for path in folder.glob("*.jsonl")
        for line in path.read_bytes().splitlines()
    ]


def test_what_was_not_yet_in_the_file_is_found_and_nothing_twice(
    tmp_path: Path,
) -> None:
    records, in_flight = Records(tmp_path, "1-1"), InFlight(tmp_path, "1-1")
    records.write(line("a"))
    records.flush()
    records.write(line("b"))
    slot = in_flight.begin(
        orjson.dumps({**LINE, "id": "b", "input": 1, "price": (1, 1)})
    )
    # Killed: b is over, but its slot was not freed; c never came to its end.
    kept = orjson.dumps({**LINE, "id": "c", "input": 4, "price": (10**6, 2 * 10**6)})
    in_flight.passed(in_flight.begin(kept), 3)
    assert slot == 255
    authority = Authority()
    books = Books(tmp_path, authority)
    found = {record["id"]: record for record in all_of(tmp_path)}
    assert sorted(found) == ["a", "b", "c"]
    assert len(all_of(tmp_path)) == 3
    assert found["c"]["cost_nano_usd"] == 4 + 3 * 2
    assert found["c"]["status"] == 0
    assert authority.spending()["key a/k:month"][1] == 5 + 5 + 10
    books.bury("1-1")
    Books(tmp_path, Authority())
    assert len(all_of(tmp_path)) == 3


def test_killed_while_it_flushed_leaves_no_record_twice(tmp_path: Path) -> None:
    records = Records(tmp_path, "1-1")
    for name in "abc":
        records.write(line(name))
    # As if the process had died between the write and its note of it.
    with (tmp_path / "1-1.000.jsonl").open("ab") as file:
        file.write(line("a") + line("b"))
    Books(tmp_path, Authority())
    assert sorted(record["id"] for record in all_of(tmp_path)) == ["a", "b", "c"]


def test_a_full_disk_keeps_what_it_can_and_counts_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = Records(tmp_path, "1-1")
    write = os.write

    def full(file: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "no space")

    monkeypatch.setattr(os, "write", full)
    wide = line("x" * 1000)
    for _ in range(1100):
        records.write(wide)
    monkeypatch.setattr(os, "write", write)
    records.close()
    assert len(all_of(tmp_path)) + records.dropped == 1100
    assert 0 < records.dropped < 200


def test_more_in_flight_than_there_were_slots_are_all_found(tmp_path: Path) -> None:
    in_flight = InFlight(tmp_path, "1-1")
    kept = {**LINE, "input": 1, "price": (0, 0)}
    slots = [in_flight.begin(orjson.dumps({**kept, "id": str(n)})) for n in range(600)]
    for slot in slots[:100]:
        in_flight.end(slot)
    Books(tmp_path, Authority())
    assert {record["id"] for record in all_of(tmp_path)} == {
        str(n) for n in range(100, 600)
    }
