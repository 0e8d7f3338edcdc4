"""Law 10 at the real daemon: killed at every write point, the next run converges.

A reference run numbers the points that an apply passes; then one daemon for each
number dies there by SIGKILL, and another takes over. The outcome is always the
same: what is declared runs, once, and nothing else does.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.e2e.team import ENDPOINT, Team

STRIDE = int(os.environ.get("BUD_KILL_STRIDE", "24"))
"""1 kills at every point, as `make test-kill` does: twenty minutes on two cores."""
PARTS = 2 if STRIDE == 1 else 1
"""Tests that share the points: each makes the reference run first."""


@contextmanager
def daemon(team: Team, **env: str) -> Iterator[subprocess.Popen[bytes]]:
    team.home.mkdir(parents=True, exist_ok=True)
    with (team.home / "daemon.log").open("ab") as out:
        child = subprocess.Popen(
            team.argv("reconcile"), env=os.environ | env, stdout=out, stderr=out
        )
    try:
        yield child
    finally:
        if child.poll() is None:
            child.terminate()
        child.wait(30)


def settled(team: Team) -> bool:
    said = team.daemon_says()
    return said is not None and said["phase"] == "waiting" and said["pending"] == 0


def before(team: Team) -> None:
    """Two endpoints, each with its route."""
    for path in ("spec/endpoint/new.yaml",):
        (team.root / path).unlink(missing_ok=True)
    team.write_all("old", "chat")
    team.bud("resolve")


def after(team: Team) -> None:
    """One of them gone with its route, the other replaced, and a new one."""
    (team.root / "spec/endpoint/old.yaml").unlink()
    (team.root / "spec/route/old.yaml").unlink()
    team.write(
        "spec/endpoint/chat.yaml", ENDPOINT.replace("maxBatch: 8", "maxBatch: 4")
    )
    team.write("spec/endpoint/new.yaml", ENDPOINT)
    team.bud("resolve")


def check(team: Team) -> None:
    lines = sorted(team.engines().values())
    assert [line.split("--alias ")[1].split()[0] for line in lines] == ["chat", "new"]
    assert "--parallel 4" in lines[0]
    assert len(team.addresses("chat")) == len(team.addresses("new")) == 1
    assert team.addresses("old") == []
    assert team.data("plan")["steps"] == []
    assert team.data("log", "verify")["entries"] > 0


def settle(team: Team, *, remains: bool = False, **env: str) -> None:
    """Let a daemon make it so."""
    with daemon(team, **env):
        team.until("the daemon has nothing left to do", lambda: settled(team))
        if remains:
            check(team)
            before(team)
            team.until("it is as before", lambda: len(team.addresses("old")) == 1)
            team.until("and settled", lambda: settled(team))


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("part", range(PARTS))
def test_law_10_the_daemon_killed_at_every_write_point_converges(
    team: Team, tmp_path: Path, part: int
) -> None:
    before(team)
    settle(team)
    after(team)
    points = tmp_path / "points"
    settle(team, remains=True, BUD_FAULT_LOG=str(points))
    names = points.read_text().splitlines()
    # The delete of `old` comes last; what follows is the way back.
    names = names[: 1 + next(i for i, name in enumerate(names) if _is_last(name))]
    assert len(names) > 40

    for number in range(1 + part, len(names) + 1, PARTS * STRIDE):
        after(team)
        with daemon(team, BUD_FAULT_AT=str(number)) as child:
            team.until(
                f"it dies at point {number}", lambda c=child: c.poll() is not None
            )
            assert child.returncode == -signal.SIGKILL, names[number - 1]
        settle(team, remains=True)


def _is_last(name: str) -> bool:
    return name.endswith("after outcome local:Endpoint/default/old")
