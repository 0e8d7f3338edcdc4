"""One writer at a time, or replicas that share, and proof of it (I/O).

`Store.lead` and `Store.share` use it. The lock keeps honest writers apart: a file lock
beside a SQLite database, a session's advisory lock in PostgreSQL, both gone with the
process that held them. The generation stops a writer that lost the lock and
does not know it: every append compares it within its transaction.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

from sqlalchemy import Connection, Engine, select, text, update

from reconciler.store.database import explain, reading, writing
from reconciler.store.tables import leadership, shards
from reconciler.store.values import Leader
from schemas.errors import FoundryError, PermanentError, TemporaryError

__all__ = ["check_leader", "current_leader", "hold", "take_over"]

_LEADER_LOCK = 0x62756402
"""PostgreSQL advisory lock, of this database; see `database` for its neighbour."""
_RETRY_S = 5.0


@contextmanager
def hold(engine: Engine, *, shared: bool = False) -> Iterator[Connection]:
    """Hold the lock, and the connection to write with, until the block is left.

    ``shared``: with others that share, and with nobody who leads alone.

    Raises:
        TemporaryError: somebody else holds it; says who.
    """
    if engine.dialect.name == "sqlite":
        with _file_lock(engine, shared=shared), engine.connect() as connection:
            yield connection
        return
    mode = "_shared" if shared else ""
    with explain("lead store"):
        connection = engine.connect()
    with connection:
        try:
            with writing(connection, "lead store"):
                taken = text(f"SELECT pg_try_advisory_lock{mode}({_LEADER_LOCK})")
                if not connection.execute(taken).scalar():
                    raise _taken(engine)
            yield connection
        finally:
            # A closed session keeps its lock until the server has seen it; a lost one
            # has none to give back.
            with suppress(FoundryError), writing(connection, "end leading"):
                done = text(f"SELECT pg_advisory_unlock{mode}({_LEADER_LOCK})")
                connection.execute(done)
            connection.invalidate()


@contextmanager
def _file_lock(engine: Engine, *, shared: bool) -> Iterator[None]:
    path = Path(f"{engine.url.database}.lock")
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_RDWR, 0o600)
    except OSError as error:
        raise PermanentError(f"cannot lead store: {error}") from error
    try:
        try:
            how = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
            fcntl.flock(descriptor, how | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise _taken(engine) from error
        yield
    finally:
        os.close(descriptor)


def _taken(engine: Engine) -> TemporaryError:
    with reading(engine, "read leader") as connection:
        holders = select(shards.c.holder).where(shards.c.holder != "").distinct()
        sharing = sorted(connection.execute(holders).scalars())
        leader = _leader(connection)
    who = f"{', '.join(sharing)} share it" if sharing else f"{leader} leads it"
    return TemporaryError(
        f"cannot lead store: {who}",
        hint="one process applies at a time, or replicas do; wait, or stop them",
        retry_after_s=_RETRY_S,
    )


def current_leader(engine: Engine) -> Leader:
    """Who led last; it may have ended since."""
    with reading(engine, "read leader") as connection:
        return _leader(connection)


def take_over(connection: Connection, owner: str, now: datetime) -> Leader:
    """Depose every earlier leader, for good."""
    with writing(connection, "lead store"):
        connection.execute(
            update(leadership).values(
                generation=leadership.c.generation + 1,
                owner=owner,
                since=now,
            )
        )
        return _leader(connection)


def check_leader(connection: Connection, generation: int) -> None:
    """Within a writing transaction: refuse a deposed leader, and hold off the next.

    Raises:
        PermanentError: somebody else leads.
    """
    leader = _leader(connection)
    if leader.generation != generation:
        raise PermanentError(
            f"cannot append to ledger: {leader} leads it now",
            hint="this process was deposed and must stop applying",
        )


def _leader(connection: Connection) -> Leader:
    found = select(leadership)
    if connection.get_execution_options().get("writes"):
        found = found.with_for_update()
    row = connection.execute(found).one()
    return Leader(generation=row.generation, owner=row.owner, since=row.since)
