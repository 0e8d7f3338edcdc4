"""The lock of an environment on disk (I/O).

`bud resolve` writes it, and the daemon does where somebody works in the checkout
it watches. Reading it is `load`'s; what stands in it is `lock`'s.
"""

from __future__ import annotations

import os
from pathlib import Path

from reconciler.load import LOCK
from reconciler.lock import Lock, dump, parse
from reconciler.resolve import solve
from reconciler.values import Desired
from schemas.catalog import Catalog
from schemas.objects import Ref

__all__ = ["lock_path", "refresh", "write"]


def lock_path(root: Path, environment: str) -> Path:
    return root / "environments" / environment / LOCK


def refresh(desired: Desired, catalog: Catalog) -> tuple[Lock, list[Ref]]:
    """The lock as it should be, and the endpoints in which it differs.

    Raises:
        SpecError: an endpoint that nothing can serve as it is written.
    """
    lock = solve(desired, catalog)
    before = parse(desired.lock).entries
    names = {*before, *lock.entries}
    moved = sorted(n for n in names if before.get(n) != lock.entries.get(n))
    return lock, moved


def write(root: Path, environment: str, lock: Lock) -> Path:
    """Replace the file whole, or leave it as it was."""
    path = lock_path(root, environment)
    part = path.with_suffix(".part")
    with part.open("wb") as out:
        out.write(dump(lock))
        out.flush()
        os.fsync(out.fileno())
    part.replace(path)
    return path
