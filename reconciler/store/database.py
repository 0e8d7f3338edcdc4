"""Opening the database, its transactions, its schema, its errors (I/O).

Only the modules of `reconciler.store` use it. Two databases are spoken to:
SQLite where nothing is configured, PostgreSQL where a URL is.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import (
    URL,
    Connection,
    Engine,
    Table,
    create_engine,
    event,
    inspect,
    text,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError

from reconciler.store.tables import SCHEMA
from schemas.errors import FoundryError, PermanentError, TemporaryError

__all__ = ["connect", "explain", "migrate", "put", "reading", "writing"]

MIGRATIONS = Path(__file__).resolve().parent.parent / "migrations"
_MIGRATION_LOCK = 0x62756401
"""PostgreSQL advisory lock; `bud` in ASCII and a number, as leadership has."""
_BUSY_S = 10
"""How long a write waits for another process's write; ours take milliseconds."""

_TEMPORARY_SQLSTATES = ("08", "40", "53300", "55P03", "57P")
"""Connection, rollback, too many connections, lock timeout, server going or coming:
PostgreSQL documentation, appendix A."""


def connect(url: str) -> Engine:
    """Raises: PermanentError: a URL that is neither of the two kinds."""
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise _not_a_store(url) from error
    if parsed.drivername == "sqlite" and parsed.database not in (None, "", ":memory:"):
        engine = _sqlite(parsed)
    elif parsed.drivername == "postgresql+psycopg":
        engine = _postgresql(parsed)
    else:
        raise _not_a_store(parsed.render_as_string(hide_password=True))
    event.listen(engine, "begin", _begin)
    return engine


def _not_a_store(url: str) -> PermanentError:
    return PermanentError(
        f"cannot open store: {url!r}",
        hint="write sqlite:///PATH or postgresql+psycopg://USER@HOST/DATABASE",
    )


def _sqlite(url: URL) -> Engine:
    path = Path(str(url.database))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # The store says what runs where: readable by its owner alone.
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
    except OSError as error:
        raise PermanentError(f"cannot open store: {error}") from error
    engine = create_engine(url)

    @event.listens_for(engine, "connect")
    def configure(connection: Any, _record: object) -> None:
        connection.isolation_level = None  # BEGIN is said by `_begin`, and only there
        for pragma in (
            f"busy_timeout={_BUSY_S * 1000}",
            "journal_mode=WAL",
            # Each commit is on the disk before it returns: an acknowledged entry
            # survives power loss, not only a crash of ours.
            "synchronous=FULL",
            "foreign_keys=ON",
        ):
            connection.execute(f"PRAGMA {pragma}")

    return engine


def _postgresql(url: URL) -> Engine:
    options = f"-c synchronous_commit=on -c lock_timeout={_BUSY_S}s -c timezone=UTC"
    return create_engine(
        url,
        connect_args={
            "options": options,
            "connect_timeout": _BUSY_S,
            "application_name": "bud",
        },
        pool_pre_ping=True,
    )


def _begin(connection: Connection) -> None:
    """A reader sees one moment of the store; a writer waits for its turn at once."""
    writes = connection.get_execution_options().get("writes", False)
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
    elif not writes:
        connection.exec_driver_sql(
            "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY"
        )


@contextmanager
def reading(engine: Engine, doing: str) -> Iterator[Connection]:
    with explain(doing), engine.connect() as connection, connection.begin():
        yield connection


@contextmanager
def writing(database: Engine | Connection, doing: str) -> Iterator[Connection]:
    """One transaction, durable once the block is left without an error."""
    if isinstance(database, Engine):
        with explain(doing), database.connect() as connection:
            connection.execution_options(writes=True)
            with connection.begin():
                yield connection
    else:
        database.execution_options(writes=True)
        with explain(doing), database.begin():
            yield database


def put(
    connection: Connection, table: Table, row: Mapping[str, Any], *, replace: bool
) -> bool:
    """Insert a row; where its key is taken, replace what is there or leave it.

    Returns whether anything was written.
    """
    statement: sqlite.Insert | postgresql.Insert = (
        sqlite.insert(table).values(row)
        if connection.dialect.name == "sqlite"
        else postgresql.insert(table).values(row)
    )
    key = list(table.primary_key)
    done = connection.execute(
        statement.on_conflict_do_update(index_elements=key, set_=row)
        if replace
        else statement.on_conflict_do_nothing(index_elements=key)
    )
    return done.rowcount == 1


@contextmanager
def explain(doing: str) -> Iterator[None]:
    """Turn the driver's errors into what the caller does next."""
    try:
        yield
    except DBAPIError as error:
        raise _explained(doing, error.orig or error) from error
    except sqlite3.Error as error:  # while it was being connected to
        raise _explained(doing, error) from error


def _explained(doing: str, error: BaseException) -> FoundryError:
    message = f"cannot {doing}: {str(error).strip() or repr(error)}"
    if isinstance(error, sqlite3.Error):
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        passes = code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
    else:
        state = getattr(error, "sqlstate", None)
        # Without a state the server was never reached, or was lost on the way.
        passes = state is None or state.startswith(_TEMPORARY_SQLSTATES)
    if passes:
        return TemporaryError(message, hint="it is tried again", retry_after_s=1)
    return PermanentError(
        message, hint="nothing was written; see the disk and the database's own log"
    )


def migrate(engine: Engine) -> None:
    """Move the schema to head, whole or not at all.

    Raises:
        PermanentError: a newer version wrote this store.
    """
    doing = "migrate store"
    with reading(engine, doing) as connection:
        if _revision(connection) == SCHEMA:
            return
    with writing(engine, doing) as connection:
        if connection.dialect.name == "postgresql":
            connection.execute(text(f"SELECT pg_advisory_xact_lock({_MIGRATION_LOCK})"))
        _upgrade(connection)


def _revision(connection: Connection) -> str | None:
    if not inspect(connection).has_table("alembic_version"):
        return None
    found = connection.execute(text("SELECT version_num FROM alembic_version"))
    return found.scalar()


def _upgrade(connection: Connection) -> None:
    # Imported here: it takes longer than most commands, and most never migrate.
    from alembic import command  # noqa: PLC0415
    from alembic.config import Config  # noqa: PLC0415
    from alembic.script import ScriptDirectory  # noqa: PLC0415

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    current = _revision(connection)
    known = {
        script.revision
        for script in ScriptDirectory.from_config(config).walk_revisions()
    }
    if current is not None and current not in known:
        raise PermanentError(
            f"cannot open store: its schema is {current}, this version knows "
            f"up to {SCHEMA}",
            hint="a newer version of bud wrote it: use that version or a newer one",
        )
    command.upgrade(config, "head")
