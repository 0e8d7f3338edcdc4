"""Files that are whole or not there, and locks that die with their holder (I/O).

Every other module of this target writes through here: a reader, or the next run
after a kill, sees the old bytes or the new ones, never a part.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from reconciler.faults import point
from schemas.errors import TemporaryError

__all__ = ["lock", "remove", "sync_folder", "write"]

# Waiting for another process costs a system call each time; a person does not
# notice a twentieth of a second.
_POLL_S = 0.05


def write(path: Path, content: bytes, *, label: str) -> None:
    """Replace ``path`` as a whole, on disk when this returns; only we may read it."""
    point(f"before {label}")
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    with open(partial, "wb", opener=_private) as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
    sync_folder(path.parent)
    point(f"after {label}")


def remove(path: Path, *, label: str) -> None:
    """Remove ``path`` if it is there, on disk when this returns."""
    point(f"before {label}")
    path.unlink(missing_ok=True)
    sync_folder(path.parent)
    point(f"after {label}")


def sync_folder(folder: Path) -> None:
    """Make renames and removals in ``folder`` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@asynccontextmanager
async def lock(path: Path, *, what: str, patience_s: float) -> AsyncIterator[None]:
    """Hold ``path`` against every other holder, in this process and in others.

    The kernel lets go of it when the process ends, however it ends. The file stays:
    removing it would let two holders lock two files of one name.

    Raises:
        TemporaryError: somebody else held it for longer than ``patience_s``.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        waited_s = 0.0
        while not _taken(descriptor):
            if waited_s >= patience_s:
                raise TemporaryError(
                    f"cannot change {what}: another change of it has been running for "
                    f"{waited_s:.0f} s",
                    hint="wait for it; `bud status` shows what it does",
                )
            await asyncio.sleep(_POLL_S)
            waited_s += _POLL_S
        yield
    finally:
        os.close(descriptor)


def _taken(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
