"""Reading the ledger: entries, export, verification, proofs (I/O).

`Store.log` is one of these. It appends nothing; it signs only what the signed
head already implies.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, CursorResult, Engine, Row, Select, select

from reconciler.ledger import (
    GENESIS,
    Checkpoint,
    ConsistencyProof,
    Entry,
    Head,
    InclusionProof,
    Replay,
    Signer,
    Verifier,
    link,
    open_checkpoint,
    prove_consistency,
    prove_inclusion,
    sign_checkpoint,
)
from reconciler.ledger.merkle import (
    Nodes,
    Tree,
    check_consistency,
    consistency_proof,
    leaf_hash,
)
from reconciler.ledger.merkle import root as merkle_root
from reconciler.store.database import reading
from reconciler.store.key import create_key, read_key
from reconciler.store.rows import check_row, to_entry
from reconciler.store.tables import checkpoints, ledger
from schemas.errors import ChainBrokenError, PermanentError

__all__ = ["Log"]

_HASH = 32
_PAGE = 1000
_LOOKED_BACK = 5000
_SUCCESSES = ("created", "changed", "unchanged")
"""Rows held in memory at a time."""


class Log:
    def __init__(self, engine: Engine, key: Path, origin: str) -> None:
        self._engine, self._key, self._origin = engine, key, origin

    @property
    def verifier(self) -> Verifier:
        """The public key; printed, it is what others pin."""
        with reading(self._engine, "read ledger") as connection:
            return self.signer(connection).verifier

    def signer(self, connection: Connection) -> Signer:
        """The key, made if there is nothing yet that another one signed.

        Raises:
            PermanentError: it is not there any more, or cannot be trusted.
        """
        if not self._key.exists() and self._last(connection) is None:
            return create_key(self._key, self._origin)
        return read_key(self._key, self._origin)

    def entries(
        self, *, plan: str = "", target: str = "", limit: int = 100
    ) -> list[Entry]:
        """The newest entries first, of one plan or target if named."""
        found = select(ledger.c.seq, ledger.c.line).order_by(ledger.c.seq.desc())
        if plan:
            found = found.where(ledger.c.plan == plan)
        if target:
            found = found.where(ledger.c.target == target)
        with reading(self._engine, "read ledger") as connection:
            return [to_entry(*row) for row in connection.execute(found.limit(limit))]

    def success(self, target: str, digests: Collection[str]) -> Entry | None:
        """The newest entry by which one of ``digests`` came to live at ``target``."""
        for entry in self.entries(target=target, limit=_LOOKED_BACK):
            if entry.after in digests and entry.outcome in _SUCCESSES:
                return entry
        return None

    def lines(self) -> Iterator[bytes]:
        """Every line, oldest first, as `verify` reads them back."""
        with (
            reading(self._engine, "read ledger") as connection,
            _stream(connection, select(ledger.c.line)) as found,
        ):
            for row in found:
                yield row.line + b"\n"

    def checkpoint(self, size: int | None = None) -> Checkpoint:
        """The signed head, or what it implies for the first ``size`` entries.

        Raises:
            PermanentError: nothing is recorded yet, or not as many.
        """
        with reading(self._engine, "read checkpoint") as connection:
            head = self._head(connection)
            if head is None or (size is not None and not 0 < size <= head.size):
                raise PermanentError(
                    f"cannot sign checkpoint of {size or 'an empty log'}: "
                    f"the log has {head.size if head else 0} entries"
                )
            if size is None or size == head.size:
                return head
            return self._older(size, head, connection)

    def _older(self, size: int, head: Checkpoint, connection: Connection) -> Checkpoint:
        nodes = _nodes(connection)
        root, proof = (
            merkle_root(size, nodes),
            consistency_proof(size, head.size, nodes),
        )
        # Signing a root that the head does not contain would be forking ourselves.
        if not check_consistency(size, head.size, proof, root, head.root):
            raise ChainBrokenError(
                f"cannot sign checkpoint of {size}: the tree does not lead to the head",
                seq=size,
                expected=head.root.hex(),
            )
        return sign_checkpoint(self.signer(connection), size, root)

    def prove(self, seq: int) -> InclusionProof:
        """That entry ``seq`` is in the log that the head signed."""
        checkpoint = self.checkpoint()
        with reading(self._engine, "prove entry") as connection:
            found = select(ledger.c.line).where(ledger.c.seq == seq)
            line = connection.execute(found).scalar()
            if line is None:
                raise PermanentError(
                    f"cannot prove entry {seq}: the log has {checkpoint.size} entries"
                )
            return prove_inclusion(line, seq, checkpoint, _nodes(connection))

    def prove_growth(self, old: int, new: int | None = None) -> ConsistencyProof:
        """That the first ``old`` entries are still what the log begins with."""
        before, after = self.checkpoint(old), self.checkpoint(new)
        if before.size > after.size:
            raise PermanentError(f"cannot prove growth from {old} to {after.size}")
        with reading(self._engine, "prove growth") as connection:
            return prove_consistency(before, after, _nodes(connection))

    def verify(self, witnesses: Iterable[Checkpoint] = ()) -> Head:
        """Hold every row against the chain, the tree and every checkpoint.

        ``witnesses`` are checkpoints kept elsewhere: without one, whoever holds
        both the database and the key can rewrite both.

        Raises:
            ChainBrokenError: with the first entry that is not what it should be.
        """
        with reading(self._engine, "verify ledger") as connection:
            replay = Replay([*self._promises(connection), *witnesses])
            with _stream(connection, select(ledger)) as found:
                for row in found:
                    replay.feed(row.line)
                    check_row(row, replay)
        head = replay.finish()
        if head.witnessed < head.size:
            raise ChainBrokenError(
                f"cannot verify entry {head.witnessed}: no checkpoint covers it",
                seq=head.witnessed,
                expected=f"a checkpoint of {head.size} entries",
                found=f"one of {head.witnessed}",
            )
        return head

    def size(self, connection: Connection) -> int:
        """How many entries there are."""
        last = self._last(connection)
        return last.seq + 1 if last else 0

    def end(self, connection: Connection) -> tuple[Tree, bytes]:
        """Where the next entry goes: the tree and the chain's hash.

        Raises:
            ChainBrokenError: the rows do not lead to the signed head; a broken
                ledger is never extended.
        """
        last, head = self._last(connection), self._head(connection)
        if last is None and head is None:
            return Tree(), GENESIS
        size = last.seq + 1 if last else 0
        nodes = _nodes(connection)
        tree = Tree.of(size, nodes)
        promised = head and (head.size, head.root)
        if last is None or promised != (size, tree.root()):
            raise ChainBrokenError(
                f"cannot continue ledger after {size} entries: the last checkpoint "
                f"is of {head.size if head else 0}",
                seq=size,
                expected=head.root.hex() if head else "",
                found=tree.root().hex(),
            )
        prev = bytes.fromhex(to_entry(last.seq, last.line).prev)
        if (link(prev, last.line), leaf_hash(last.line)) != (
            last.hash,
            nodes(0, last.seq),
        ):
            raise ChainBrokenError(
                f"cannot continue ledger after entry {last.seq}: its line was changed",
                seq=last.seq,
            )
        return tree, last.hash

    def _promises(self, connection: Connection) -> Iterator[Checkpoint]:
        known = [self.signer(connection).verifier]
        for size, note in connection.execute(select(checkpoints)).all():
            checkpoint = open_checkpoint(note, known)
            if checkpoint.size != size:
                raise ChainBrokenError(
                    f"cannot verify checkpoint of {size}: it says {checkpoint.size}",
                    seq=size,
                    expected=str(size),
                    found=str(checkpoint.size),
                )
            yield checkpoint

    def _head(self, connection: Connection) -> Checkpoint | None:
        newest = select(checkpoints.c.note).order_by(checkpoints.c.size.desc()).limit(1)
        note = connection.execute(newest).scalar()
        if note is None:
            return None
        return open_checkpoint(note, [self.signer(connection).verifier])

    def _last(self, connection: Connection) -> Row[Any] | None:
        newest = select(ledger).order_by(ledger.c.seq.desc()).limit(1)
        return connection.execute(newest).one_or_none()


def _stream(connection: Connection, rows: Select[Any]) -> CursorResult[Any]:
    """Every row in order, a page at a time; to be closed."""
    streaming = connection.execution_options(yield_per=_PAGE)
    return streaming.execute(rows.order_by(ledger.c.seq))


def _nodes(connection: Connection) -> Nodes:
    """Node (level, index) was completed by the last entry below it."""

    def read(level: int, index: int) -> bytes:
        seq = ((index + 1) << level) - 1
        found = select(ledger.c.nodes).where(ledger.c.seq == seq)
        node = (connection.execute(found).scalar() or b"")[level * _HASH :][:_HASH]
        if len(node) != _HASH:
            raise ChainBrokenError(
                f"cannot read node {level}/{index}: entry {seq} does not carry it",
                seq=seq,
            )
        return node

    return read
