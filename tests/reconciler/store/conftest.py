"""One store per test, on SQLite and on PostgreSQL alike."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from time import monotonic

import psycopg
import pytest

from reconciler.ledger import Draft
from reconciler.store import Owned, Ownership, Store, open_store
from reconciler.values import Key, Unit
from schemas.objects import Ref

ORIGIN = "bud/test"
_INITDB = ("-U", "bud", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync")
# -F: what these tests kill is a process, never the machine.
_SERVER = ("-F", "-c", "unix_socket_directories=", "-c", "listen_addresses=127.0.0.1")


def _binaries() -> Path:
    found = sorted(
        Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parts[-2])
    )
    if found:
        return found[-1]
    message = "PostgreSQL is not installed: `make tools` provides it"
    if os.environ.get("CI") == "true":
        pytest.fail(message)
    pytest.skip(message)


def _free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture(scope="session")
def postgresql() -> Iterator[str]:
    """A server of our own on loopback; yields the URL of its one database."""
    binaries = _binaries()
    folder = Path(tempfile.mkdtemp(prefix="bud-postgresql-"))
    # PostgreSQL refuses to run as root, and its user must be able to enter.
    as_root = os.geteuid() == 0
    user = ["runuser", "-u", "postgres", "--"] if as_root else []
    if as_root:
        account = pwd.getpwnam("postgres")
        os.chown(folder, account.pw_uid, account.pw_gid)
    data, port = folder / "data", _free_port()
    try:
        subprocess.run(
            [*user, binaries / "initdb", "-D", data, *_INITDB],
            check=True,
            capture_output=True,
        )
        with (folder / "log").open("wb") as log:
            server = subprocess.Popen(
                [*user, binaries / "postgres", "-D", data, "-p", str(port), *_SERVER],
                stdout=log,
                stderr=log,
            )
        try:
            url = f"postgresql+psycopg://bud@127.0.0.1:{port}/postgres"
            _await_server(server, url, folder / "log")
            yield url
        finally:
            # The server itself, not the runuser around it; SIGQUIT: at once, for
            # nothing of it is kept.
            pid = int((data / "postmaster.pid").read_text().splitlines()[0])
            os.kill(pid, signal.SIGQUIT)
            server.wait(timeout=30)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _await_server(server: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline = monotonic() + 30
    while monotonic() < deadline and server.poll() is None:
        try:
            psycopg.connect(_address(url), connect_timeout=2).close()
        except psycopg.OperationalError:
            continue
        return
    pytest.fail(f"PostgreSQL did not start: {log.read_text()[-2000:]}")


_EMPTY = (
    (
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE datname = current_database() AND pid <> pg_backend_pid()"
    ),
    "DROP SCHEMA public CASCADE",
    "CREATE SCHEMA public",
)


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/state.db"
    found: str = request.getfixturevalue("postgresql")
    # Emptied, not made anew: a database is 300 files and takes longer than its test.
    with psycopg.connect(_address(found), autocommit=True) as admin:
        for statement in _EMPTY:
            admin.execute(statement)
    return found


def _address(url: str) -> str:
    """As psycopg wants it, without SQLAlchemy's name of the driver."""
    return url.replace("+psycopg", "")


class Clock:
    """Moves a microsecond at each look, so that no two moments are the same."""

    def __init__(self) -> None:
        self.now = datetime(2026, 11, 23, 12, tzinfo=UTC)

    def __call__(self) -> datetime:
        self.now += timedelta(microseconds=1)
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(url: str, tmp_path: Path, clock: Clock) -> Iterator[Store]:
    with open_store(url, key=tmp_path / "key", origin=ORIGIN, clock=clock) as opened:
        yield opened


def _key(name: str = "chat") -> Key:
    return Key("local", Ref("Endpoint", "default", name))


def _owned(
    name: str = "chat", state: Ownership = Ownership.LIVE, after: tuple[Key, ...] = ()
) -> Owned:
    unit = Unit(key=_key(name), content=b"[unit]\n", digest="d" * 64, after=after)
    return Owned(unit=unit, state=state, uid="uid-1", version="7")


def _draft(outcome: str = "unchanged", name: str = "chat", plan: str = "p") -> Draft:
    return Draft(
        actor="tester",
        commit="c" * 40,
        plan=plan,
        step=f"create {name}",
        target=str(_key(name)),
        outcome=outcome,
    )


# Test modules cannot import a conftest: the makers come as fixtures.
@pytest.fixture
def key() -> Callable[..., Key]:
    return _key


@pytest.fixture
def owned() -> Callable[..., Owned]:
    return _owned


@pytest.fixture
def draft() -> Callable[..., Draft]:
    return _draft
