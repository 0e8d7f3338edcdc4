"""Reading a secret that the spec refers to (I/O). It is kept nowhere."""

from __future__ import annotations

import os
from pathlib import Path

from schemas.errors import PermanentError
from schemas.objects import Credential

__all__ = ["read_credential"]

_MAX_BYTES = 1 << 20


def read_credential(credential: Credential, checkout: Path) -> str:
    """The secret itself.

    Raises:
        PermanentError: it is not there, or this process may not read it.
    """
    if credential.env is not None:
        value = os.environ.get(credential.env)
        if value is None:
            raise PermanentError(
                f"cannot read credential: {credential.env} is not set",
                hint="set it in the environment of the daemon",
            )
        return value
    if credential.file is not None:
        path = Path(credential.file).expanduser()
        try:
            with (path if path.is_absolute() else checkout / path).open("rb") as stream:
                return stream.read(_MAX_BYTES).decode()
        except (OSError, UnicodeDecodeError) as error:
            raise PermanentError(
                f"cannot read credential: {credential.file}: {error}"
            ) from error
    raise PermanentError(
        f"cannot read credential: {credential.secret}: secrets in git are not opened yet",
        hint="refer to an environment variable or a file",
    )
