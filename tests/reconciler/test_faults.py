"""A numbered point kills exactly where it was asked to, and else does nothing."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

PASSES_THREE = """
from reconciler.faults import point
for name in ("first", "second", "third"):
    point(name)
    print(name, flush=True)
"""


def _run(**env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", PASSES_THREE],
        env={**os.environ, **env},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )


@pytest.mark.slow
def test_the_process_dies_at_the_point_asked_for() -> None:
    run = _run(BUD_FAULT_AT="2")
    assert (run.returncode, run.stdout) == (-signal.SIGKILL, "first\n")


@pytest.mark.slow
def test_a_reference_run_lists_every_point_and_goes_on(tmp_path: Path) -> None:
    log = tmp_path / "points"
    run = _run(BUD_FAULT_LOG=str(log))
    assert (run.returncode, run.stdout) == (0, "first\nsecond\nthird\n")
    assert log.read_text(encoding="utf-8") == "1 first\n2 second\n3 third\n"


@pytest.mark.slow
def test_a_process_that_nobody_rehearses_passes_every_point() -> None:
    assert _run().stdout == "first\nsecond\nthird\n"
