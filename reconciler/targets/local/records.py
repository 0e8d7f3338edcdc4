"""What this target remembers between two looks: one small file for each thing (I/O).

    endpoints/<project>.<name>.json          what an endpoint is and shall become
    instances/<project>.<name>/<id>/         one replica: its record and its cwd
    models/<project>.<name>.json             which weights a model stands for

A record is written before what it speaks of is done, so that nothing can exist
that no record, and no environment of a process, tells of. The rest of the target
reads and writes them here only; nothing here starts or stops anything.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Annotated, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from reconciler.faults import point
from reconciler.targets.local import files
from schemas.errors import TemporaryError
from schemas.local import Probe
from schemas.objects import Ref

__all__ = ["Instance", "Phase", "Record", "Records", "file_name", "ref_of"]


class Phase(StrEnum):
    """Where a replica is on its way; it only ever moves forward, or starts again."""

    STARTING = "starting"
    SERVING = "serving"
    """It answered a real request; only these have an address."""
    WAITING = "waiting"
    """It ended, and starts again at ``retry_at``."""
    DRAINING = "draining"
    """Its address is gone; requests in flight are being finished."""
    STOPPING = "stopping"
    """It was told to end."""


class _Stored(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Record(_Stored):
    """An endpoint or a model."""

    uid: str
    version: int
    unit: str = ""
    """The bytes that were reached last; empty before the first time."""
    pending: str = ""
    """The bytes on the way; what is set here was not finished."""
    deleting: bool = False
    ports: dict[int, int] = {}
    """Slot -> port: a replica keeps its address over restarts."""


class Instance(_Stored):
    """One replica of one revision. A restart keeps it; a new revision does not."""

    id: str
    uid: str
    """Of the endpoint."""
    slot: int
    port: int
    revision: str
    phase: Phase
    since: float
    """When it entered the phase, seconds of the wall clock: it outlives processes."""
    argv: tuple[str, ...]
    env: dict[str, str]
    probe: Probe
    gpus: tuple[int, ...] = ()
    pid: int = 0
    started: int = 0
    """The process's start in clock ticks since boot: a pid alone is used again."""
    failures: int = 0
    """Ends and silences since it last served for a while."""
    retry_at: float = 0.0
    reason: str = ""
    """Why it is not serving, in words."""
    ready_timeout_s: Annotated[float, Field(ge=0)]
    drain_timeout_s: Annotated[float, Field(ge=0)]


def file_name(ref: Ref) -> str:
    """Names have no dots, so this is unambiguous and reads well."""
    return f"{ref.project}.{ref.name}"


def ref_of(kind: str, name: str) -> Ref:
    project, _, rest = name.partition(".")
    return Ref(kind, project, rest)


class Records:
    """The files under one home."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self._folders = {"Endpoint": home / "endpoints", "Model": home / "models"}
        self._instances = home / "instances"

    def all(self, kind: str) -> list[Ref]:
        """Everything of one kind that left a trace, readable or not."""
        names = {path.stem for path in self._folders[kind].glob("*.*.json")}
        if kind == "Endpoint" and self._instances.is_dir():
            names |= {path.name for path in self._instances.iterdir()}
        return sorted(ref_of(kind, name) for name in names)

    def read(self, ref: Ref) -> Record | None:
        """Read what ``ref`` is; None if it is not.

        Raises:
            TemporaryError: the file is there and cannot be read.
        """
        return _read(self._path(ref), Record)

    def write(self, ref: Ref, record: Record, *, label: str) -> None:
        files.write(
            self._path(ref), _bytes(record), label=f"{label} {ref.kind.lower()} record"
        )

    def remove(self, ref: Ref) -> None:
        files.remove(self._path(ref), label=f"remove {ref.kind.lower()} record")

    def instances(self, ref: Ref) -> list[Instance]:
        """The replicas of an endpoint, by slot.

        Raises:
            TemporaryError: the record of one cannot be read.
        """
        folder = self._instances / file_name(ref)
        found = (_read(path / "record.json", Instance) for path in _folders(folder))
        return sorted((i for i in found if i is not None), key=lambda i: (i.slot, i.id))

    def folder_of(self, ref: Ref, instance_id: str) -> Path:
        """A folder of its own: the replica's working directory, and so a mark on it."""
        return self._instances / file_name(ref) / instance_id

    def write_instance(self, ref: Ref, instance: Instance) -> None:
        path = self.folder_of(ref, instance.id) / "record.json"
        files.write(path, _bytes(instance), label=f"{instance.phase} instance record")

    def move(
        self, ref: Ref, instance: Instance, *, now: float, **changes: object
    ) -> Instance:
        """Write what changed of a replica; a phase begins now."""
        if "phase" in changes:
            changes["since"] = now
        after = instance.model_copy(update=changes)
        if after != instance:
            self.write_instance(ref, after)
        return after

    def remove_instance(self, ref: Ref, instance_id: str) -> None:
        """Forget a replica that is confirmed gone."""
        point("before remove instance record")
        shutil.rmtree(self.folder_of(ref, instance_id), ignore_errors=True)
        point("after remove instance record")

    def remove_instances(self, ref: Ref) -> None:
        """Remove the folder of an endpoint that has no replica left."""
        shutil.rmtree(self._instances / file_name(ref), ignore_errors=True)

    def _path(self, ref: Ref) -> Path:
        return self._folders[ref.kind] / f"{file_name(ref)}.json"


def _bytes(record: _Stored) -> bytes:
    return record.model_dump_json(indent=1).encode() + b"\n"


def _folders(folder: Path) -> Iterator[Path]:
    try:
        yield from folder.iterdir()
    except (FileNotFoundError, NotADirectoryError):
        return


Stored = TypeVar("Stored", bound=_Stored)


def _read(path: Path, kind: type[Stored]) -> Stored | None:
    try:
        return kind.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as error:
        raise TemporaryError(
            f"cannot read {path.name} of {path.parent.name}: {type(error).__name__}",
            hint=f"look at {path}; if it cannot be repaired, remove it, and the next "
            "run finds the processes by their environment",
        ) from error
