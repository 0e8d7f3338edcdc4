"""What was exported to git cannot be taken back unseen."""

from __future__ import annotations

import subprocess
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from reconciler import witness
from reconciler.ledger import Draft, Signer
from reconciler.store import Store, open_store
from schemas.errors import ChainBrokenError, PermanentError, TemporaryError

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
REF = "refs/bud/ledger/production"


def git(repo: Path, *args: str) -> str:
    return subprocess.run(
        ["git", *args], cwd=repo, check=True, capture_output=True, text=True
    ).stdout


def opened(folder: Path) -> Store:
    return open_store(
        f"sqlite:///{folder}/state.db",
        key=folder / "key",
        origin="bud/production",
        clock=lambda: NOW,
    )


async def record(store: Store, count: int = 1, *, step: str = "create") -> None:
    draft = Draft(
        actor="tester",
        commit="c" * 40,
        plan="p" * 64,
        step=step,
        target="local",
        outcome="created",
    )
    with store.lead("tester") as journal:
        await journal.settle([draft] * count)


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    folder = tmp_path / "repo"
    folder.mkdir()
    git(folder, "init", "--quiet")
    return folder


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    with opened(tmp_path) as store:
        await record(store, 3)
        yield store


async def test_exported_checkpoints_are_read_back(repo: Path, store: Store) -> None:
    first = await witness.export(repo, "production", store.log)
    await record(store, 4)
    second = await witness.export(repo, "production", store.log)

    found = await witness.checkpoints(repo, "production", store.log.verifier)
    assert found == [second, first]
    assert [checkpoint.size for checkpoint in found] == [7, 3]
    assert store.log.verify(found).size == 7


async def test_the_ref_holds_the_note_and_touches_no_branch(
    repo: Path, store: Store
) -> None:
    checkpoint = await witness.export(repo, "production", store.log)

    assert git(repo, "show", f"{REF}:checkpoint") == checkpoint.note
    assert git(repo, "branch", "--all") == ""
    assert git(repo, "status", "--porcelain") == ""
    assert git(repo, "fsck", "--strict") == ""


async def test_exporting_the_same_head_again_adds_nothing(
    repo: Path, store: Store
) -> None:
    for _ in range(3):
        await witness.export(repo, "production", store.log)

    assert git(repo, "rev-list", "--count", REF).strip() == "1"


async def test_environments_are_witnessed_apart(repo: Path, store: Store) -> None:
    await witness.export(repo, "production", store.log)

    assert await witness.checkpoints(repo, "local", store.log.verifier) == []


async def test_an_empty_log_has_nothing_to_export(repo: Path, tmp_path: Path) -> None:
    with opened(tmp_path) as empty, pytest.raises(PermanentError, match="0 entries"):
        await witness.export(repo, "production", empty.log)


async def test_a_log_that_was_set_back_is_neither_exported_nor_verified(
    repo: Path, store: Store, tmp_path: Path
) -> None:
    backup = tmp_path / "backup"
    backup.mkdir()
    (backup / "key").write_bytes((tmp_path / "key").read_bytes())
    (backup / "key").chmod(0o600)
    with opened(backup) as older:
        await record(older, 2)
        await witness.export(repo, "production", store.log)
        with pytest.raises(ChainBrokenError, match="does not contain the 3 that"):
            await witness.export(repo, "production", older.log)
        found = await witness.checkpoints(repo, "production", older.log.verifier)
        older.log.verify()
        with pytest.raises(ChainBrokenError, match="promised 3 entries"):
            older.log.verify(found)


async def test_a_forked_log_is_neither_exported_nor_verified(
    repo: Path, store: Store, tmp_path: Path
) -> None:
    fork = tmp_path / "fork"
    fork.mkdir()
    (fork / "key").write_bytes((tmp_path / "key").read_bytes())
    (fork / "key").chmod(0o600)
    with opened(fork) as forked:
        await record(forked, 5, step="innocent")
        await witness.export(repo, "production", store.log)
        with pytest.raises(ChainBrokenError, match="does not contain the 3 that"):
            await witness.export(repo, "production", forked.log)
        found = await witness.checkpoints(repo, "production", forked.log.verifier)
        with pytest.raises(ChainBrokenError, match="rewritten or forked"):
            forked.log.verify(found)


async def test_a_checkpoint_by_another_key_is_not_believed(
    repo: Path, store: Store
) -> None:
    await witness.export(repo, "production", store.log)
    other = Signer("bud/production", bytes(32)).verifier
    with pytest.raises(ChainBrokenError, match="nobody known signed it"):
        await witness.checkpoints(repo, "production", other)


@pytest.mark.parametrize(
    "tamper",
    [
        lambda repo: git(repo, "update-ref", REF, commit(repo, "checkpoint", "hello")),
        lambda repo: git(repo, "update-ref", REF, commit(repo, "other", "hello")),
    ],
)
async def test_a_ref_that_somebody_else_wrote_is_refused(
    repo: Path, store: Store, tamper: Callable[[Path], object]
) -> None:
    tamper(repo)
    with pytest.raises(ChainBrokenError):
        await witness.checkpoints(repo, "production", store.log.verifier)
    with pytest.raises(ChainBrokenError):
        await witness.export(repo, "production", store.log)


def commit(repo: Path, name: str, content: str) -> str:
    (repo / name).write_text(content)
    git(repo, "add", name)
    identity = ("-c", "user.name=a", "-c", "user.email=a@b.invalid")
    git(repo, *identity, "commit", "--quiet", "-m", "x")
    return git(repo, "rev-parse", "HEAD").strip()


async def test_no_repository_is_no_witness(tmp_path: Path, store: Store) -> None:
    with pytest.raises(TemporaryError, match="cannot run git"):
        await witness.checkpoints(tmp_path, "production", store.log.verifier)
