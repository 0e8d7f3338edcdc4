"""Killed at any moment, what was acknowledged is there and the chain holds."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import pytest

from reconciler.store import Store

ROOT = Path(__file__).parents[3]
APPENDER = Path(__file__).parent / "appender.py"


def start(url: str, key: Path, *, file_limit: int = -1) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, APPENDER, url, key, str(file_limit)],
        env={"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def read(line: str) -> tuple[int, str]:
    seq, name = line.split()
    return int(seq), name


def check(store: Store, acknowledged: list[tuple[int, str]]) -> int:
    """The chain holds, and every acknowledged intent is there with what it owns."""
    size = store.log.verify().size
    steps = {entry.seq: entry.step for entry in store.log.entries(limit=size)}
    owned = {key.ref.name for key in store.inventory()}
    for seq, name in acknowledged:
        assert steps[seq] == f"create Endpoint/default/{name}"
        assert name in owned
    # Nothing is owned that no entry speaks of.
    assert owned <= {step.rpartition("/")[2] for step in steps.values()}
    return size


@pytest.mark.slow
def test_a_killed_leader_loses_nothing_it_acknowledged(
    url: str, store: Store, tmp_path: Path
) -> None:
    chance = random.Random(20261123)
    size = 0
    for _ in range(5):
        with start(url, tmp_path / "key") as child:
            assert child.stdout is not None
            lines = [child.stdout.readline() for _ in range(chance.randrange(1, 150))]
            child.kill()
            # A pipe takes short lines whole or not at all.
            acknowledged = [read(line) for line in [*lines, *child.stdout]]
        before, size = size, check(store, acknowledged)
        assert size >= before + len(acknowledged)


@pytest.mark.slow
def test_a_disk_that_refuses_a_write_loses_nothing_it_acknowledged(
    url: str, store: Store, tmp_path: Path
) -> None:
    if not url.startswith("sqlite"):
        pytest.skip("the server's files are not this process's to limit")
    with start(url, tmp_path / "key", file_limit=512 * 1024) as child:
        output, errors = child.communicate(timeout=60)
    acknowledged = [read(line) for line in output.splitlines()]

    assert child.returncode == 1
    assert "PermanentError: cannot append to ledger" in errors
    assert check(store, acknowledged) == len(acknowledged) > 10
