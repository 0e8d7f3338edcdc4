"""The replicas of an endpoint: tended, started, stopped (I/O).

A change and the supervisor both work through here, holding the endpoint's lock,
so there is one way in which a replica comes, is watched and goes. ``tend`` looks
at each replica once, takes it one move forward and never waits for any of them.

The order of writes is the safety: a record before its process, a record without
the address before the address goes, the address gone before the process is told
to end, and a record removed only once nothing of the process is left.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from random import Random

from reconciler.faults import point
from reconciler.targets.local import logs, processes
from reconciler.targets.local.addresses import AddressBook
from reconciler.targets.local.lifecycle import (
    STEADY_S,
    Facts,
    Move,
    backoff_s,
    decide,
)
from reconciler.targets.local.processes import Process, Processes
from reconciler.targets.local.records import Instance, Phase, Records, file_name
from reconciler.targets.local.requests import Requests
from reconciler.targets.local.spawner import Say, Spawner
from schemas.errors import PermanentError
from schemas.objects import Ref

__all__ = ["TOO_SLOW", "Replicas"]

TOO_SLOW = "did not answer in time"
"""How the reason of a replica begins that lived, and never answered."""


@dataclass(slots=True)
class Replicas:
    records: Records
    processes: Processes
    spawner: Spawner
    book: AddressBook
    clock: Callable[[], float]
    random: Random
    _quiet: dict[str, float] = field(default_factory=dict)
    """Since when each draining replica has had no connection."""
    _told: set[Process] = field(default_factory=set)
    _published: set[Ref] = field(default_factory=set)

    async def tend(self, ref: Ref, requests: Requests, say: Say) -> list[Instance]:
        """Take each replica one move forward; returns them as they are then."""
        if ref not in self._published:
            # What an earlier run left half done: an address it meant to withdraw.
            await self.book.publish(ref, self.records.instances(ref))
            self._published.add(ref)
        kept = []
        for instance in self.records.instances(ref):
            found = self.spawner.adopted(ref, instance)
            after = await self._move(ref, found, requests, say)
            if after is not None:
                kept.append(after)
        return kept

    async def stop(self, ref: Ref, ids: Collection[str], say: Say) -> None:
        """Begin to stop replicas: their addresses go now, they go when drained."""
        for instance in self.records.instances(ref):
            if instance.id in ids and instance.phase not in {
                Phase.DRAINING,
                Phase.STOPPING,
            }:
                serving = instance.phase is Phase.SERVING
                phase = Phase.DRAINING if serving else Phase.STOPPING
                say(f"{'draining' if serving else 'stopping'} replica {instance.slot}")
                self._write(ref, instance, phase=phase)
        await self._publish(ref)

    def retry_now(self, ref: Ref) -> None:
        """Let replicas that wait for their next start have it at once."""
        for instance in self.records.instances(ref):
            if instance.phase is Phase.WAITING:
                self._write(ref, instance, retry_at=0.0)

    def orphans(self, ref: Ref) -> dict[str, list[Process]]:
        """Processes of ours whose record is gone, by instance."""
        known = {i.id for i in self.records.instances(ref)}
        return {
            name: group
            for name, group in self.processes.scan().items()
            if name.startswith(f"{file_name(ref)}.") and name not in known
        }

    def end(self, group: Collection[Process], number: signal.Signals) -> None:
        for process in group:
            processes.send(process, number)

    def why(self, instance: Instance, requests: Requests) -> str:
        """What keeps a replica from answering, for an error that a person reads."""
        lines = logs.tail(self.spawner.log_of(instance), lines=20, env=instance.env)
        said = "".join(f"\n  | {line}" for line in lines)
        met = requests.about(instance).why
        reason = instance.reason or (f"not ready yet ({met})" if met else "not ready")
        return f"replica {instance.slot}: {reason}" + (
            f"; the last lines of its log:{said}" if said else "; it logged nothing"
        )

    async def _move(
        self, ref: Ref, instance: Instance, requests: Requests, say: Say
    ) -> Instance | None:
        match decide(instance, self._facts(instance, requests)):
            case Move.PROBE:
                requests.ask(instance, real=True)
            case Move.CHECK:
                requests.ask(instance, real=False)
                logs.bound(self.spawner.log_of(instance))
                await self._publish(ref)
            case Move.SERVE:
                say(f"replica {instance.slot} answers on port {instance.port}")
                instance = self._write(ref, instance, phase=Phase.SERVING, reason="")
                await self._publish(ref)
            case Move.BURY:
                instance = await self._bury(ref, instance, say)
            case Move.START:
                return self._restart(ref, instance, say)
            case Move.TERMINATE:
                instance = await self._terminate(ref, instance)
            case Move.KILL:
                instance = self._kill(ref, instance, requests)
            case Move.FORGET:
                self._kill_rest(instance)
                self.records.remove_instance(ref, instance.id)
                say(f"replica {instance.slot} is gone")
                return None
            case Move.STAY:
                pass
        return instance

    def _facts(self, instance: Instance, requests: Requests) -> Facts:
        now, asked = self.clock(), requests.about(instance)
        process = Process(instance.pid, instance.started)
        quiet_s = 0.0
        if instance.phase is Phase.DRAINING:
            if instance.id not in self._quiet or processes.connections(instance.port):
                self._quiet[instance.id] = now
            quiet_s = now - self._quiet[instance.id]
        return Facts(
            now=now,
            alive=processes.alive(process),
            answered=asked.answered,
            asking=asked.asking,
            asked_at=asked.at,
            misses=asked.misses,
            quiet_s=quiet_s,
            told=process in self._told,
        )

    async def _bury(self, ref: Ref, instance: Instance, say: Say) -> Instance:
        now = self.clock()
        self._kill_rest(instance)
        steady = instance.phase is Phase.SERVING and now - instance.since >= STEADY_S
        failures = 1 if steady else instance.failures + 1
        reason = instance.reason or _ended(instance)
        say(f"replica {instance.slot} is down: {reason}")
        after = self._write(
            ref,
            instance,
            phase=Phase.WAITING,
            failures=failures,
            retry_at=now + backoff_s(failures, self.random.random()),
            reason=reason,
            pid=0,
            started=0,
        )
        await self._publish(ref)
        return after

    def _restart(self, ref: Ref, instance: Instance, say: Say) -> Instance:
        try:
            return self.spawner.again(ref, instance, say)
        except PermanentError as error:
            # Somebody may be installing it this minute; the backoff bounds the tries.
            failures, now = instance.failures + 1, self.clock()
            delay_s = backoff_s(failures, self.random.random())
            return self._write(
                ref,
                instance,
                phase=Phase.WAITING,
                failures=failures,
                retry_at=now + delay_s,
                reason=str(error),
            )

    async def _terminate(self, ref: Ref, instance: Instance) -> Instance:
        await self._publish(ref)
        process = Process(instance.pid, instance.started)
        if instance.phase is not Phase.STOPPING:
            instance = self._write(ref, instance, phase=Phase.STOPPING)
        point("before terminate")
        self._told.add(process)
        processes.send(process, signal.SIGTERM)
        point("after terminate")
        return instance

    def _kill(self, ref: Ref, instance: Instance, requests: Requests) -> Instance:
        if instance.phase is not Phase.STOPPING:
            met = requests.about(instance).why
            starting = instance.phase is Phase.STARTING
            reason = TOO_SLOW if starting else "it hangs: it no longer answers"
            reason += f" ({met})" if met else ""
            instance = self._write(ref, instance, reason=reason)
        point("before kill")
        self._kill_rest(instance)
        processes.send(Process(instance.pid, instance.started), signal.SIGKILL)
        point("after kill")
        return instance

    def _kill_rest(self, instance: Instance) -> None:
        """Workers of an engine outlive it now and then, and hold its GPUs."""
        self.end(self.processes.members(instance.id), signal.SIGKILL)

    def _write(self, ref: Ref, instance: Instance, **changes: object) -> Instance:
        return self.records.move(ref, instance, now=self.clock(), **changes)

    async def _publish(self, ref: Ref) -> None:
        await self.book.publish(ref, self.records.instances(ref))


def _ended(instance: Instance) -> str:
    if not instance.pid:
        return "it was never started"
    code = processes.exit_code(Process(instance.pid, instance.started))
    if code is None:
        return "it ended"
    if code < 0:
        return f"it was ended by {signal.Signals(-code).name}"
    return f"it ended with exit code {code}"
