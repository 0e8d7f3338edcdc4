"""Endpoints as replicas: looked at, made as wanted, taken away (I/O).

`target.py` calls it with the endpoint's lock held and the precondition checked.
A change is written down as pending first and as reached last; whatever lies
between can be killed anywhere, because each step starts from what is seen.
"""

from __future__ import annotations

import asyncio
import secrets
import signal
from collections.abc import Mapping
from dataclasses import dataclass, replace

from reconciler.targets.local import launch, processes
from reconciler.targets.local.addresses import AddressBook
from reconciler.targets.local.lifecycle import GRACE_S
from reconciler.targets.local.processes import Process
from reconciler.targets.local.records import Instance, Phase, Record, Records, file_name
from reconciler.targets.local.replicas import TOO_SLOW, Replicas
from reconciler.targets.local.requests import Requests
from reconciler.targets.local.rollout import Want, next_step
from reconciler.targets.local.spawner import Say
from reconciler.targets.local.view import seen
from reconciler.targets.local.weights import WeightStore
from reconciler.values import Health, Key, Live, Presence
from schemas.errors import FoundryError, PermanentError, TemporaryError
from schemas.local import EndpointManifest
from schemas.objects import Ref

__all__ = ["Endpoints", "Scan"]

_TICK_S = 0.1
"""Between two looks at replicas on their way; starting one takes seconds."""

Scan = Mapping[str, list[Process]]


