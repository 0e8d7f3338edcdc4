"""The only way into the ledger and the inventory (I/O).

`Store.lead` hands one to the leader, `Store.share` one to each replica. Many tasks await it at once; one thread
gathers what is waiting and commits it together, so that a hundred appends cost
one fsync. An awaited call returns once its entries, its inventory rows and a
signed checkpoint are on the disk, all of them or none.

Replicas share one chain: whoever appends holds the others off for one transaction, goes
on from where they ended, and is refused for a shard that was claimed since by another.
It never decides what to write, and after a failed write it writes no more.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from queue import Empty, SimpleQueue

from sqlalchemy import Connection, bindparam, delete, insert

from reconciler.ledger import (
    DECIDED,
    GENESIS,
    INTENDED,
    Draft,
    Entry,
    Signer,
    link,
    seal,
    sign_checkpoint,
)
from reconciler.ledger.merkle import Tree, leaf_hash
from reconciler.sharding import shard_of
from reconciler.store import rows, tables
from reconciler.store.database import put, writing
from reconciler.store.leadership import check_leader
from reconciler.store.log import Log
from reconciler.store.shards import fenced_off
from reconciler.store.tables import checkpoints, inventory, ledger
from reconciler.store.values import Decision, Fenced, Owned, Ownership
from reconciler.values import Key, Unit
from schemas.errors import FoundryError, PermanentError, TemporaryError

__all__ = ["Journal"]

_MAX_BATCH = 1024
"""Requests in one commit: bounds how long the first of them waits."""
_KEEP_EVERY = 1024
"""Of each block of so many entries the last checkpoint is kept; others can be
signed again, for their roots can be computed again."""


_Answer = tuple[Entry, ...] | Exception
_End = tuple[Tree, bytes]
_Waiter = asyncio.Future[tuple[Entry, ...]]


@dataclass(frozen=True, slots=True)
class _Request:
    entries: tuple[Entry, ...]
    """Complete but for ``seq`` and ``prev``."""
    changes: dict[Key, Owned | None]
    """None: the row leaves."""
    former: tuple[Unit, ...]
    decided: tuple[int, ...]
    at: datetime
    done: _Waiter


class Journal:
    """Appends in order, while its leader leads."""

    def __init__(
        self,
        connection: Connection,
        *,
        generation: int,
        signer: Signer,
        clock: Callable[[], datetime],
        end: _End,
        log: Log,
        claims: Mapping[str, int] | None,
    ) -> None:
        """``claims``: None where one leads alone."""
        self.generation = generation
        self.claims = claims
        """Shard -> token; replaced as a whole by whoever claims and releases."""
        self._connection, self._signer, self._clock = connection, signer, clock
        self._end, self._log = end, log
        self._failure: FoundryError | None = None
        self._closed = False
        self._submitting = threading.Lock()
        self._queue: SimpleQueue[_Request | None] = SimpleQueue()
        self._writer = threading.Thread(target=self._write, name="journal", daemon=True)
        self._writer.start()

    async def intend(
        self,
        drafts: Sequence[Draft],
        owned: Iterable[Owned] = (),
        former: Iterable[Unit] = (),
    ) -> tuple[Entry, ...]:
        """Before a write: say what will be attempted, and own what it may leave.

        ``former`` is what lives there until then, kept for a rollback.

        Raises:
            PermanentError: it is not known to be recorded: nothing may be applied.
            TemporaryError: the same, but it may go through later.
        """
        changes: dict[Key, Owned | None] = {item.key: item for item in owned}
        if any(draft.outcome != INTENDED for draft in drafts) or any(
            item.state is Ownership.LIVE for item in changes.values() if item
        ):
            raise PermanentError("cannot intend: an outcome before the attempt")
        return await self._submit(drafts, changes, former=tuple(former))

    async def settle(
        self,
        drafts: Sequence[Draft],
        owned: Iterable[Owned] = (),
        gone: Iterable[Key] = (),
    ) -> tuple[Entry, ...]:
        """After a write: say what became of it.

        ``gone`` are the objects that were confirmed gone: only they leave the
        inventory.

        Raises:
            PermanentError: it is not known to be recorded: the next run observes.
            TemporaryError: the same, but it may go through later.
        """
        changes: dict[Key, Owned | None] = {item.key: item for item in owned}
        if any(draft.outcome == INTENDED for draft in drafts):
            raise PermanentError("cannot settle: an intent is no outcome")
        return await self._submit(drafts, changes | dict.fromkeys(gone))

    async def record(self, decisions: Sequence[Decision]) -> tuple[Entry, ...]:
        """Put what people decided into the ledger; it waits nowhere else then.

        Raises:
            PermanentError: it is not known to be recorded.
            TemporaryError: the same, but it may go through later.
        """
        drafts = [
            Draft(
                actor=item.actor,
                commit="",
                plan="",
                step=item.said,
                target="",
                outcome=DECIDED,
            )
            for item in decisions
        ]
        return await self._submit(drafts, {}, decided=tuple(d.id for d in decisions))

    async def _submit(
        self,
        drafts: Sequence[Draft],
        changes: dict[Key, Owned | None],
        *,
        former: tuple[Unit, ...] = (),
        decided: tuple[int, ...] = (),
    ) -> tuple[Entry, ...]:
        now = self._clock()
        try:
            entries = tuple(seal(d, seq=0, at=now, prev=GENESIS) for d in drafts)
        except ValueError as error:
            raise PermanentError(str(error)) from error
        if not entries:
            raise PermanentError("cannot change inventory: no entry says why")
        done: _Waiter = asyncio.get_running_loop().create_future()
        with self._submitting:
            if self._closed:
                raise PermanentError("cannot append to ledger: the journal is closed")
            self._queue.put(_Request(entries, changes, former, decided, now, done))
        return await done

    def close(self) -> None:
        """Write what is waiting, then stop."""
        with self._submitting:
            self._closed = True
            self._queue.put(None)
        self._writer.join()

    def _write(self) -> None:
        closing = False
        while not closing:
            waiting = [self._queue.get()]
            try:
                while len(waiting) < _MAX_BATCH:
                    waiting.append(self._queue.get_nowait())
            except Empty:
                pass
            closing = None in waiting
            # Whoever stopped waiting before its turn gets nothing written.
            batch = [r for r in waiting if r and not r.done.cancelled()]
            if batch:
                self._answer(batch)

    def _answer(self, batch: list[_Request]) -> None:
        answers: list[_Answer]
        try:
            answers = self._commit(batch)
        except Exception as error:  # noqa: BLE001  a waiter must get an answer
            answers = [error] * len(batch)
        # One wake-up for each loop, not for each waiter: a wake-up costs a system
        # call, and the writer holds back the next batch meanwhile.
        waiters = [r.done for r in batch]
        for loop in {waiter.get_loop() for waiter in waiters}:
            told = [
                p for p in zip(waiters, answers, strict=True) if p[0].get_loop() is loop
            ]
            with suppress(RuntimeError):  # a closed loop has nobody waiting any more
                loop.call_soon_threadsafe(_tell, told)

    def _commit(self, batch: list[_Request]) -> list[_Answer]:
        if self._failure is not None:
            raise PermanentError(
                f"cannot append to ledger: an earlier write failed: {self._failure}",
                hint="lead again: the ledger goes on from what is on the disk",
            )
        try:
            with writing(self._connection, "append to ledger") as transaction:
                check_leader(transaction, self.generation)
                answers, end = self._append(transaction, batch)
        except FoundryError as error:
            # After a failed fsync nobody knows what the disk holds, and a lost
            # session took the lock with it. Only a turn that never came is safe.
            if not isinstance(error, TemporaryError) or self._connection.invalidated:
                self._failure = error
            raise
        self._end = end
        return answers

    def _append(
        self, transaction: Connection, batch: list[_Request]
    ) -> tuple[list[_Answer], _End]:
        claims, (tree, head) = self.claims, self._end
        fenced = frozenset[str]()
        if claims is not None:
            fenced = fenced_off(transaction, claims)
            if self._log.size(transaction) != tree.size:
                tree, head = self._log.end(transaction)
        tree = Tree(tree.size, tree.peaks)
        answers, lines, taken = list[_Answer](), list[dict[str, object]](), []
        for request in batch:
            if claims is not None and (shard := _foreign(request, claims, fenced)):
                answers.append(Fenced(shard))
                continue
            sealed = []
            for draft in request.entries:
                entry = replace(draft, seq=tree.size, prev=head.hex())
                line = entry.line()
                head = link(head, line)
                nodes = tree.append(leaf_hash(line))
                lines.append(rows.of_entry(entry, line, head, nodes))
                sealed.append(entry)
            taken.append(request)
            answers.append(tuple(sealed))
        if taken:
            self._insert(transaction, taken, lines, tree)
        return answers, (tree, head)

    def _insert(
        self,
        transaction: Connection,
        batch: list[_Request],
        lines: list[dict[str, object]],
        tree: Tree,
    ) -> None:
        checkpoint = sign_checkpoint(self._signer, tree.size, tree.root())
        block = checkpoint.size // _KEEP_EVERY * _KEEP_EVERY
        superseded = checkpoints.c.size.between(block, checkpoint.size)
        changes = {
            key: (request.at, item)
            for request in batch
            for key, item in request.changes.items()
        }
        kept = [rows.of_owned(item, at) for at, item in changes.values() if item]
        former = [rows.of_unit(unit) for request in batch for unit in request.former]
        decided = [item for request in batch for item in request.decided]
        transaction.execute(insert(ledger), lines)
        if changes:
            transaction.execute(_LEAVE, [rows.of_key(key) for key in changes])
        if kept:
            transaction.execute(insert(inventory), kept)
        for row in former:
            put(transaction, tables.former, row, replace=True)
        if decided:
            taken = tables.decisions.c.id.in_(decided)
            transaction.execute(delete(tables.decisions).where(taken))
        transaction.execute(delete(checkpoints).where(superseded))
        transaction.execute(
            insert(checkpoints), {"size": checkpoint.size, "note": checkpoint.note}
        )


def _foreign(
    request: _Request, claims: Mapping[str, int], fenced: Collection[str]
) -> str:
    """The shard of a request that is not ours to write about, if any."""
    for entry in request.entries:
        shard = shard_of(entry.target)
        if shard not in claims or shard in fenced:
            return shard
    return ""


def _tell(told: list[tuple[_Waiter, _Answer]]) -> None:
    for waiter, answer in told:
        if waiter.done():  # it stopped waiting; what was written stays written
            continue
        if isinstance(answer, Exception):
            waiter.set_exception(answer)
        else:
            waiter.set_result(answer)


_LEAVE = delete(inventory).where(
    *(
        inventory.c[name] == bindparam(f"of_{name}")
        for name in ("target", "kind", "project", "name")
    )
)
