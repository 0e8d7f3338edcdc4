"""What outlives a request: files, batches and responses of projects (I/O).

One table of documents. Every read and write names the project, so that no other
project's is ever found, and a write says which version it was made from, so that
of two writers one finds out. SQLite where nothing is configured, PostgreSQL where
a URL is. Calls block: the aiohttp side makes them in threads.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Engine,
    Float,
    Index,
    MetaData,
    Row,
    Select,
    Table,
    Text,
    create_engine,
    delete,
    event,
    func,
    insert,
    select,
    update,
)
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from gateway.documents import Document, Kind
from schemas.errors import PermanentError

__all__ = ["Store", "open_store"]

_TABLES = MetaData()
_DOCUMENTS = Table(
    "gateway_documents",
    _TABLES,
    Column("project", Text, primary_key=True),
    Column("kind", Text, primary_key=True),
    Column("id", Text, primary_key=True),
    Column("version", BigInteger, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger),
    Column("bytes", BigInteger, nullable=False),
    Column("key", Text),
    Column("owner", Text),
    Column("lease_until", Float),
    Column("body", Text, nullable=False),
    Index("gateway_documents_by_age", "project", "kind", "created_at", "id"),
    Index("gateway_documents_to_do", "kind", "lease_until"),
)
_C = _DOCUMENTS.c
_BUSY_MS = 10_000
"""How long a write waits for another process's write; ours take milliseconds."""


class Store:
    """Documents, and who works on them."""

    def __init__(self, engine: Engine, folder: Path) -> None:
        self._engine = engine
        self.folder = folder
        """Where the contents of files are."""

    def create(self) -> None:
        """Make what is missing.

        Raises:
            PermanentError: the database cannot be used.
        """
        for name in ("files", "parts"):
            (self.folder / name).mkdir(parents=True, exist_ok=True, mode=0o700)
        with self._changing() as connection:
            _TABLES.create_all(connection)

    def close(self) -> None:
        self._engine.dispose()

    @contextmanager
    def _changing(self) -> Iterator[Connection]:
        try:
            with self._engine.begin() as connection:
                yield connection
        except SQLAlchemyError as error:
            raise PermanentError(
                f"cannot use the gateway's store: {error.__class__.__name__}",
                hint="look whether its database runs and lets the gateway in",
            ) from error

    def add(self, document: Document) -> None:
        """Write it; one of the same name is replaced, which only a retry makes."""
        with self._changing() as connection:
            connection.execute(delete(_DOCUMENTS).where(*_named(document)))
            connection.execute(insert(_DOCUMENTS).values(_row(document)))

    def get(self, project: str, kind: Kind, name: str) -> Document | None:
        with self._changing() as connection:
            row = connection.execute(_one(project, kind, name)).one_or_none()
        return None if row is None else _document(row)

    def change(
        self, old: Document, body: dict[str, Any], **fields: Any
    ) -> Document | None:
        """Write a new state; None: somebody else has, and ``old`` is no more."""
        new = replace(old, body=body, version=old.version + 1, **fields)
        with self._changing() as connection:
            done = connection.execute(
                update(_DOCUMENTS)
                .where(*_named(old), _C.version == old.version)
                .values(_row(new))
            )
        return new if done.rowcount else None

    def remove(self, document: Document) -> bool:
        with self._changing() as connection:
            done = connection.execute(delete(_DOCUMENTS).where(*_named(document)))
        return bool(done.rowcount)

    def page(
        self, project: str, kind: Kind, *, limit: int, after: str | None, newest: bool
    ) -> list[Document]:
        """List by age, from the one after ``after``."""
        order = (_C.created_at, _C.id)
        query = select(_DOCUMENTS).where(_C.project == project, _C.kind == kind)
        with self._changing() as connection:
            if after is not None:
                row = connection.execute(_one(project, kind, after)).one_or_none()
                if row is None:
                    return []
                query = query.where(_beyond((row.created_at, row.id), newest=newest))
            query = query.order_by(*(c.desc() if newest else c.asc() for c in order))
            return [_document(row) for row in connection.execute(query.limit(limit))]

    def used(self, project: str) -> int:
        """Count the bytes of a project's files."""
        with self._changing() as connection:
            query = select(func.coalesce(func.sum(_C.bytes), 0))
            return int(
                connection.execute(query.where(_C.project == project)).scalar_one()
            )

    def claim(
        self, kind: Kind, owner: str, *, now: float, until: float
    ) -> Document | None:
        """Take up the oldest work that nobody is at."""
        waiting = (
            select(_DOCUMENTS)
            .where(_C.kind == kind, _C.lease_until <= now)
            .order_by(_C.created_at, _C.id)
            .limit(1)
        )
        while True:
            with self._changing() as connection:
                row = connection.execute(waiting).one_or_none()
            if row is None:
                return None
            found = _document(row)
            taken = self.change(found, found.body, owner=owner, lease_until=until)
            if taken is not None:
                return taken

    def expire(self, *, now: float) -> Iterable[Document]:
        """Remove what has expired; give it, so that its contents go too."""
        with self._changing() as connection:
            query = select(_DOCUMENTS).where(_C.expires_at <= now).limit(1000)
            old = [_document(row) for row in connection.execute(query)]
            for document in old:
                connection.execute(delete(_DOCUMENTS).where(*_named(document)))
        return old


def _named(document: Document) -> tuple[Any, ...]:
    return (
        _C.project == document.project,
        _C.kind == document.kind,
        _C.id == document.id,
    )


def _one(project: str, kind: Kind, name: str) -> Select[Any]:
    return select(_DOCUMENTS).where(
        _C.project == project, _C.kind == kind, _C.id == name
    )


def _beyond(at: tuple[int, str], *, newest: bool) -> Any:
    when, name = at
    if newest:
        return (_C.created_at < when) | ((_C.created_at == when) & (_C.id < name))
    return (_C.created_at > when) | ((_C.created_at == when) & (_C.id > name))


def _row(document: Document) -> dict[str, Any]:
    return {
        "project": document.project,
        "kind": document.kind,
        "id": document.id,
        "version": document.version,
        "created_at": document.created_at,
        "expires_at": document.expires_at,
        "bytes": document.bytes,
        "key": document.key,
        "owner": document.owner,
        "lease_until": document.lease_until,
        "body": orjson.dumps(document.body).decode(),
    }


def _document(row: Row[Any]) -> Document:
    fields = row._asdict()
    return Document(**fields | {"body": orjson.loads(fields["body"])})


def open_store(folder: str, url: str | None) -> Store:
    """Open it; nothing is made yet.

    Raises:
        PermanentError: the URL names no database that is known.
    """
    try:
        engine = create_engine(url or f"sqlite:///{folder}/store.db")
    except (ArgumentError, ImportError) as error:
        raise PermanentError(
            "cannot use the URL of gateway.store.database",
            hint="write postgresql+psycopg://user:password@host/database",
        ) from error
    if engine.dialect.name == "sqlite":

        @event.listens_for(engine, "connect")
        def configure(connection: Any, _record: object) -> None:
            for pragma in (f"busy_timeout={_BUSY_MS}", "journal_mode=WAL"):
                connection.execute(f"PRAGMA {pragma}")

    return Store(engine, Path(folder))
