"""Keys that wrap keys: a small protocol, and the ring of a vault's keys (I/O).

The envelope asks the ring to wrap and unwrap data keys of 32 bytes. A key is RSA-4096
in a file of ours, or lies elsewhere and never leaves there: then the ring keeps its
URI. Moving from one to the other is a rotation like any.
"""

from __future__ import annotations

import os
import stat
from functools import cache, lru_cache
from hashlib import sha256
from pathlib import Path
from secrets import token_bytes
from typing import Protocol

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from reconciler.secrets.elsewhere import open_key
from schemas.errors import PermanentError

__all__ = ["KeyProvider", "Keyring", "private_file"]

_BITS = 4096
_CURRENT = "current"
_DATA_KEY = 32


class KeyProvider(Protocol):
    def wrap(self, data_key: bytes, label: bytes) -> tuple[bytes, bytes]:
        """The id (32 bytes) of the current key, and ``data_key`` wrapped by it."""
        ...

    def unwrap(self, key_id: bytes, wrapped: bytes, label: bytes) -> bytes:
        """Unwrap with the key ``key_id``.

        Raises:
            PermanentError: there is no such key, or it did not wrap this.
            TemporaryError: it lies elsewhere, and does not answer.
        """
        ...


class Keyring:
    """RSA keys as PKCS #8 files that only their owner can read, or where others lie."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._open = cache(open_key)

    def make(self) -> str:
        """Make a key and let it wrap from now on; earlier ones still unwrap."""
        key = rsa.generate_private_key(public_exponent=65537, key_size=_BITS)
        name = _id(key).hex()
        text = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        return self._take(name, f"{name}.pem", text)

    def use(self, uri: str) -> str:
        """Let a key elsewhere wrap from now on; it is tried first.

        Raises:
            PermanentError, TemporaryError: it does not unwrap what it wrapped.
        """
        key, probe = self._open(uri), token_bytes(_DATA_KEY)
        if key.unwrap(key.wrap(probe)) != probe:
            raise PermanentError(f"cannot use key {uri}: it unwraps something else")
        name = sha256(uri.encode()).hexdigest()
        return self._take(name, f"{name}.uri", uri.encode())

    def _take(self, name: str, file: str, content: bytes) -> str:
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        private_file(self._folder / file, content)
        # Last: a kill before this line leaves a key that nothing uses.
        private_file(self._folder / _CURRENT, name.encode())
        return name

    def ensure(self, uri: str = "") -> str:
        """The name of the key that wraps, made (or taken) where there is none yet."""
        if (self._folder / _CURRENT).exists():
            return self.current
        return self.use(uri) if uri else self.make()

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

    @property
    def elsewhere(self) -> str:
        """The URI of the key that wraps; empty where it is a file of ours."""
        return self._uri(self.current)

    def wrap(self, data_key: bytes, label: bytes) -> tuple[bytes, bytes]:
        name = self.current
        if uri := self._uri(name):
            return bytes.fromhex(name), self._open(uri).wrap(data_key)
        public = self._load(name).public_key()
        return bytes.fromhex(name), public.encrypt(data_key, _oaep(label))

    def unwrap(self, key_id: bytes, wrapped: bytes, label: bytes) -> bytes:
        if uri := self._uri(key_id.hex()):
            return self._open(uri).unwrap(wrapped)
        key = self._load(key_id.hex())
        try:
            return key.decrypt(wrapped, _oaep(label))
        except ValueError as error:
            raise PermanentError(
                "cannot unwrap data key: this key did not wrap it",
                hint="restore the item from a backup, or obtain the secret anew",
            ) from error

    def _uri(self, name: str) -> str:
        file = self._folder / f"{name}.uri"
        uri = file.read_text(encoding="utf-8") if file.exists() else ""
        if uri and sha256(uri.encode()).hexdigest() != name:
            raise PermanentError(
                f"cannot use key {name[:12]}: {file} names another",
                hint="put it back, or rotate",
            )
        return uri

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
