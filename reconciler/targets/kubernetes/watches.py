"""Watches: when to look. (I/O: one open request a kind)

The target runs them. An event is a hint and never the truth: what lives is always
read anew. A dropped event costs until the next resync, a broken watch is listed again
after a pause, and a version that is too old (410) is listed again at once. An event
that leaves our fields as they were (a status, an autoscaler's number) wakes whoever
waits for a rollout, and nobody else.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress

import structlog

from reconciler.targets.kubernetes.client import Client, Gone
from reconciler.targets.kubernetes.discovery import Discovery, NoSuchKind
from reconciler.targets.kubernetes.health import assess, takes_time
from reconciler.targets.kubernetes.manifests import (
    PART_OF_LABEL,
    Json,
    identify,
)
from reconciler.targets.kubernetes.ownership import OURS, Whose, mark_of
from reconciler.values import Health
from schemas.errors import FoundryError, PermanentError

__all__ = ["Watches"]

_log = structlog.get_logger("kubernetes")

_RESYNC_S = 600.0
_PAUSE_S = (1.0, 30.0)

Told = Callable[[str], None]
"""Told what still rolls, in words."""


class Watches:
    def __init__(
        self,
        client: Client,
        discovery: Discovery,
        *,
        selector: str,
        whose: Whose = OURS,
    ) -> None:
        """``whose`` fields tell that something moved."""
        self._client, self._discovery = client, discovery
        self._selector, self._whose = selector, whose
        self._waiting: dict[str, list[tuple[asyncio.Event, Told]]] = {}
        self._marks: dict[str, int] = {}
        self._moved: Callable[[], None] = _nobody

    async def until(
        self,
        stop: asyncio.Event,
        kinds: Iterable[tuple[str, str]],
        moved: Callable[[], None],
    ) -> None:
        """Watch all ``kinds`` and call ``moved``, until ``stop``."""
        self._moved = moved
        async with asyncio.TaskGroup() as tasks:
            following = [
                tasks.create_task(self._follow(*kind)) for kind in sorted(kinds)
            ]
            await stop.wait()
            for task in following:
                task.cancel()

    @contextmanager
    def listening(self, set_id: str, told: Told) -> Iterator[asyncio.Event]:
        """Give an event that is set when an object of this set may have got there.

        One that still rolls is told and wakes nobody: a look for each pod that starts
        would cost more than the writes did. Clear it before a look, not after: what
        moves in between counts.
        """
        event = asyncio.Event()
        waiting = event, told
        self._waiting.setdefault(set_id, []).append(waiting)
        try:
            yield event
        finally:
            self._waiting[set_id].remove(waiting)
            if not self._waiting[set_id]:
                del self._waiting[set_id]

    async def _follow(self, api_version: str, kind: str) -> None:
        shortest, longest = _PAUSE_S
        pause = shortest
        while True:
            try:
                path = await self._discovery.collection(api_version, kind)
                items, version = await self._client.list(path, selector=self._selector)
                for item in items:
                    # Items of a list do not say their kind themselves.
                    self._saw(
                        "LISTED", {"apiVersion": api_version, "kind": kind, **item}
                    )
                pause = shortest
                await self._stream(path, version)
                continue
            except Gone:
                continue
            except (NoSuchKind, PermanentError):
                await asyncio.sleep(longest)
                continue
            except FoundryError as error:
                _log.warning("watch broke", kind=kind, reason=str(error))
            # Full jitter: fifty clusters that come back do not list at one instant.
            await asyncio.sleep(random.uniform(0, pause))  # noqa: S311 - jitter
            pause = min(2 * pause, longest)

    async def _stream(self, path: str, version: str) -> None:
        """Follow one kind from ``version`` on; return when a resync is due."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_RESYNC_S):
                while True:
                    async for word, live in self._client.watch(
                        path, selector=self._selector, version=version
                    ):
                        version = live["metadata"]["resourceVersion"]
                        if word != "BOOKMARK":
                            self._saw(word, live)

    def _saw(self, word: str, live: Json) -> None:
        metadata = live["metadata"]
        set_id = (metadata.get("labels") or {}).get(PART_OF_LABEL, "")
        if waiting := self._waiting.get(set_id):
            which, (health, why) = identify(live), assess(live)
            for event, told in waiting:
                if word == "DELETED" or (
                    takes_time(which) and health is not Health.APPLIED
                ):
                    event.set()
                elif health is Health.APPLIED:
                    told(f"{which}: {why}")
        uid = metadata["uid"]
        before = self._marks.get(uid)
        if word == "DELETED":
            self._marks.pop(uid, None)
            self._moved()
            return
        now = self._marks[uid] = mark_of(live, self._whose)
        if before != now and not (word == "LISTED" and before is None):
            self._moved()


def _nobody() -> None:
    """Nobody asked to be told."""
