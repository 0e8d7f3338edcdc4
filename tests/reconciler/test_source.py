"""Sources against a real git: what counts, how it is named, what is refused."""

from __future__ import annotations

import asyncio
import os
import subprocess
from pathlib import Path

import pytest

from reconciler.source import Checkout, RemoteBranch
from schemas.errors import PermanentError, TemporaryError


def git(cwd: Path, *args: str) -> str:
    who = {"GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@example.org",
           "GIT_COMMITTER_NAME": "a", "GIT_COMMITTER_EMAIL": "a@example.org"}  # fmt: skip
    done = subprocess.run(
        ["git", *args],
        cwd=cwd,
        env=os.environ | who,
        check=True,
        capture_output=True,
        text=True,
    )
    return done.stdout.strip()


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    root = tmp_path / "repo"
    (root / "spec" / "model").mkdir(parents=True)
    (root / "spec" / "model" / "m.yaml").write_text("one")
    git(root, "init", "-q", "-b", "main")
    commit(root, "first")
    return root


def commit(root: Path, subject: str) -> str:
    git(root, "add", "-A")
    git(root, "commit", "-q", "-m", subject)
    return git(root, "rev-parse", "HEAD")


async def test_a_clean_checkout_is_its_commit(repo: Path) -> None:
    tree = await Checkout(repo).newest()

    assert tree.commit.sha == git(repo, "rev-parse", "HEAD")
    assert (tree.commit.author, tree.commit.subject) == ("a@example.org", "first")


async def test_an_edited_checkout_never_claims_its_commit(repo: Path) -> None:
    head = git(repo, "rev-parse", "HEAD")
    (repo / "spec" / "model" / "new.yaml").write_text("two")
    one = (await Checkout(repo).newest()).commit.sha
    (repo / "spec" / "model" / "new.yaml").write_text("three")
    other = (await Checkout(repo).newest()).commit.sha

    assert one.startswith(f"{head}+")
    assert one != other


async def test_a_folder_without_git_is_named_by_its_content(tmp_path: Path) -> None:
    (tmp_path / "spec").mkdir()
    sha = (await Checkout(tmp_path).newest()).commit.sha

    assert sha.startswith("0" * 40 + "+")


async def test_a_folder_without_spec_is_refused_with_the_way_out(
    tmp_path: Path,
) -> None:
    with pytest.raises(PermanentError, match="bud init"):
        await Checkout(tmp_path).newest()


async def test_a_remote_branch_is_followed_commit_by_commit(
    repo: Path, tmp_path: Path
) -> None:
    source = RemoteBranch(str(repo), "main", tmp_path / "home")
    first = await source.newest()
    (repo / "spec" / "model" / "m.yaml").write_text("two")
    second_sha = commit(repo, "second")
    second = await source.newest()

    assert (first.root / "spec/model/m.yaml").read_text() == "one"
    assert (second.root / "spec/model/m.yaml").read_text() == "two"
    assert second.commit.sha == second_sha


async def test_uncommitted_edits_of_a_remote_do_not_count(
    repo: Path, tmp_path: Path
) -> None:
    (repo / "spec" / "model" / "m.yaml").write_text("edited")
    tree = await RemoteBranch(str(repo), "main", tmp_path / "home").newest()

    assert (tree.root / "spec/model/m.yaml").read_text() == "one"


async def test_a_branch_that_was_forced_back_is_followed(
    repo: Path, tmp_path: Path
) -> None:
    source = RemoteBranch(str(repo), "main", tmp_path / "home")
    first = (await source.newest()).commit.sha
    (repo / "spec" / "model" / "m.yaml").write_text("two")
    commit(repo, "second")
    await source.newest()
    git(repo, "reset", "-q", "--hard", first)

    assert (await source.newest()).commit.sha == first


async def test_a_remote_that_is_gone_is_a_wait_not_an_empty_tree(
    repo: Path, tmp_path: Path
) -> None:
    source = RemoteBranch(str(repo), "main", tmp_path / "home")
    await source.newest()
    repo.rename(tmp_path / "elsewhere")

    with pytest.raises(TemporaryError, match="git fetch"):
        await source.newest()


