"""Two databases, one schema, and no store is opened that cannot be trusted."""

from __future__ import annotations

import stat
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import create_engine, text

from reconciler.ledger import Draft, Signer
from reconciler.store import Store, open_store, tables
from reconciler.store.database import reading, writing
from schemas.errors import PermanentError, TemporaryError

Opener = Callable[[str], Store]
Drafts = Callable[..., Draft]


@pytest.fixture
def opener(tmp_path: Path, clock: Callable[[], datetime]) -> Opener:
    return lambda url: open_store(
        url, key=tmp_path / "key", origin="bud/test", clock=clock
    )


@pytest.mark.parametrize(
    "url",
    [
        "",
        "sqlite://",
        "sqlite:///:memory:",
        "sqlite+aiosqlite:///state.db",
        "postgresql://bud@localhost/bud",
        "mysql://bud@localhost/bud",
        "/var/lib/bud/state.db",
    ],
)
def test_another_scheme_is_refused(opener: Opener, url: str) -> None:
    with pytest.raises(PermanentError, match="cannot open store") as caught:
        opener(url)
    assert "sqlite:///PATH or postgresql+psycopg://" in caught.value.hint


def test_a_refused_url_shows_no_password(opener: Opener) -> None:
    with pytest.raises(PermanentError) as caught:
        opener("mysql://bud:canary@localhost/bud")
    assert "canary" not in str(caught.value)


def test_a_server_that_is_not_there_is_waited_for(opener: Opener) -> None:
    with pytest.raises(TemporaryError, match="cannot migrate store"):
        opener("postgresql+psycopg://bud@127.0.0.1:1/bud")


def test_a_file_that_is_no_database_is_refused(opener: Opener, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("a shopping list, not a database\n" * 100)
    with pytest.raises(PermanentError, match="not a database"):
        opener(f"sqlite:///{tmp_path}/notes.txt")
    assert (tmp_path / "notes.txt").read_text().startswith("a shopping list")


def test_a_place_that_cannot_be_written_is_refused(
    opener: Opener, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(PermanentError, match="cannot open store"):
        opener(f"sqlite:///{tmp_path}/file/state.db")


def test_migrations_make_the_tables_that_the_code_reads(url: str, store: Store) -> None:
    engine = create_engine(url)
    with engine.connect() as connection:
        context = MigrationContext.configure(
            connection, opts={"compare_type": _same_type}
        )
        assert compare_metadata(context, tables.metadata) == []
        assert context.get_current_revision() == tables.SCHEMA
    engine.dispose()


def _same_type(
    _context: Any, _inspected: Any, _column: Any, found: Any, ours: Any
) -> bool:
    """A moment is text in both; whatever else differs is a difference."""
    wanted = getattr(ours, "impl", ours)
    return found._type_affinity is not wanted._type_affinity


def test_opening_again_changes_nothing(url: str, store: Store, opener: Opener) -> None:
    store.save_plan("d", b"plan")
    with opener(url) as again:
        assert again.plan("d") is not None


def test_many_may_open_a_new_store_at_once(url: str, opener: Opener) -> None:
    with ThreadPoolExecutor(4) as pool:
        stores = list(pool.map(opener, [url] * 4))
    for opened in stores:
        assert opened.inventory() == {}
        opened.close()


def test_a_newer_schema_is_left_alone(url: str, store: Store, opener: Opener) -> None:
    with writing(store._engine, "test") as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(PermanentError, match="its schema is 9999") as caught:
        opener(url)
    assert "newer version of bud" in caught.value.hint


def test_a_commit_is_on_the_disk_before_it_returns(url: str, store: Store) -> None:
    setting = (
        "PRAGMA synchronous" if url.startswith("sqlite") else "SHOW synchronous_commit"
    )
    with writing(store._engine, "test") as connection:
        assert connection.execute(text(setting)).scalar() in (2, "on")


def test_a_reader_cannot_write(url: str, store: Store) -> None:
    if url.startswith("sqlite"):
        pytest.skip("SQLite has no read-only transactions; readers there take no lock")
    with (
        pytest.raises(PermanentError, match="read-only transaction"),
        reading(store._engine, "test") as connection,
    ):
        connection.execute(text("DELETE FROM plans"))


def test_the_state_is_for_its_owner_alone(
    url: str, store: Store, tmp_path: Path
) -> None:
    with store.lead("a"):
        paths = [tmp_path / "key", *tmp_path.glob("state.db*")]
        assert {stat.S_IMODE(path.stat().st_mode) for path in paths} == {0o600}


def test_the_public_key_can_be_pinned_before_the_first_entry(
    store: Store, opener: Opener, url: str
) -> None:
    pinned = store.log.verifier
    with opener(url) as again, again.lead("a"):
        assert again.log.verifier == pinned


async def test_the_key_is_made_once_and_kept(
    url: str, store: Store, draft: Drafts, opener: Opener, tmp_path: Path
) -> None:
    with store.lead("a") as journal:
        await journal.settle([draft()])
    before = store.log.verifier
    with opener(url) as again, again.lead("b") as journal:
        await journal.settle([draft()])
        assert again.log.verifier == before
    assert _names(tmp_path, "*key*") == ["key"]


def _names(folder: Path, pattern: str) -> list[str]:
    return [path.name for path in folder.glob(pattern)]


async def test_a_ledger_is_not_continued_without_its_key(
    store: Store, draft: Drafts, tmp_path: Path
) -> None:
    with store.lead("a") as journal:
        await journal.settle([draft()])
    (tmp_path / "key").unlink()
    with pytest.raises(PermanentError, match="does not exist"), store.lead("b"):
        pytest.fail("it led")
    assert not (tmp_path / "key").exists()


@pytest.mark.parametrize(
    ("content", "mode", "message"),
    [
        (Signer("bud/test", bytes(32)).reveal(), 0o644, "has mode 644"),
        (Signer("bud/other", bytes(32)).reveal(), 0o600, "is of 'bud/other'"),
        ("not a key", 0o600, "cannot read private key"),
        ("", 0o600, "cannot read private key"),
    ],
)
def test_a_key_that_cannot_be_trusted_is_not_used(
    tmp_path: Path,
    clock: Callable[[], datetime],
    content: str,
    mode: int,
    message: str,
) -> None:
    path = tmp_path / "key"
    path.write_text(content)
    path.chmod(mode)
    url = f"sqlite:///{tmp_path}/state.db"
    with (
        open_store(url, key=path, origin="bud/test", clock=clock) as store,
        pytest.raises(PermanentError, match=message) as caught,
        store.lead("a"),
    ):
        pytest.fail("it led")
    assert content[-20:] not in str(caught.value) or not content
