"""Models as files on this machine: looked at, fetched, removed (I/O).

`target.py` calls it with the model's lock held and the precondition checked. Files
are removed only when no record of any model or endpoint names them, and never
when a record cannot be read.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from hashlib import sha256

from reconciler.targets.local.records import Record, Records
from reconciler.targets.local.spawner import Say
from reconciler.targets.local.weights import WeightStore
from reconciler.values import Health, Key, Live, Presence
from schemas.errors import FoundryError, TemporaryError
from schemas.local import EndpointManifest, ModelManifest
from schemas.objects import Ref

__all__ = ["Models"]


@dataclass(slots=True)
class Models:
    records: Records
    weights: WeightStore

    def look(self, key: Key) -> Live:
        """Say what is there; never raises."""
        try:
            record = self.records.read(key.ref)
        except TemporaryError as error:
            detail = str(error).partition("\n")[0]
            return Live(key=key, presence=Presence.UNKNOWN, detail=detail)
        if record is None:
            return Live(key=key, presence=Presence.ABSENT)
        there = bool(record.unit) and self.weights.present(_manifest(record).weights)
        whole = there and not record.pending
        if whole:
            health, detail = Health.SERVABLE, ""
        elif record.pending:
            health, detail = Health.PENDING, "a fetch of it is not finished"
        else:
            health, detail = Health.DEGRADED, "its files are not there"
        return Live(
            key=key,
            presence=Presence.PRESENT,
            digest=sha256(record.unit.encode()).hexdigest() if whole else "",
            uid=record.uid,
            version=str(record.version),
            health=health,
            detail=detail,
        )

    def check(self, manifest: ModelManifest) -> None:
        """Refuse what `apply` would refuse, as far as it shows without fetching."""
        self.weights.check(manifest.weights)

    async def apply(
        self, ref: Ref, manifest: ModelManifest, content: str, say: Say
    ) -> None:
        """Fetch and verify; what was there before stays until nothing names it."""
        old = self.records.read(ref)
        record = old or Record(uid=secrets.token_hex(8), version=0)
        changed = record.unit != content or bool(record.pending)
        if changed:
            record = record.model_copy(
                update={"pending": content, "version": record.version + 1}
            )
            self.records.write(ref, record, label="pending in")
        try:
            await self.weights.fetch(manifest.weights, say)
        except FoundryError:
            if changed:
                self._back(ref, record)
            raise
        if changed:
            reached = {"unit": content, "pending": "", "version": record.version + 1}
            record = record.model_copy(update=reached)
            self.records.write(ref, record, label="reached in")
        self.tidy()

    def require_unused(self, ref: Ref) -> None:
        """Refuse to take away what an endpoint still reads.

        Raises:
            TemporaryError: an endpoint does.
        """
        record = self.records.read(ref)
        ours = _named(record) if record is not None else set()
        for other in self.records.all("Endpoint"):
            used = self.records.read(other)
            if used is not None and _named(used) & ours:
                raise TemporaryError(
                    f"cannot delete {ref}: {other} serves it",
                    hint="delete the endpoint first",
                )

    def delete(self, ref: Ref) -> None:
        self.records.remove(ref)
        self.tidy()

    def tidy(self) -> None:
        """Remove the files that nothing names; a record nobody can read keeps all."""
        if not self.weights.any():
            return
        named: set[str] = set()
        try:
            for kind in ("Endpoint", "Model"):
                for ref in self.records.all(kind):
                    if (record := self.records.read(ref)) is not None:
                        named |= _named(record)
        except TemporaryError:
            return
        self.weights.remove_all_but(named)

    def _back(self, ref: Ref, record: Record) -> None:
        """Parts that came stay on disk: the next try goes on from them."""
        if not record.unit:
            self.records.remove(ref)
            return
        back = record.model_copy(update={"pending": "", "version": record.version + 1})
        self.records.write(ref, back, label="gone back in")


def _manifest(record: Record) -> ModelManifest:
    return ModelManifest.model_validate_json(record.unit)


def _named(record: Record) -> set[str]:
    """The weights that a record speaks of, reached or on the way."""
    found: set[str] = set()
    for content in filter(None, (record.unit, record.pending)):
        if '"model/1"' in content:
            found.add(ModelManifest.model_validate_json(content).weights.id)
        else:
            manifest = EndpointManifest.model_validate_json(content)
            if manifest.weights is not None:
                found.add(manifest.weights.id)
            found |= {adapter.weights.id for adapter in manifest.adapters}
    return found
