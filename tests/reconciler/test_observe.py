"""What every target says, and that one that is silent delays the others once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Mapping

from reconciler.observe import Observer, observe
from reconciler.targets.memory import MemoryTarget
from reconciler.values import Key, Live, Presence
from schemas.objects import Ref

REF = Ref("Endpoint", "default", "chat")
NEAR, FAR = Key("near", REF), Key("far", REF)


class Far(MemoryTarget):
    """A cluster behind a line that swallows what is sent."""

    def __init__(self) -> None:
        super().__init__("far")
        self.answers = asyncio.Event()
        self.asked = 0
        self.observe_s = 0.2

    async def observe(self, keys: Collection[Key]) -> Mapping[Key, Live]:
        self.asked += 1
        await self.answers.wait()
        return await super().observe(keys)


async def test_a_target_that_is_not_there_is_unknown() -> None:
    live = (await observe({}, [FAR]))[FAR]
    assert live.presence is Presence.UNKNOWN


async def test_a_silent_cluster_delays_the_others_once() -> None:
    far, targets = Far(), {"near": MemoryTarget("near")}
    targets["far"] = far
    observer = Observer()
    first = await observer.look(targets, [NEAR, FAR])
    assert "did not answer" in first[FAR].detail

    far.observe_s = 3600.0
    await observer.look(targets, [NEAR, FAR])  # what is asked beside it, starts
    started = time.monotonic()
    for _ in range(3):
        seen = await observer.look(targets, [NEAR, FAR])
        assert seen[NEAR].presence is Presence.ABSENT
        assert seen[FAR].presence is Presence.UNKNOWN
    assert time.monotonic() - started < 30, "a look waits for a second, not an hour"
    assert far.asked < 5, "nor is it asked again while it still may answer"


async def test_a_cluster_that_comes_back_is_seen_as_it_is_now() -> None:
    far = Far()
    targets = {"far": far}
    observer = Observer()
    await observer.look(targets, [FAR])
    far.answers.set()
    seen = await observer.look(targets, [FAR])
    assert seen[FAR].presence is Presence.ABSENT


async def test_another_target_of_the_same_name_is_not_taken_for_the_silent_one() -> (
    None
):
    observer = Observer()
    await observer.look({"far": Far()}, [FAR])
    seen = await observer.look({"far": MemoryTarget("far")}, [FAR])
    assert seen[FAR].presence is Presence.ABSENT
