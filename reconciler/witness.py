"""Checkpoints kept outside the store: a chain of commits under a git ref (I/O).

The daemon exports after an apply, `bud log verify` reads back. Whoever holds both
the database and its key can rewrite both; what was pushed from
``refs/bud/ledger/<environment>`` they cannot. A witness never moves to a
checkpoint that does not contain the last one. It never pushes by itself.
"""

from __future__ import annotations

import base64
from pathlib import Path

from reconciler.ledger import Checkpoint, Verifier, merkle, open_checkpoint
from reconciler.source import git
from reconciler.store import Log
from schemas.errors import ChainBrokenError

__all__ = ["checkpoints", "export", "ref"]

_FILE = "checkpoint"
_AUTHOR = ("-c", "user.name=Bud Foundry", "-c", "user.email=ledger@bud.invalid")


def ref(environment: str) -> str:
    return f"refs/bud/ledger/{environment}"


async def export(repo: Path, environment: str, log: Log) -> Checkpoint:
    """Commit the log's head on top of the last one; once if nothing was added.

    Raises:
        ChainBrokenError: the log does not contain what was exported before.
        PermanentError: nothing is recorded yet.
        TemporaryError: git failed, or somebody else exported at the same time.
    """
    head = log.checkpoint()
    tip = await _tip(repo, environment)
    kept = await _notes(repo, [tip] if tip else [])
    for note in kept:
        last = open_checkpoint(note, [log.verifier])
        if last.note == head.note:
            return head
        _check_growth(last, head, log)
    blob = await git("hash-object", "-w", "--stdin", cwd=repo, stdin=head.note.encode())
    tree = await git(
        "mktree", cwd=repo, stdin=f"100644 blob {blob.strip()}\t{_FILE}\n".encode()
    )
    parent = ("-p", tip) if tip else ()
    subject = f"Witness {head.size} entries of {environment}"
    commit = await git(
        *_AUTHOR, "commit-tree", tree.strip(), *parent, "-m", subject, cwd=repo
    )
    # An empty old value: the ref must not be there yet.
    await git("update-ref", ref(environment), commit.strip(), tip, cwd=repo)
    return head


def _check_growth(last: Checkpoint, head: Checkpoint, log: Log) -> None:
    if last.size <= head.size:
        hashes = log.prove_growth(last.size, head.size).hashes
        proof = [base64.b64decode(item) for item in hashes]
        if merkle.check_consistency(last.size, head.size, proof, last.root, head.root):
            return
    raise ChainBrokenError(
        f"cannot export checkpoint of {head.size} entries: the log does not contain "
        f"the {last.size} that were exported before",
        seq=min(last.size, head.size),
        expected=last.root.hex(),
        found=head.root.hex(),
    )


async def checkpoints(
    repo: Path, environment: str, verifier: Verifier
) -> list[Checkpoint]:
    """Everything that was exported, newest first.

    Raises:
        ChainBrokenError: one of them is not signed by ``verifier``.
        TemporaryError: git failed.
    """
    tip = await _tip(repo, environment)
    commits = (await git("rev-list", tip, cwd=repo)).split() if tip else []
    return [open_checkpoint(note, [verifier]) for note in await _notes(repo, commits)]


async def _tip(repo: Path, environment: str) -> str:
    found = await git(
        "for-each-ref", "--format=%(objectname)", ref(environment), cwd=repo
    )
    return found.strip()


async def _notes(repo: Path, commits: list[str]) -> list[str]:
    """All with one call: a log of years has thousands."""
    wanted = "".join(f"{commit}:{_FILE}\n" for commit in commits).encode()
    said = (await git("cat-file", "--batch", cwd=repo, stdin=wanted)).encode(
        errors="surrogateescape"
    )
    notes = []
    while said:
        header, _, said = said.partition(b"\n")
        name, _, size = header.partition(b" blob ")
        if not size.isdigit():
            raise ChainBrokenError(
                f"cannot read exported checkpoint: {name.decode(errors='replace')}",
                seq=-1,
                expected=f"a file {_FILE} in every commit",
            )
        notes.append(said[: int(size)].decode(errors="replace"))
        said = said[int(size) + 1 :]
    return notes