async def test_a_link_out_of_the_repository_arrives_as_a_plain_file(
    repo: Path, tmp_path: Path
) -> None:
    """CVE-2022-31036: a committed link showed files of the server."""
    (repo / "spec" / "model" / "leak.yaml").symlink_to("/etc/passwd")
    commit(repo, "leak")
    tree = await RemoteBranch(str(repo), "main", tmp_path / "home").newest()
    leak = tree.root / "spec/model/leak.yaml"

    assert not leak.is_symlink()
    assert leak.read_text() == "/etc/passwd"


async def test_nothing_of_a_repository_is_run(repo: Path, tmp_path: Path) -> None:
    """Hooks, filters and a monitor that the repository names."""
    marker = tmp_path / "ran"
    script = f"touch {marker}; cat"
    git(repo, "config", "core.fsmonitor", f"sh -c '{script}'")
    git(repo, "config", "filter.evil.smudge", f"sh -c '{script}'")
    (repo / ".gitattributes").write_text("*.yaml filter=evil\n")
    hook = repo / ".git" / "hooks" / "post-checkout"
    hook.write_text(f"#!/bin/sh\n{script}\n")
    hook.chmod(0o755)
    commit(repo, "evil")
    marker.unlink(missing_ok=True)
    await RemoteBranch(str(repo), "main", tmp_path / "home").newest()

    assert not marker.exists()


@pytest.mark.parametrize(
    ("url", "branch"), [("--upload-pack=touch x", "main"), ("/repo", "--exec=x")]
)
def test_an_option_in_place_of_a_name_is_refused(
    tmp_path: Path, url: str, branch: str
) -> None:
    with pytest.raises(PermanentError, match="begins with '-'"):
        RemoteBranch(url, branch, tmp_path)


async def test_a_protocol_that_runs_programs_is_refused(tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    source = RemoteBranch(f"ext::sh -c touch% {marker}", "main", tmp_path / "home")

    with pytest.raises(TemporaryError, match="git fetch"):
        await source.newest()
    assert not marker.exists()


async def test_a_commit_needs_the_signature_of_a_trusted_key(
    repo: Path, tmp_path: Path
) -> None:
    key = tmp_path / "key"
    subprocess.run(  # noqa: ASYNC221  a fixture, not the code under test
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True
    )
    signers = tmp_path / "signers"
    signers.write_text(f"a@example.org {key.with_suffix('.pub').read_text()}")
    source = RemoteBranch(str(repo), "main", tmp_path / "home", signers=signers)

    with pytest.raises(PermanentError, match="no good signature"):
        await source.newest()

    git(repo, "-c", "gpg.format=ssh", "-c", f"user.signingkey={key}",
        "commit", "-q", "--allow-empty", "-S", "-m", "signed")  # fmt: skip
    assert (await source.newest()).commit.subject == "signed"

    signers.write_text("")
    with pytest.raises(PermanentError, match="no good signature"):
        await source.newest()


async def test_a_saved_file_is_noticed(repo: Path) -> None:
    stop = asyncio.Event()
    changes = Checkout(repo).changes(stop)
    seen = asyncio.ensure_future(anext(changes))

    async def write_until_seen() -> None:
        for i in range(1000):
            (repo / "spec" / "model" / "m.yaml").write_text(str(i))
            done, _ = await asyncio.wait([seen], timeout=0.1)
            if done:
                return

    await write_until_seen()

    assert seen.done()
    stop.set()
    with pytest.raises(StopAsyncIteration):
        await anext(changes)


async def test_a_remote_is_asked_again_after_its_pause(
    repo: Path, tmp_path: Path
) -> None:
    stop = asyncio.Event()
    changes = RemoteBranch(str(repo), "main", tmp_path / "home", poll_s=0.001).changes(
        stop
    )

    await anext(changes)
    await anext(changes)
    stop.set()
    with pytest.raises(StopAsyncIteration):
        await anext(changes)
