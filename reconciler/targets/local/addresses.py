"""addresses.json: where the replicas that answer listen right now (I/O).

The gateway reads it; `schemas.gateway.Addresses` is its model. A replica is in it
from its first answer until it ends or is drained. One endpoint's entry is changed
at a time and the others are left as they are, so that a record which cannot be
read takes nobody else's address away.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from reconciler.targets.local import files
from reconciler.targets.local.records import Instance, Phase
from schemas.gateway import Addresses
from schemas.objects import Ref

__all__ = ["AddressBook"]

_PATIENCE_S = 10.0
"""A holder only reads and writes one small file."""


class AddressBook:
    def __init__(self, home: Path) -> None:
        self._path = home / "addresses.json"
        self._lock = home / "locks" / "addresses"

    async def publish(self, ref: Ref, instances: list[Instance]) -> None:
        """Make the entry of ``ref`` say where its serving replicas listen."""
        urls = tuple(
            f"http://127.0.0.1:{i.port}" for i in instances if i.phase is Phase.SERVING
        )
        await self._change(ref, urls)

    async def withdraw(self, ref: Ref) -> None:
        """Remove the entry of an endpoint that is gone."""
        await self._change(ref, None)

    async def _change(self, ref: Ref, urls: tuple[str, ...] | None) -> None:
        async with files.lock(
            self._lock, what="addresses.json", patience_s=_PATIENCE_S
        ):
            known = self._read()
            entries = dict(known)
            entries.pop(f"{ref.project}/{ref.name}", None)
            if urls is not None:
                entries[f"{ref.project}/{ref.name}"] = urls
            if entries != known or not self._path.exists():
                addresses = Addresses(upstreams=dict(sorted(entries.items())))
                content = addresses.model_dump_json(indent=1).encode() + b"\n"
                files.write(self._path, content, label="addresses")

    def _read(self) -> dict[str, tuple[str, ...]]:
        try:
            return Addresses.model_validate_json(self._path.read_bytes()).upstreams
        except (FileNotFoundError, ValidationError):
            # What is not readable serves nobody; each endpoint adds its own again.
            return {}
