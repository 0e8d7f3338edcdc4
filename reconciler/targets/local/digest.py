r"""Digests of weights: one file, or a folder (I/O).

``bud model digest`` prints them, a Model pins them, the fetch checks them. The
digest of a folder is the SHA-256 of what ``sha256sum`` prints for its files in
order, so that a person can check it without us:

    find . -type f -printf '%P\n' | LC_ALL=C sort | xargs sha256sum | sha256sum
"""

from __future__ import annotations

import hashlib
from pathlib import Path

__all__ = ["digest_file", "digest_folder", "digest_path"]


def digest_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_folder(folder: Path) -> str:
    """Digest every file below ``folder``: its bytes and its place, nothing else."""
    names = sorted(
        path.relative_to(folder).as_posix().encode()
        for path in folder.rglob("*")
        if path.is_file()
    )
    lines = (
        digest_file(folder / name.decode()).encode() + b"  " + name + b"\n"
        for name in names
    )
    return hashlib.sha256(b"".join(lines)).hexdigest()


def digest_path(path: Path) -> str:
    return digest_folder(path) if path.is_dir() else digest_file(path)