@dataclass(slots=True)
class Endpoints:
    records: Records
    replicas: Replicas
    book: AddressBook
    weights: WeightStore

    def look(self, key: Key, scan: Scan) -> Live:
        """Say what lives; never raises."""
        ref = key.ref
        try:
            record, instances = self.records.read(ref), self.records.instances(ref)
        except TemporaryError as error:
            detail = str(error).partition("\n")[0]
            return Live(key=key, presence=Presence.UNKNOWN, detail=detail)
        known = {i.id for i in instances}
        return seen(
            key,
            record,
            instances,
            living={
                i.id
                for i in instances
                if processes.alive(Process(i.pid, i.started)) or i.id in scan
            },
            orphans={
                name
                for name in scan
                if name.startswith(f"{file_name(ref)}.") and name not in known
            },
            now=self.replicas.clock(),
        )

    def check(self, manifest: EndpointManifest) -> None:
        """Refuse what `apply` would refuse.

        Raises:
            PermanentError: the engine is not installed.
            TemporaryError: the machine has no devices left for it.
        """
        launch.require_engine(manifest.program)
        if manifest.program.gpus and manifest.replicas:
            launch.choose_gpus(self.replicas.spawner.gpus(), (), manifest.program.gpus)
        for adapter in manifest.adapters:
            self.weights.check(adapter.weights)

    async def apply(
        self, ref: Ref, manifest: EndpointManifest, content: str, say: Say
    ) -> None:
        """Make the endpoint what ``manifest`` says; on failure, what it was."""
        argv = await self._argv(manifest, say)
        record = self.records.read(ref) or self._new(ref)
        await self._end_orphans(ref, say)
        repair = record.unit == content and not record.pending and not record.deleting
        if not repair:
            self._write(ref, record, "pending in", pending=content, deleting=False)
        try:
            await self._converge(ref, manifest, argv, say)
        except FoundryError as error:
            if not repair:
                say(f"going back: {str(error).partition(chr(10))[0]}")
                await self._back(ref, say)
            raise
        if not repair:
            record = self._record(ref)
            self._write(ref, record, "reached in", unit=content, pending="")

    async def delete(self, ref: Ref, say: Say) -> None:
        """Take everything of the endpoint away; returns once it is gone."""
        if (record := self.records.read(ref)) is not None:
            self._write(ref, record, "deleting in", deleting=True)
        await self.stop(ref, say)
        await self.book.withdraw(ref)
        self.records.remove_instances(ref)
        self.records.remove(ref)

    async def stop(self, ref: Ref, say: Say) -> None:
        """End every process of the endpoint, and keep its record."""
        ids = {i.id for i in self.records.instances(ref)}
        async with Requests(self.replicas.clock) as requests:
            await self.replicas.stop(ref, ids, say)
            while await self.replicas.tend(ref, requests, say):
                await asyncio.sleep(_TICK_S)
        await self._end_orphans(ref, say)

    async def health(self, key: Key, live: Live) -> Live:
        """Confirm ``live`` by a real request to each replica that says it serves."""
        serving = [
            i
            for i in self.records.instances(key.ref)
            if i.phase is Phase.SERVING and live.presence is Presence.PRESENT
        ]
        async with Requests(self.replicas.clock) as requests:
            answers = await asyncio.gather(*(requests.answers(i) for i in serving))
            silent = [
                f"replica {i.slot} does not answer ({requests.about(i).why})"
                for i, answered in zip(serving, answers, strict=True)
                if not answered
            ]
        if not silent:
            return live
        details = [live.detail, *silent] if live.detail else silent
        return replace(live, health=Health.DEGRADED, detail="; ".join(details))

    async def _argv(self, manifest: EndpointManifest, say: Say) -> tuple[str, ...]:
        program, weights = manifest.program, manifest.weights
        model = None
        if weights is not None:
            model = await self.weights.prepare(weights, program.form, say)
        adapters = {}
        for adapter in manifest.adapters:
            await self.weights.fetch(adapter.weights, say)
            place = self.weights.place(adapter.weights, "as-is")
            adapters[adapter.placeholder] = f"{adapter.name}={place}"
        return launch.command(program.argv, model=model, adapters=adapters)

    async def _converge(
        self, ref: Ref, manifest: EndpointManifest, argv: tuple[str, ...], say: Say
    ) -> None:
        """Take step after step until the replicas are those of ``manifest``.

        Raises:
            PermanentError: a replica ended instead of answering.
            TemporaryError: one did not answer in time, or there is no room.
        """
        async with Requests(self.replicas.clock) as requests:
            # What ended before this change began is none of its failures.
            before = await self.replicas.tend(ref, requests, say)
            self.replicas.retry_now(ref)
            want = _want(manifest, before)
            while True:
                instances = await self.replicas.tend(ref, requests, say)
                self._fail_fast(ref, instances, manifest, requests)
                step = next_step(instances, want)
                if step.done:
                    return
                if step.stuck:
                    raise TemporaryError(
                        f"cannot replace {ref}: there is no room for one replica more, "
                        f"and {want.floor} must go on answering",
                        hint="lower rollout.floor, or free a device",
                    )
                await self.replicas.stop(ref, step.stop, say)
                try:
                    for _ in range(step.start):
                        self.replicas.spawner.new(ref, manifest, argv, say)
                except launch.NoDevice:
                    if not (want.max_surge and instances):
                        raise
                    want = replace(want, max_surge=0)
                await asyncio.sleep(_TICK_S)

    def _fail_fast(
        self,
        ref: Ref,
        instances: list[Instance],
        manifest: EndpointManifest,
        requests: Requests,
    ) -> None:
        for instance in instances:
            fresh = instance.revision == manifest.revision
            # A start that is due at once was only just asked for.
            if fresh and instance.phase is Phase.WAITING and instance.retry_at:
                slow = instance.reason.startswith(TOO_SLOW)
                raise (TemporaryError if slow else PermanentError)(
                    f"cannot start {ref}: {self.replicas.why(instance, requests)}",
                    hint=f"the whole log is {self.replicas.spawner.log_of(instance)}; a start "
                    "that only takes long needs a larger rollout.readyTimeout",
                )

    async def _back(self, ref: Ref, say: Say) -> None:
        """Become what was reached last, or nothing if that was nothing."""
        record = self._record(ref)
        if not record.unit:
            await self.delete(ref, say)
            return
        manifest = EndpointManifest.model_validate_json(record.unit)
        try:
            argv = await self._argv(manifest, say)
            await self._converge(ref, manifest, argv, say)
        except FoundryError as error:
            # It stays marked as unfinished, so the next look finds it so.
            say(f"cannot go back either: {str(error).partition(chr(10))[0]}")
            return
        self._write(ref, self._record(ref), "gone back in", pending="")

    async def _end_orphans(self, ref: Ref, say: Say) -> None:
        """End processes whose record is gone: nobody could tell what they run."""
        for name, group in self.replicas.orphans(ref).items():
            say(f"ending {name}, which no record tells of")
            self.replicas.end(group, signal.SIGTERM)
            waited_s = 0.0
            while any(map(processes.alive, group)):
                await asyncio.sleep(_TICK_S)
                waited_s += _TICK_S
                if waited_s >= GRACE_S:
                    self.replicas.end(group, signal.SIGKILL)

    def _new(self, ref: Ref) -> Record:
        """A record for an endpoint; what is left of an older one keeps its UID."""
        names = [i.id for i in self.records.instances(ref)]
        names += self.replicas.orphans(ref)
        uid = names[0].split(".")[2] if names else secrets.token_hex(8)
        return Record(uid=uid, version=0)

    def _record(self, ref: Ref) -> Record:
        record = self.records.read(ref)
        assert record is not None, "written before the replicas, and we hold the lock"
        return record

    def _write(self, ref: Ref, record: Record, label: str, **changes: object) -> None:
        changes["version"] = record.version + 1
        self.records.write(ref, record.model_copy(update=changes), label=label)


def _want(manifest: EndpointManifest, instances: list[Instance]) -> Want:
    """Recreating is replacing without a floor and without room for more."""
    replacement, count = manifest.replacement, manifest.replicas
    serving = sum(i.phase is Phase.SERVING for i in instances)
    floor = serving if replacement.floor is None else min(replacement.floor, serving)
    recreate = replacement.strategy == "recreate"
    return Want(
        revision=manifest.revision,
        count=count,
        max_surge=0 if recreate else replacement.max_surge,
        floor=0 if recreate else min(floor, count),
    )
