"""Where the spec comes from: a checkout on this machine, or a remote branch (I/O).

The daemon and the commands ask a source for the newest tree and its name. It runs
git and nothing from the repository: no hooks, no filters, no configuration of its
own, and symbolic links arrive as plain files. It never reads a spec.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from watchfiles import awatch

from reconciler.values import Commit
from schemas.errors import PermanentError, TemporaryError

__all__ = ["Checkout", "RemoteBranch", "Source", "Tree", "git", "lay_out"]

_TIMEOUT_S = 120.0
_WATCHED = ("spec", "environments")
_DEBOUNCE_MS = 200
"""An editor writes a file in several steps; a save counts once."""
_KEPT_TREES = 3
"""Trees of a remote branch that stay on disk: the one in force and two before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tree:
    root: Path
    commit: Commit
    signed: bool = False
    """Somebody we trust signed the commit, and it was checked."""


class Source(Protocol):
    async def newest(self) -> Tree:
        """The tree to work from.

        Raises:
            TemporaryError: it cannot be read now; what is in force stays.
            PermanentError: it is refused (no repository, no signature).
        """
        ...

    def changes(self, stop: asyncio.Event) -> AsyncIterator[None]:
        """Yield whenever the newest tree may be another one, until ``stop``."""
        ...


async def git(
    *args: str, cwd: Path, stdin: bytes | None = None, index: Path | None = None
) -> str:
    """Run git with nothing but what we gave it; return what it printed.

    ``index`` is a file to use instead of the repository's own.

    Raises:
        TemporaryError: it failed or took too long.
    """
    kept = {k: v for k, v in os.environ.items() if k in _ENVIRONMENT}
    # No configuration but ours: a repository's own could name a program to run.
    settings = kept | {
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_ALLOW_PROTOCOL": "https:ssh:file",
        "GIT_OPTIONAL_LOCKS": "0",
    }
    if index is not None:
        settings["GIT_INDEX_FILE"] = str(index)
    child = await asyncio.create_subprocess_exec(
        "git", "-c", f"core.hooksPath={os.devnull}", "-c", "core.fsmonitor=false",
        "-c", "safe.directory=*", "-c", "core.symlinks=false", *args,
        cwd=cwd, env=settings,
        stdin=asyncio.subprocess.DEVNULL if stdin is None else asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        async with asyncio.timeout(_TIMEOUT_S):
            out, err = await child.communicate(stdin)
    except TimeoutError as error:
        raise TemporaryError(
            f"cannot run git {args[0]}: no answer in {_TIMEOUT_S:.0f} s"
        ) from error
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()
    if child.returncode:
        said = err.decode(errors="replace").strip()
        raise TemporaryError(f"cannot run git {args[0]}: {said[-400:]}")
    return out.decode(errors="surrogateescape")


_ENVIRONMENT = frozenset(
    (
        "PATH",
        "HOME",
        "SSH_AUTH_SOCK",
        "SSL_CERT_FILE",
        "HTTPS_PROXY",
        "NO_PROXY",
        "LANG",
    )
)


class Checkout:
    """The work tree somebody edits: what is on disk counts, committed or not.

    A tree that differs from its commit is named ``<sha>+<12 hex>``, after what it
    holds, so that the ledger never claims a commit for what is not in it.
    """

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()

    async def newest(self) -> Tree:
        if not (self.root / "spec").is_dir():
            raise PermanentError(
                f"cannot read spec: {self.root} has no folder spec/",
                hint="name the repository with --repo, or make one with `bud init DIR`",
            )
        return Tree(root=self.root, commit=await self._commit())

    async def changes(self, stop: asyncio.Event) -> AsyncIterator[None]:
        watched = [self.root / name for name in (*_WATCHED, ".git/logs")]
        present = [path for path in watched if path.is_dir()]
        async for _ in awatch(*present, stop_event=stop, debounce=_DEBOUNCE_MS):
            yield

    async def _commit(self) -> Commit:
        try:
            head = await git("log", "-1", "--format=%H%n%ae%n%s", cwd=self.root)
            sha, author, subject = head.rstrip("\n").split("\n", 2)
            changed = await git(
                "status", "--porcelain", "--untracked-files=all", "--", *_WATCHED,
                cwd=self.root,
            )  # fmt: skip
        except TemporaryError:
            # Not a repository, or one without a commit: its content is its name.
            sha, author, subject, changed = "0" * 40, "", "", "everything"
        if not changed:
            return Commit(sha=sha, author=author, subject=subject)
        content = await asyncio.to_thread(_digest, self.root)
        return Commit(sha=f"{sha}+{content[:12]}", author=author, subject=subject)


def _digest(root: Path) -> str:
    total = hashlib.sha256()
    for folder in _WATCHED:
        for path in sorted((root / folder).rglob("*")):
            if path.is_file() and not path.is_symlink():
                total.update(f"{path.relative_to(root)}\0".encode())
                total.update(hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()


class RemoteBranch:
    """One branch of a remote repository, by its commits alone.

    Each commit gets a folder of its own, complete before anybody reads it, so a
    fetch never changes a tree that is in use.
    """

    def __init__(
        self,
        url: str,
        branch: str,
        home: Path,
        *,
        poll_s: float = 30.0,
        signers: Path | None = None,
    ) -> None:
        """With ``signers``, an OpenSSH allowed-signers file, a commit needs a
        signature by one of them."""
        for what in (url, branch):
            if what.startswith("-"):  # git would take it for an option
                raise PermanentError(f"cannot use {what!r}: it begins with '-'")
        self._url, self._branch, self._poll_s = url, branch, poll_s
        self._signers = signers and signers.resolve()
        self._mirror, self._trees = home / "mirror.git", home / "trees"

    @property
    def branch(self) -> str:
        return self._branch

    @property
    def mirror(self) -> Path:
        """A bare repository that holds the branch under ``ref``."""
        return self._mirror

    @property
    def ref(self) -> str:
        return f"refs/remotes/source/{self._branch}"

    async def newest(self) -> Tree:
        await self._fetch()
        head = await git(
            "log", "-1", "--format=%H%n%ae%n%s", self.ref, cwd=self._mirror
        )
        sha, author, subject = head.rstrip("\n").split("\n", 2)
        if self._signers is not None:
            await self._check_signature(sha, self._signers)
        root = self._trees / sha
        if not root.is_dir():
            await lay_out(self._mirror, sha, root)
            self._forget_old()
        return Tree(
            root=root,
            commit=Commit(sha=sha, author=author, subject=subject),
            signed=self._signers is not None,
        )

    async def changes(self, stop: asyncio.Event) -> AsyncIterator[None]:
        while not stop.is_set():
            # Jitter: a fleet of daemons must not ask a forge in the same second.
            pause = self._poll_s * random.uniform(0.8, 1.2)  # noqa: S311
            with suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), pause)
            yield

    async def _fetch(self) -> None:
        if not self._mirror.is_dir():
            self._mirror.mkdir(parents=True)
            await git("init", "--quiet", "--bare", cwd=self._mirror)
        refs = f"+refs/heads/{self._branch}:{self.ref}"
        await git(
            "fetch", "--quiet", "--no-tags", "--no-recurse-submodules", "--",
            self._url, refs, cwd=self._mirror,
        )  # fmt: skip

    async def _check_signature(self, sha: str, signers: Path) -> None:
        trusted = f"gpg.ssh.allowedSignersFile={signers}"
        try:
            await git("-c", trusted, "verify-commit", sha, cwd=self._mirror)
        except TemporaryError as error:
            raise PermanentError(
                f"cannot trust commit {sha}: it has no good signature",
                hint=f"sign it with a key that {signers} names",
            ) from error

    def _forget_old(self) -> None:
        whole = [path for path in self._trees.iterdir() if path.name[0] != "."]
        trees = sorted(whole, key=lambda path: path.stat().st_mtime)
        for old in trees[:-_KEPT_TREES]:
            if old.is_dir():
                shutil.rmtree(old, ignore_errors=True)


async def lay_out(mirror: Path, tree: str, root: Path) -> None:
    """Write the files of a commit or tree below ``root``, whole or not at all."""
    root.parent.mkdir(parents=True, exist_ok=True)
    # Names of its own: the same tree may be laid out twice at once, and a run that
    # was cancelled leaves its part behind.
    with tempfile.TemporaryDirectory(dir=root.parent, prefix=".part-") as folder:
        parts, index = Path(folder) / "tree", Path(folder) / "index"
        parts.mkdir()
        at = f"--work-tree={parts}"
        await git(at, "read-tree", tree, cwd=mirror, index=index)
        await git(at, "checkout-index", "--all", cwd=mirror, index=index)
        if not root.is_dir():
            parts.rename(root)
