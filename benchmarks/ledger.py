"""What the ledger costs over its floors: the disk's fsync, and bare SHA-256.

    python -m benchmarks.ledger [entries=1000000]

Appending: 64 tasks, each waiting for its own entry to be durable, on SQLite. The
floors are a file that takes the same lines with an fsync as often, and with one
for each line, which is what a journal without batches would pay.

Verifying: an exported log, read from a file. The floor is one SHA-256 of each
line; the format asks for three: the chain, the leaf, a node of the tree.
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path

from sqlalchemy import Connection, event

from reconciler.ledger import (
    GENESIS,
    Checkpoint,
    Draft,
    Signer,
    link,
    seal,
    sign_checkpoint,
    verify,
)
from reconciler.ledger.merkle import Tree, leaf_hash
from reconciler.store import Journal, open_store

TASKS, EACH = 64, 100
ALONE = 500
"""Lines written with an fsync each: enough to tell, few enough to wait for."""
ROUNDS = 3
DRAFT = Draft(
    actor="daemon@control-1",
    commit="c0ffee" * 6 + "c0ff",
    plan="d" * 64,
    step="change Endpoint/search/llama-70b",
    target="cluster-eu-1:Endpoint/search/llama-70b",
    before="b" * 64,
    after="a" * 64,
    uid="0b8c1c1e-1111-4222-8333-123456789abc",
    outcome="changed",
)


def main() -> None:
    entries = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    with tempfile.TemporaryDirectory() as folder:
        appending(Path(folder))
        verifying(Path(folder), entries)


def appending(folder: Path) -> None:
    count = TASKS * EACH
    seconds, commits, lines = asyncio.run(append(folder))
    per_commit = -(-count // commits)
    batches = [
        b"".join(lines[at : at + per_commit]) for at in range(0, count, per_commit)
    ]
    alike = elapsed(lambda: write(folder / "alike", batches))
    alone = elapsed(lambda: write(folder / "alone", lines[:ALONE])) / ALONE * count
    print(f"{count:,} entries by {TASKS} tasks, {per_commit} a commit")
    for name, taken in (
        ("fsync for each batch, raw", alike),
        ("fsync for each entry, raw", alone),
        ("ledger", seconds),
    ):
        print(
            f"{name:28} {count / taken:10,.0f} entries/s   "
            f"{taken / alike:7.2f} x batched   {taken / alone:7.3f} x each"
        )


async def append(folder: Path) -> tuple[float, int, list[bytes]]:
    """Seconds, commits, and the lines that were written."""
    commits = 0

    def count(_connection: Connection) -> None:
        nonlocal commits
        commits += 1

    async def appender(journal: Journal) -> None:
        for _ in range(EACH):
            await journal.settle([DRAFT])

    url, key = f"sqlite:///{folder}/state.db", folder / "key"
    opened = open_store(url, key=key, origin="bud/benchmark", clock=now)
    with opened as store, store.lead("benchmark") as journal:
        await journal.settle([DRAFT])
        event.listen(journal._connection, "commit", count)
        begun = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for _ in range(TASKS):
                group.create_task(appender(journal))
        seconds = time.perf_counter() - begun
        return seconds, commits, list(store.log.lines())[1:]


def write(path: Path, batches: Iterable[bytes]) -> None:
    with path.open("ab", buffering=0) as file:
        for batch in batches:
            file.write(batch)
            os.fsync(file.fileno())


def verifying(folder: Path, entries: int) -> None:
    path = folder / "ledger.jsonl"
    checkpoint = export(path, entries)

    def floor() -> None:
        with path.open("rb") as lines:
            for line in lines:
                sha256(line).digest()

    def ours() -> None:
        with path.open("rb") as lines:
            assert verify(lines, [checkpoint]).witnessed == entries

    bare, verified = (min(elapsed(one) for _ in range(ROUNDS)) for one in (floor, ours))
    print(f"{entries:,} entries, {path.stat().st_size:,} bytes, best of {ROUNDS}")
    for name, taken in (("SHA-256 of each line", bare), ("verify", verified)):
        print(f"{name:28} {entries / taken:10,.0f} entries/s   {taken / bare:7.2f}")


def export(path: Path, entries: int) -> Checkpoint:
    first = seal(DRAFT, seq=0, at=now(), prev=GENESIS)
    head, tree = GENESIS, Tree()
    with path.open("wb") as file:
        for seq in range(entries):
            line = replace(first, seq=seq, prev=head.hex()).line()
            head = link(head, line)
            tree.append(leaf_hash(line))
            file.write(line + b"\n")
    return sign_checkpoint(Signer("bud/benchmark", bytes(32)), entries, tree.root())


def elapsed(work: Callable[[], None]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def now() -> datetime:
    return datetime.now(UTC)


if __name__ == "__main__":
    main()
