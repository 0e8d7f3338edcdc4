"""The two files and the secrets they point to, read as one bundle (I/O).

The supervisor asks a few times a second whether anything changed. It asks by
`stat`: that sees atomic renames, and the symbolic links that Kubernetes turns,
on every file system, and costs microseconds.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gateway.snapshot import Snapshot, compile_snapshot, credentials
from schemas.errors import PermanentError
from schemas.gateway import Credential, GatewayConfig
from schemas.gateway_toml import load, load_addresses

__all__ = ["Bundle", "Files", "compile_bundle"]

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
    return compile_snapshot(
        load(bundle.config, file=file),
        load_addresses(bundle.addresses),
        bundle.secrets,
        digest="+".join(bundle.digests),
    )


class Files:
    """Where the config is, and when it was last seen to change."""

    def __init__(self, config: Path) -> None:
        self.config = config
        self._watched: tuple[Path, ...] = (config,)

    def fingerprint(self) -> tuple[tuple[int, int, int] | None, ...]:
        """Look at every file that the last `read` depended on."""
        return tuple(_stat(path) for path in self._watched)

    def read(self) -> Bundle:
        """Read all; what it depends on is watched even if it is invalid.

        Raises:
            PermanentError: a file or a secret cannot be read.
            SpecError: the config is invalid.
        """
        self._watched = (self.config,)
        text = _read(self.config)
        config = load(text, file=str(self.config))
        discovery = self.config.parent / config.gateway.discovery
        self._watched = (self.config, discovery, *self._secret_files(config))
        try:
            addresses = _read(discovery) if discovery.exists() else _NO_ADDRESSES
        except PermanentError:
            if discovery.exists():
                raise
            addresses = _NO_ADDRESSES
        secrets = {
            field: self._secret(field, credential)
            for field, credential in credentials(config)
        }
        return Bundle(text, addresses, secrets)

    def _secret_files(self, config: GatewayConfig) -> list[Path]:
        return [
            self.config.parent / credential.file
            for _, credential in credentials(config)
            if credential.file is not None
        ]

    def _secret(self, field: str, credential: Credential) -> str:
        if credential.file is not None:
            return _read(self.config.parent / credential.file).strip()
        assert credential.env is not None
        value = os.environ.get(credential.env)
        if value is None:
            raise PermanentError(
                f"cannot read the secret of {field}: the environment variable "
                f"{credential.env} is not set",
                hint="set it where the gateway is started",
            )
        return value


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise PermanentError(f"cannot read {path}: {error}") from error


def _stat(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size


def _digest(text: str) -> str:
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()
