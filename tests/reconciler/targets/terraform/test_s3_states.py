"""States on a real S3 server: locked, refused, unlocked after a kill, removed."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from reconciler.targets.terraform import Backend, Command, TerraformTarget
from reconciler.values import Presence
from schemas.errors import TemporaryError
from tests.reconciler.targets.contract import change, create, delete, look, silent
from tests.reconciler.targets.terraform.conftest import SMALL, SmallWorld
from tests.reconciler.targets.terraform.s3 import BUCKET, S3, served, weed

pytestmark = pytest.mark.slow

STATE = "env:/default.a/bud"


@pytest.fixture
def s3(tmp_path: Path) -> Iterator[S3]:
    if weed() is None and os.environ.get("CI"):
        pytest.fail("weed is not here: install the development requirements")
    if weed() is None:
        pytest.skip("NOT RUN: weed is not on this machine")
    with served(tmp_path) as server:
        yield server


@pytest.fixture
def at_s3(binary: str, s3: S3, tmp_path: Path) -> SmallWorld:
    backend = Backend(
        command=Command(binary=binary, home=tmp_path / "home", mirror=None),
        folder=tmp_path / "terraform" / "backend",
        settings=s3.backend(),
    )
    target = TerraformTarget(
        backend=backend, credentials=lambda _: "", modules=lambda _: SMALL
    )
    return SmallWorld(target=target, states=tmp_path)


def lock(s3: S3, who: str) -> str:
    """Leave a lock as a run does that was killed: Terraform's own format."""
    held = {
        "ID": "9d2f6c1e-4a3b-6c8d-0c57-b1e0a7f3c2d1",
        "Operation": "OperationTypeApply",
        "Info": "",
        "Who": who,
        "Version": "1.11.4",
        "Created": "2026-01-02T03:04:05.6Z",
        "Path": f"{BUCKET}/{STATE}",
    }
    s3.client.put_object(
        Bucket=BUCKET, Key=f"{STATE}.tflock", Body=json.dumps(held).encode()
    )
    return str(held["ID"])


async def test_a_locked_state_refuses_the_second_and_a_dead_lock_is_broken(
    at_s3: SmallWorld, s3: S3
) -> None:
    target, here = at_s3.target, f"root@{os.uname().nodename}"
    made = await target.apply(create(at_s3.unit("a")), silent)
    wanted = change(at_s3.unit("a", 1), made)

    # Somebody elsewhere holds it: refused, and nothing moves.
    lock(s3, "somebody@elsewhere")
    with pytest.raises(
        TemporaryError, match="Error acquiring the state lock"
    ) as caught:
        await target.apply(wanted, silent)
    assert caught.value.retry_after_s > 0
    assert await look(target, made.key) == made

    # Ours by name, but no run of ours was killed: still not ours to break.
    lock(s3, here)
    with pytest.raises(TemporaryError, match="Error acquiring the state lock"):
        await target.apply(wanted, silent)

    # A run of ours that is gone left it: broken, and the change goes through.
    folder = target.backend.folder.parent / "default.a" / "change"
    (folder / "run.json").write_text(json.dumps({"pid": 2**22 + 1, "started": "1"}))
    (folder / "run.log").write_text('{"type":"apply_start"}\n')
    after = await target.apply(wanted, silent)
    assert after.digest == at_s3.unit("a", 1).digest
    assert f"{STATE}.tflock" not in s3.objects()

    # Gone is gone: no state stays behind to be found as a cluster again.
    await target.delete(delete(after), silent)
    assert (await look(target, made.key)).presence is Presence.ABSENT
    assert s3.objects() == {}


async def test_no_secret_of_the_backend_is_in_a_root_or_a_state(
    at_s3: SmallWorld, s3: S3, tmp_path: Path
) -> None:
    await at_s3.target.apply(create(at_s3.unit("a")), silent)
    assert s3.objects().keys() == {STATE}
    secret = b"canary-state-secret"
    assert not any(secret in content for content in s3.objects().values())
    roots = (f for f in (tmp_path / "terraform").rglob("*") if f.is_file())
    assert not any(secret in file.read_bytes() for file in roots)
