"""The file with the key that signs checkpoints (I/O).

The store makes it on first use and reads it to lead and to verify. It never
leaves its file: only the public half is shown.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from reconciler.ledger import Signer
from schemas.errors import PermanentError

__all__ = ["create_key", "read_key"]


def create_key(path: Path, origin: str) -> Signer:
    """Make a key where none is; whoever comes second gets the first one's."""
    signer = Signer(origin, secrets.token_bytes(32))
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(signer.reveal() + "\n")
            file.flush()
            os.fsync(descriptor)
        try:
            os.link(draft, path)
        except FileExistsError:
            return read_key(path, origin)
        finally:
            draft.unlink()
        _sync(path.parent)
    except OSError as error:
        raise PermanentError(f"cannot create ledger key: {error}") from error
    return signer


def _sync(folder: Path) -> None:
    """A checkpoint must not outlive its key: the name is on the disk first."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_key(path: Path, origin: str) -> Signer:
    """Raises: PermanentError: absent, readable by others, or of another log."""
    try:
        mode = path.stat().st_mode & 0o777
        signer = Signer.parse(path.read_text().strip())
    except FileNotFoundError as error:
        raise PermanentError(
            f"cannot read ledger key: {path} does not exist",
            hint="restore it from where the state directory is backed up; without it "
            "nothing can be added to this ledger or verified against it",
        ) from error
    except (OSError, ValueError) as error:
        raise PermanentError(f"cannot read ledger key: {path}: {error}") from error
    if mode & 0o077:
        raise PermanentError(
            f"cannot use ledger key: {path} has mode {mode:o}",
            hint=f"others could have read it; run chmod 600 {path}",
        )
    if signer.name != origin:
        raise PermanentError(
            f"cannot use ledger key: {path} is of {signer.name!r}, not {origin!r}"
        )
    return signer
