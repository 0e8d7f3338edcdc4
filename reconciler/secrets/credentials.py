"""A credential reference becomes its text, in memory, when it is needed (I/O).

Targets are given `read_credential` and call it right before they act. What it
returns is never logged, and every error names the reference alone.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from reconciler.secrets.sops import SopsFiles
from schemas.errors import PermanentError
from schemas.objects import Credential

__all__ = ["read_credential"]


def read_credential(credential: Credential, files: SopsFiles) -> str:
    """Read what ``credential`` refers to.

    Raises:
        PermanentError: it is not there, or others can read it.
    """
    if credential.env is not None:
        found = os.environ.get(credential.env)
        if not found:
            raise PermanentError(
                f"cannot read credential: environment variable {credential.env} is empty"
            )
        return found
    if credential.file is not None:
        return _private(Path(credential.file))
    assert credential.secret is not None, "the schema asks for one of three"
    name, _, key = credential.secret.partition("#")
    values = files.decrypt(name)
    if key not in values:
        raise PermanentError(
            f"cannot read credential: no {key!r} in {name}",
            hint=f"it holds {', '.join(sorted(values))}",
        )
    return values[key]


def _private(file: Path) -> str:
    try:
        if stat.S_IMODE(file.stat().st_mode) & 0o077:
            raise PermanentError(
                f"cannot read credential: others can read {file}",
                hint=f"chmod 600 {file}",
            )
        return file.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise PermanentError(
            f"cannot read credential: {file}: {error.strerror}"
        ) from error
