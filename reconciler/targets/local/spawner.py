"""Brings the process of a replica up, at most once (I/O).

`replicas.py` asks for a new replica, or for one that ended to be started again.
The record comes first, then the process, then its pid in the record; killed
between any two, the process is found by the marks it carries.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from reconciler.faults import point
from reconciler.targets.local import launch, logs, processes
from reconciler.targets.local.processes import Processes
from reconciler.targets.local.records import Instance, Phase, Records, file_name
from schemas.local import EndpointManifest
from schemas.objects import Ref

__all__ = ["Say", "Spawner"]

Say = Callable[[str], None]
"""Told what happens, in words a person reads."""


@dataclass(slots=True)
class Spawner:
    records: Records
    processes: Processes
    clock: Callable[[], float]
    logs_folder: Path
    gpus: Callable[[], Collection[int]] = launch.gpus

    def new(
        self,
        ref: Ref,
        manifest: EndpointManifest,
        argv: tuple[str, ...],
        say: Say,
    ) -> Instance:
        """Add a replica in the first free slot.

        Raises:
            NoDevice: there is no GPU left for it.
            PermanentError: the system refuses to start it.
        """
        record = self.records.read(ref)
        assert record is not None, "an endpoint is recorded before its replicas"
        taken = {i.slot for i in self.records.instances(ref)}
        slot = next(n for n in range(len(taken) + 1) if n not in taken)
        program = manifest.program
        devices = self._devices(program.gpus)
        instance = Instance(
            id=f"{file_name(ref)}.{record.uid}.{slot}.{secrets.token_hex(4)}",
            uid=record.uid,
            slot=slot,
            port=self._port(ref, slot),
            revision=manifest.revision,
            phase=Phase.STARTING,
            since=self.clock(),
            argv=argv,
            env=launch.environment(program, devices),
            probe=program.probe,
            gpus=tuple(sorted(devices)),
            ready_timeout_s=manifest.replacement.ready_timeout_s,
            drain_timeout_s=manifest.replacement.drain_timeout_s,
        )
        return self._spawn(ref, instance, say)

    def again(self, ref: Ref, instance: Instance, say: Say) -> Instance:
        """Start a replica that ended; never beside a process of it that lives.

        Raises:
            PermanentError: the system refuses to start it.
        """
        found = self._found(ref, instance, phase=Phase.STARTING)
        if found is not None:
            return found
        port = self._port(ref, instance.slot)
        fresh = {"phase": Phase.STARTING, "since": self.clock(), "port": port}
        return self._spawn(ref, instance.model_copy(update=fresh), say)

    def adopted(self, ref: Ref, instance: Instance) -> Instance:
        """Find the process of a record that was written before it was started."""
        if instance.pid or instance.phase is Phase.WAITING:
            return instance
        return self._found(ref, instance) or instance

    def log_of(self, instance: Instance) -> Path:
        project, name, *_ = instance.id.split(".")
        return self.logs_folder / f"{project}.{name}.{instance.slot}.log"

    def _found(
        self, ref: Ref, instance: Instance, **changes: object
    ) -> Instance | None:
        """The replica with its living process, if it has one."""
        if not (members := self.processes.members(instance.id)):
            return None
        first = members[0]
        changes |= {"pid": first.pid, "started": first.started}
        return self.records.move(ref, instance, now=self.clock(), **changes)

    def _spawn(self, ref: Ref, instance: Instance, say: Say) -> Instance:
        instance = instance.model_copy(update={"pid": 0, "started": 0, "reason": ""})
        self.records.write_instance(ref, instance)
        log = self.log_of(instance)
        when = datetime.fromtimestamp(self.clock(), UTC).isoformat(timespec="seconds")
        logs.mark(log, f"{when} {instance.id} on port {instance.port}")
        say(f"starting replica {instance.slot} on port {instance.port}")
        point("before spawn")
        process = self.processes.spawn(
            launch.with_port(instance.argv, instance.port),
            env=instance.env,
            instance=instance.id,
            folder=self.records.folder_of(ref, instance.id),
            log=log,
        )
        point("after spawn")
        return self.records.move(
            ref,
            instance,
            now=self.clock(),
            pid=process.pid,
            started=process.started,
        )

    def _port(self, ref: Ref, slot: int) -> int:
        """The slot's own port, or a new one if a stranger listens on it."""
        record = self.records.read(ref)
        assert record is not None, "an endpoint is recorded before its replicas"
        port = record.ports.get(slot)
        if port is None or not processes.is_free(port):
            port = self._new_port()
            ports = {**record.ports, slot: port}
            record = record.model_copy(update={"ports": ports})
            self.records.write(ref, record, label="ports in")
        return port

    def _new_port(self) -> int:
        """A port that is nobody's: free now, and promised to no other slot."""
        kept = (self.records.read(ref) for ref in self.records.all("Endpoint"))
        promised = {p for r in kept if r is not None for p in r.ports.values()}
        while (port := processes.free_port()) in promised:
            pass
        return port

    def _devices(self, need: int) -> set[int]:
        if not need:
            return set()
        used = {
            device
            for ref in self.records.all("Endpoint")
            for instance in self.records.instances(ref)
            for device in instance.gpus
        }
        return launch.choose_gpus(self.gpus(), used, need)
