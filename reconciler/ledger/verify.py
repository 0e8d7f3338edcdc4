"""Whether a ledger is the one it was: chain, tree and checkpoints in one pass.

The store feeds its rows, the command the lines of an exported file. Pure, and
in constant memory: the right edge of the tree and one hash.

What a pass can find depends on what it is held against. The chain alone finds
an edited, dropped, repeated or swapped entry; only a checkpoint finds a
shortened or rewritten log, and only one that was kept elsewhere finds it when
whoever did it also holds the key.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from reconciler.ledger.entry import GENESIS, link, read_fields
from reconciler.ledger.merkle import Tree, leaf_hash
from reconciler.ledger.note import Checkpoint
from schemas.errors import ChainBrokenError

__all__ = ["Head", "Replay", "verify"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """The end of a verified log."""

    size: int
    hash: bytes
    root: bytes
    witnessed: int
    """Entries that a checkpoint vouches for; the rest are only chained."""


class Replay:
    """Feed every line in order, then `finish`."""

    __slots__ = ("_checkpoints", "_witnessed", "fields", "hash", "nodes", "tree")

    def __init__(self, checkpoints: Iterable[Checkpoint] = ()) -> None:
        self.hash = GENESIS
        self.tree = Tree()
        self.fields: dict[str, Any] = {}
        """Of the line fed last."""
        self.nodes: tuple[bytes, ...] = ()
        """Of the tree, completed by the line fed last."""
        self._checkpoints = sorted(checkpoints, key=lambda c: c.size, reverse=True)
        self._witnessed = 0
        self._compare()

    def feed(self, line: bytes) -> None:
        """Raises: ChainBrokenError: it is not the entry that belongs here."""
        seq, prev = self.tree.size, self.hash.hex()
        try:
            fields = read_fields(line)
        except ValueError as error:
            raise ChainBrokenError(
                f"cannot verify entry {seq}: {error}",
                seq=seq,
                expected="an entry in canonical JSON",
                found=line[:300].decode(errors="replace"),
            ) from error
        if fields["seq"] != seq or fields["prev"] != prev:
            raise ChainBrokenError(
                f"cannot verify entry {seq}: found entry {fields['seq']!r} "
                f"that follows {fields['prev']!r}",
                seq=seq,
                expected=prev,
                found=str(fields["prev"]),
            )
        self.hash = link(self.hash, line)
        self.nodes = self.tree.append(leaf_hash(line))
        self.fields = fields
        if self._checkpoints and self._checkpoints[-1].size == self.tree.size:
            self._compare()

    def finish(self) -> Head:
        """Raises: ChainBrokenError: a checkpoint promised more entries."""
        size = self.tree.size
        if self._checkpoints:
            raise ChainBrokenError(
                f"cannot verify entry {size}: the log ends before it, and a "
                f"checkpoint promised {self._checkpoints[0].size} entries",
                seq=size,
                expected=f"{self._checkpoints[0].size} entries",
                found=f"{size} entries",
            )
        return Head(
            size=size, hash=self.hash, root=self.tree.root(), witnessed=self._witnessed
        )

    def _compare(self) -> None:
        """Hold the log so far against every checkpoint of this size."""
        size = self.tree.size
        while self._checkpoints and self._checkpoints[-1].size == size:
            promised, found = self._checkpoints.pop().root, self.tree.root()
            if promised != found:
                raise ChainBrokenError(
                    f"cannot verify the first {size} entries: the log was rewritten "
                    "or forked, a checkpoint promised another root",
                    seq=size - 1,
                    expected=promised.hex(),
                    found=found.hex(),
                )
            self._witnessed = size


def verify(lines: Iterable[bytes], checkpoints: Iterable[Checkpoint] = ()) -> Head:
    """Verify an exported log: one entry a line, each ended by a newline.

    Raises:
        ChainBrokenError: with the first entry that is not what it should be.
    """
    replay = Replay(checkpoints)
    for line in lines:
        if not line.endswith(b"\n"):
            raise ChainBrokenError(
                f"cannot verify entry {replay.tree.size}: its line is cut off",
                seq=replay.tree.size,
                expected="a newline at its end",
                found=line[-80:].decode(errors="replace"),
            )
        replay.feed(line[:-1])
    return replay.finish()
