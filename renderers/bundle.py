"""Folders of this package as values: charts, Terraform modules, Ansible roles (pure).

Each renderer reads its own once a process; units name them by digest, so that no unit
can mean code that nobody reviewed. (I/O: ``read_folder`` reads files of this package)
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["TEMPLATES", "Bundle", "read_folder"]

TEMPLATES = Path(__file__).parents[1] / "templates"


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """Files by path, and one SHA-256 over all of them."""

    name: str
    files: Mapping[str, bytes] = field(repr=False)

    @property
    def digest(self) -> str:
        whole = hashlib.sha256()
        for path, content in sorted(self.files.items()):
            whole.update(f"{path}\0{len(content)}\0".encode() + content)
        return whole.hexdigest()


def read_folder(folder: Path) -> dict[str, bytes]:
    """Every file below ``folder``, by its path there."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
