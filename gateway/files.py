"""The two files and the secrets they point to, read as one bundle (I/O).

The supervisor asks a few times a second whether anything changed. It asks by
`stat`: that sees atomic renames, and the symbolic links that Kubernetes turns,
on every file system, and costs microseconds.
"""

from __future__ import annotations

import hashlib
import os
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from gateway.compilation import compile_snapshot, credentials
from gateway.snapshot import Snapshot, Trust
from gateway.tls import context_of
from schemas.errors import PermanentError
from schemas.gateway import Credential
from schemas.gateway_toml import load, load_addresses

__all__ = ["Bundle", "Files", "compile_bundle"]

Stat: TypeAlias = tuple[int, int, int] | None
_NO_ADDRESSES = '{"version": 1}'


@dataclass(frozen=True, slots=True)
class Bundle:
    """Everything a snapshot is compiled from, as text."""

    config: str
    addresses: str
    secrets: dict[str, str]

    @property
    def digests(self) -> tuple[str, str]:
        """Of the config and of the addresses; secrets are in neither."""
        return _digest(self.config), _digest(self.addresses)

    def to_json(self) -> dict[str, Any]:
        return {
            "config": self.config,
            "addresses": self.addresses,
            "secrets": self.secrets,
        }


def compile_bundle(bundle: Bundle, *, file: str = "gateway.toml") -> Snapshot:
    """Compile what the data path reads.

    Raises:
        SpecError: a file is invalid.
        PermanentError: a secret cannot be used.
    """
    snapshot = compile_snapshot(
        load(bundle.config, file=file),
        load_addresses(bundle.addresses),
        bundle.secrets,
    )
    for upstream in snapshot.upstreams.values():
        # The usual one is made of nothing that could be wrong, and takes milliseconds.
        for trust in {a.trust for a in upstream.addresses} - {Trust()}:
            try:
                context_of(trust)
            except (ssl.SSLError, ValueError) as error:
                raise PermanentError(
                    f'cannot use upstreams."{upstream.name}".tls: {error}',
                    hint="ca, certificate and key are PEM, and the key the certificate's",
                ) from error
    return snapshot


class Files:
    """Where the config is, and what of it was last seen."""

    def __init__(self, config: Path) -> None:
        self.config = config
        self._seen: dict[Path, Stat] = {}

    def changed(self) -> bool:
        """Look whether anything is other than when it was last read."""
        return any(_stat(path) != seen for path, seen in self._seen.items())

    def read(self) -> Bundle:
        """Read all that the config is made of.

        Raises:
            PermanentError: a file or a secret cannot be read.
            SpecError: the config is invalid.
        """
        self._seen = {}
        text = self._read(self.config)
        config = load(text, file=str(self.config))
        discovery = self.config.parent / config.gateway.discovery
        addresses = self._read(discovery, absent=_NO_ADDRESSES)
        secrets = {
            field: self._secret(field, credential)
            for field, credential in credentials(config)
        }
        return Bundle(text, addresses, secrets)

    def _read(self, path: Path, *, absent: str | None = None) -> str:
        # Before the read: a change in between is then seen as one.
        self._seen[path] = _stat(path)
        try:
            return path.read_text(encoding="utf-8")
        except FileNotFoundError as error:
            if absent is not None:
                return absent
            raise PermanentError(f"cannot read {path}: it is not there") from error
        except (OSError, UnicodeDecodeError) as error:
            raise PermanentError(f"cannot read {path}: {error}") from error

    def _secret(self, field: str, credential: Credential) -> str:
        if credential.file is not None:
            return self._read(self.config.parent / credential.file).strip()
        assert credential.env is not None
        value = os.environ.get(credential.env)
        if value is None:
            raise PermanentError(
                f"cannot read the secret of {field}: the environment variable "
                f"{credential.env} is not set",
                hint="set it where the gateway is started",
            )
        return value


def _stat(path: Path) -> Stat:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size


def _digest(text: str) -> str:
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()
