"""Keys that wrap keys: a small protocol, and RSA-4096 in files (I/O).

The envelope asks a provider to wrap and unwrap data keys of 32 bytes; the key itself
never leaves the provider. A KMS or a PKCS#11 token fits the same protocol.
"""

from __future__ import annotations

import os
import stat
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Protocol

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from schemas.errors import PermanentError

__all__ = ["KeyProvider", "LocalKeys", "private_file"]

_BITS = 4096
_CURRENT = "current"


class KeyProvider(Protocol):
    def wrap(self, data_key: bytes, label: bytes) -> tuple[bytes, bytes]:
        """The id (32 bytes) of the current key, and ``data_key`` wrapped by it."""
        ...

    def unwrap(self, key_id: bytes, wrapped: bytes, label: bytes) -> bytes:
        """Unwrap with the key ``key_id``.

        Raises:
            PermanentError: there is no such key, or it did not wrap this.
        """
        ...


class LocalKeys:
    """RSA keys as PKCS #8 files that only their owner can read."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def make(self) -> str:
        """Make a key and let it wrap from now on; earlier ones still unwrap."""
        key = rsa.generate_private_key(public_exponent=65537, key_size=_BITS)
        name = _id(key).hex()
        text = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        private_file(self._folder / f"{name}.pem", text)
        # Last: a kill before this line leaves a key that nothing uses.
        private_file(self._folder / _CURRENT, name.encode())
        return name

    def ensure(self) -> str:
        """The name of the key that wraps, made where there is none yet."""
        if (self._folder / _CURRENT).exists():
            return self.current
        return self.make()

    @property
    def current(self) -> str:
        """The name of the key that wraps.

        Raises:
            PermanentError: there is none yet.
        """
        try:
            return (self._folder / _CURRENT).read_text(encoding="ascii")
        except OSError as error:
            raise PermanentError(
                f"cannot find a key in {self._folder}: {error.strerror}",
                hint="make one with `bud secrets init`",
            ) from error

    def wrap(self, data_key: bytes, label: bytes) -> tuple[bytes, bytes]:
        name = self.current
        public = self._load(name).public_key()
        return bytes.fromhex(name), public.encrypt(data_key, _oaep(label))

    def unwrap(self, key_id: bytes, wrapped: bytes, label: bytes) -> bytes:
        key = self._load(key_id.hex())
        try:
            return key.decrypt(wrapped, _oaep(label))
        except ValueError as error:
            raise PermanentError(
                "cannot unwrap data key: this key did not wrap it",
                hint="restore the item from a backup, or obtain the secret anew",
            ) from error

    def _load(self, name: str) -> rsa.RSAPrivateKey:
        file = self._folder / f"{name}.pem"
        try:
            mode = file.stat().st_mode
        except OSError as error:
            raise PermanentError(
                f"cannot find key {name[:12]}: {error.strerror}",
                hint="the key that sealed this item is gone from this machine",
            ) from error
        if stat.S_IMODE(mode) & 0o077:
            raise PermanentError(
                f"cannot use key {name[:12]}: others can read {file}",
                hint=f"chmod 600 {file}, and rotate it if anybody did",
            )
        return _parse(file, file.stat().st_mtime_ns)


@lru_cache(maxsize=8)
def _parse(file: Path, _: int) -> rsa.RSAPrivateKey:
    """Parsing checks an RSA-4096 key for tens of milliseconds; once is enough."""
    key = serialization.load_pem_private_key(file.read_bytes(), password=None)
    if not isinstance(key, rsa.RSAPrivateKey):
        raise PermanentError(f"cannot use key {file}: it is no RSA key")
    return key


def private_file(file: Path, content: bytes) -> None:
    """Write whole or not at all, for the owner alone."""
    part = file.with_name(f".{file.name}.part")
    part.unlink(missing_ok=True)
    with open(part, "xb", opener=lambda p, flags: os.open(p, flags, 0o600)) as out:
        out.write(content)
        out.flush()
        os.fsync(out.fileno())
    part.replace(file)


def _id(key: rsa.RSAPrivateKey) -> bytes:
    public = key.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return sha256(public).digest()


def _oaep(label: bytes) -> padding.OAEP:
    return padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), label)
