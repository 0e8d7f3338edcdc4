"""The local target: endpoints as supervised processes, models as files (I/O).

The engine calls the contract of ``Target``; the daemon also runs ``supervise``,
and `bud down` calls ``stop_all``. Each object is changed under its own lock, which
holds against other processes too. docs/local.md tells the whole of it.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from reconciler.targets.base import Progress
from reconciler.targets.local import files, launch
from reconciler.targets.local.addresses import AddressBook
from reconciler.targets.local.endpoints import Endpoints, Scan
from reconciler.targets.local.models import Models
from reconciler.targets.local.processes import Processes
from reconciler.targets.local.records import Records, file_name
from reconciler.targets.local.replicas import Replicas
from reconciler.targets.local.spawner import Say, Spawner
from reconciler.targets.local.supervisor import Supervisor
from reconciler.targets.local.weights import WeightStore
from reconciler.targets.precondition import check_precondition
from reconciler.values import Action, Change, Key, Live
from schemas.errors import PermanentError
from schemas.local import EndpointManifest, ModelManifest
from schemas.objects import Ref

__all__ = ["LocalTarget"]

_PATIENCE_S = 60.0
"""For somebody else's change of the same object; a whole rollout is not waited for."""

Manifest = TypeVar("Manifest", bound=BaseModel)


class LocalTarget:
    """Processes and files here: ``home`` holds the state, ``checkout`` resolves paths."""

    name = "local"

    def __init__(
        self,
        home: Path,
        *,
        checkout: Path,
        clock: Callable[[], float] = time.time,  # noqa: TID251 - read here, passed on
        jitter: random.Random | None = None,
        gpus: Callable[[], Collection[int]] = launch.gpus,
    ) -> None:
        home = home.resolve()
        self._locks = home / "locks"
        self._records = Records(home)
        self._processes = Processes(home, home / "instances")
        book = AddressBook(home)
        weights = WeightStore(home / "models", checkout.resolve())
        self._replicas = Replicas(
            records=self._records,
            processes=self._processes,
            book=book,
            clock=clock,
            random=jitter or random.Random(),  # noqa: S311 - spreads restarts only
            spawner=Spawner(
                records=self._records,
                processes=self._processes,
                clock=clock,
                logs_folder=home / "logs",
                gpus=gpus,
            ),
        )
        self._endpoints = Endpoints(self._records, self._replicas, book, weights)
        self._models = Models(self._records, weights)

    async def observe(self, keys: Collection[Key]) -> Mapping[Key, Live]:
        return await asyncio.to_thread(self._observe, frozenset(keys))

    async def dry_run(self, change: Change) -> None:
        check_precondition(change, await self._live(change.key))
        if change.action is Action.DELETE:
            return
        match change.key.ref.kind:
            case "Endpoint":
                self._endpoints.check(_manifest(change, EndpointManifest))
            case _:
                self._models.check(_manifest(change, ModelManifest))

    async def apply(self, change: Change, progress: Progress) -> Live:
        ref, say = change.key.ref, _say(change.key, progress)
        async with self._lock(ref):
            await self.dry_run(change)
            assert change.unit is not None, "checked by dry_run"
            content = change.unit.content.decode()
            if ref.kind == "Endpoint":
                endpoint = _manifest(change, EndpointManifest)
                await self._endpoints.apply(ref, endpoint, content, say)
                self._models.tidy()
            else:
                model = _manifest(change, ModelManifest)
                await self._models.apply(ref, model, content, say)
        return await self._live(change.key)

    async def delete(self, change: Change, progress: Progress) -> None:
        ref = change.key.ref
        async with self._lock(ref):
            await self.dry_run(change)
            if ref.kind == "Endpoint":
                await self._endpoints.delete(ref, _say(change.key, progress))
                self._models.tidy()
            else:
                self._models.require_unused(ref)
                self._models.delete(ref)

    async def health(self, key: Key) -> Live:
        live = await self._live(key)
        if key.ref.kind != "Endpoint":
            return live
        return await self._endpoints.health(key, live)

    async def supervise(self, stop: asyncio.Event) -> None:
        """Keep every recorded replica alive until ``stop`` is set; for the daemon."""
        await Supervisor(self._records, self._replicas, self._locks).run(stop)

    async def stop_all(self, progress: Progress) -> None:
        """End every process; records stay, so that the next run starts them again."""
        for ref in self._records.all("Endpoint"):
            async with self._lock(ref):
                key = Key(self.name, ref)
                await self._endpoints.stop(ref, _say(key, progress))

    def _observe(self, keys: frozenset[Key]) -> dict[Key, Live]:
        ours = {
            Key(self.name, ref)
            for kind in ("Endpoint", "Model")
            for ref in self._records.all(kind)
        }
        scan = self._processes.scan()
        running = {_endpoint_of(self.name, instance) for instance in scan}
        return {key: self._look(key, scan) for key in sorted(keys | ours | running)}

    async def _live(self, key: Key) -> Live:
        """Look at one object alone: a change of one of a thousand reads one."""
        return await asyncio.to_thread(lambda: self._look(key, self._processes.scan()))

    def _look(self, key: Key, scan: Scan) -> Live:
        if key.ref.kind == "Endpoint":
            return self._endpoints.look(key, scan)
        return self._models.look(key)

    def _lock(self, ref: Ref) -> AbstractAsyncContextManager[None]:
        return files.lock(
            self._locks / f"{ref.kind}.{file_name(ref)}",
            what=str(ref),
            patience_s=_PATIENCE_S,
        )


def _endpoint_of(target: str, instance: str) -> Key:
    project, name, *_ = instance.split(".")
    return Key(target, Ref("Endpoint", project, name))


def _say(key: Key, progress: Progress) -> Say:
    return lambda text: progress(key, text)


def _manifest(change: Change, kind: type[Manifest]) -> Manifest:
    assert change.unit is not None, "checked by check_precondition"
    try:
        return kind.model_validate_json(change.unit.content)
    except ValidationError as error:
        raise PermanentError(
            f"cannot {change.action.value} {change.key}: its unit is no "
            f"{kind.__name__}: {error.errors()[0]['msg']}",
            hint="it was rendered by another version: render it again",
        ) from error
