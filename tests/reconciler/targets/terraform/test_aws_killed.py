"""Killed or cancelled in the middle: the next run goes on from there (law 10).

Real terraform and provider, emulated AWS, whose node groups take seconds here.
"""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from reconciler.targets.terraform.command import orphan
from reconciler.values import Health, Presence
from schemas.errors import TemporaryError
from tests.reconciler.targets.contract import change, create, delete, look, silent
from tests.reconciler.targets.terraform.aws import KEY, SECRET
from tests.reconciler.targets.terraform.conftest import AwsWorld, MakeWorld

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

ROOT = Path(__file__).parents[4]
DEADLINE_S = 300.0


def start(world: AwsWorld) -> subprocess.Popen[str]:
    """Apply the world's unit in another process, as a daemon does."""
    backend, unit = world.target.backend, world.unit()
    given = {
        "binary": backend.command.binary,
        "home": str(backend.command.home),
        "mirror": str(backend.command.mirror),
        "environment": json.dumps(dict(backend.command.environment)),
        "folder": str(backend.folder),
        "settings": json.dumps(dict(backend.settings)),
        "credential": f"AWS_ACCESS_KEY_ID={KEY}\nAWS_SECRET_ACCESS_KEY={SECRET}",
        "ref": str(unit.key.ref),
        "content": unit.content.decode(),
        "digest": unit.digest,
    }
    process = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("driver.py"))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert process.stdin is not None
    process.stdin.write(json.dumps(given))
    process.stdin.close()
    return process


async def ended(folder: Path) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while orphan(folder) == "running":
        assert time.monotonic() < deadline
        await asyncio.sleep(0.2)  # waits for a condition, until the deadline


async def test_a_run_that_nobody_waits_for_any_more_ends_in_order(
    aws_world: MakeWorld,
) -> None:
    world = aws_world(EMULATOR_NODE_GROUP_S="15")
    target, unit = world.target, world.unit()
    with start(world) as daemon:
        assert daemon.stdout is not None
        for line in daemon.stdout:
            if "aws_eks_node_group" in line and "Creating..." in line:
                break
        else:
            pytest.fail("the run ended before a node group was begun")
        daemon.kill()

    # Terraform outlives it. Whoever comes next sees half a cluster, and waits.
    folder = target.backend.folder.parent / "default.prod" / "change"
    assert orphan(folder) == "running"
    half = await look(target, unit.key)
    assert half.presence is Presence.PRESENT
    assert "half made" in half.detail
    with pytest.raises(TemporaryError, match=r"still at work|Error acquiring"):
        await target.apply(change(unit, half), silent)

    await ended(folder)
    whole = await look(target, unit.key)
    assert (whole.digest, whole.health) == (unit.digest, Health.SERVABLE)
    assert await target.apply(change(unit, whole), silent) == whole

    # Cancelled while it destroys: a new commit does not wait for it (law 12), and the
    # cluster is not torn in two.
    begun = asyncio.Event()

    def note(_: object, message: str) -> None:
        if "Destroying..." in message:
            begun.set()

    running = asyncio.ensure_future(target.delete(delete(whole), note))
    async with asyncio.timeout(DEADLINE_S):
        await begun.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert orphan(folder) == "running"
    await ended(folder)
    assert world.aws.left() == []
    assert (await look(target, unit.key)).presence is Presence.ABSENT


async def test_terraform_killed_with_signal_9_leaves_what_it_had_written(
    aws_world: MakeWorld,
) -> None:
    world = aws_world()
    target, unit = world.target, world.unit()
    folder = target.backend.folder.parent / "default.prod" / "change"

    def written() -> bool:
        """It says that a thing is complete before it has written so."""
        states = target.backend.folder.parent.parent.rglob("*tfstate*")
        return any(b'"aws_vpc"' in f.read_bytes() for f in states if f.is_file())

    def kill(_: object, message: str) -> None:
        if "Creation complete" in message and written():
            pid = json.loads((folder / "run.json").read_text())["pid"]
            os.killpg(pid, signal.SIGKILL)  # its providers with it

    with pytest.raises(TemporaryError, match="killed by signal 9"):
        await target.apply(create(unit), kill)
    half = await look(target, unit.key)
    assert (half.presence, half.health) == (Presence.PRESENT, Health.DEGRADED)
    assert half.uid
