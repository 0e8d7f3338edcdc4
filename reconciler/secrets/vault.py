"""The vault: secrets that we obtained ourselves, sealed in files (I/O).

Kubeconfigs, cloud credentials, join tokens. Plaintext is in memory only; a file is
written whole or not at all, and readers never wait for a rotation. What belongs in
git is not here but encrypted with SOPS.
"""

from __future__ import annotations

import fcntl
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from secrets import token_bytes

from reconciler import faults
from reconciler.secrets.envelope import Envelope, open_envelope, rewrap, seal
from reconciler.secrets.keys import Keyring, private_file
from schemas.errors import FoundryError, PermanentError

__all__ = ["Vault"]

_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]{0,126}[a-z0-9])?")
_SUFFIX = ".sealed"


class Vault:
    """Items by name, in ``folder``, with the keys beside them."""

    def __init__(self, folder: Path) -> None:
        self._items = folder / "items"
        self.keys = Keyring(folder / "keys")

    def put(self, name: str, content: bytes) -> None:
        """Seal ``content`` under ``name``, in place of what was there."""
        file = self._file(name)
        with self._writing():
            private_file(file, seal(name, content, self.keys, token_bytes(12)))

    def get(self, name: str) -> bytes:
        """Open one item, in memory.

        Raises:
            PermanentError: it is not there, or not as it was sealed.
        """
        try:
            sealed = self._file(name).read_bytes()
        except FileNotFoundError as error:
            raise PermanentError(
                f"cannot find secret: no {name!r} in the vault"
            ) from error
        return open_envelope(name, sealed, self.keys)

    def remove(self, name: str) -> None:
        with self._writing():
            self._file(name).unlink(missing_ok=True)

    def names(self) -> tuple[str, ...]:
        found = self._items.glob(f"*{_SUFFIX}") if self._items.exists() else ()
        return tuple(sorted(file.name.removesuffix(_SUFFIX) for file in found))

    def rotate(self, uri: str = "") -> tuple[str, ...]:
        """Wrap every item's data key under a new key: one of ours, or that at ``uri``.

        Safe to kill and to repeat: what still lies under an older key opens as
        before, and the next rotation moves it.
        """
        if uri:
            self.keys.use(uri)
        else:
            self.keys.make()
        faults.point("vault after new key")
        moved = []
        for name in self.names():
            # One item at a time, so that a writer waits for one and not for all.
            with self._writing():
                file = self._file(name)
                if not file.exists():
                    continue
                private_file(file, rewrap(name, file.read_bytes(), self.keys))
            faults.point("vault after item")
            moved.append(name)
        return tuple(moved)

    def verify(self) -> dict[str, str]:
        """What does not open, and why; empty when all is well."""
        broken = {}
        for name in self.names():
            try:
                self.get(name)
            except FoundryError as error:
                broken[name] = error.args[0]
        return broken

    def key_of(self, name: str) -> str:
        """The key that an item lies under, as hex."""
        return Envelope.parse(self._file(name).read_bytes()).key_id.hex()

    def _file(self, name: str) -> Path:
        if _NAME.fullmatch(name) is None or ".." in name:
            raise PermanentError(f"cannot name a secret {name[:40]!r}")
        return self._items / f"{name}{_SUFFIX}"

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """One writer at a time, of all processes: a rotation loses no newer item."""
        self._items.mkdir(parents=True, exist_ok=True, mode=0o700)
        with (self._items / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
