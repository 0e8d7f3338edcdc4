"""A full route: who waits, who is next, who is refused and how."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.fairness import FairQueue
from schemas.gateway import GatewayConfig, Key, Limits, Queue, hash_key
from schemas.units import Duration
from tests.gateway.wire import (
    KEY,
    Asked,
    Gateway,
    MockUpstream,
    Start,
    chat_document,
    config_for,
    respond,
)

NAMES = ("a/one", "a/two", "b/one")
ASK: dict[str, Any] = {"model": "smol", "messages": [{"role": "user", "content": "x"}]}


def serve(queue: FairQueue[int]) -> str:
    key, item = queue.first()
    queue.remove(key, item)
    queue.started(key)
    return key


def test_a_place_goes_to_whom_the_fewest_have() -> None:
    queue = FairQueue[int]()
    for item in range(50):
        queue.push("a/one", item)
    for key in ("a/two", "b/one"):
        for item in range(10):
            queue.push(key, item)
    # Half of eight places for each project, and half of a's for each of its keys.
    held = Counter(serve(queue) for _ in range(8))
    assert held == {"b/one": 4, "a/one": 2, "a/two": 2}
    # Whoever keeps its places long gets no more of them than the others.
    for _ in range(6):
        queue.ended("b/one")
        assert serve(queue) == "b/one"


def test_one_key_is_served_in_order_and_alone_has_all() -> None:
    queue = FairQueue[int]()
    for item in range(5):
        queue.push("a/one", item)
    got = []
    while queue:
        got.append(queue.first()[1])
        serve(queue)
    assert got == [0, 1, 2, 3, 4]


@given(
    st.lists(
        st.tuples(st.sampled_from(("push", "next", "end")), st.sampled_from(NAMES))
    )
)
def test_nobody_waits_while_another_of_more_places_is_served(
    steps: list[tuple[str, str]],
) -> None:
    queue = FairQueue[int]()
    waiting, running = Counter[str](), Counter[str]()
    for number, (step, name) in enumerate(steps):
        if step == "push":
            queue.push(name, number)
            waiting[name] += 1
        elif step == "next" and queue:
            served = serve(queue)
            assert waiting[served] > 0
            project = served.partition("/")[0]
            for other in +waiting:
                if other.partition("/")[0] == project:
                    assert running[served] <= running[other]
            waiting[served] -= 1
            running[served] += 1
        elif step == "end" and running[name]:
            queue.ended(name)
            running[name] -= 1
        assert len(queue) == sum(waiting.values())
    assert not queue._running.keys() - {
        *running,
        *(n.partition("/")[0] for n in running),
    }


class Turnstile(MockUpstream):
    """Answers one request at a time, each when it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.order: list[str] = []
        self.inside = self.most = 0
        self.leave = asyncio.Semaphore(0)
        self.always = self._answer

    async def _answer(self, writer: asyncio.StreamWriter, asked: Asked) -> None:
        self.order.append(asked.body["user"])
        self.inside += 1
        self.most = max(self.most, self.inside)
        await self.leave.acquire()
        self.inside -= 1
        await respond(200, chat_document())(writer, asked)


@pytest.fixture
async def door() -> Any:
    server = Turnstile()
    await server.start()
    yield server
    await server.stop()


def config(
    door: Turnstile, *, workers: int = 1, wait: str = "30s", length: int = 1000
) -> GatewayConfig:
    base = config_for(
        door,
        listener={"workers": workers},
        limits=Limits(concurrent=4),
        queue=Queue(wait=Duration(wait), length=length),
    )
    keys = {"team/other": Key(hash=hash_key(KEY + "-other"))}
    return base.model_copy(update={"keys": {**base.keys, **keys}})


async def ask(gateway: Gateway, key: str, who: str) -> str:
    answer = await gateway.client(key).chat.completions.create(**ASK, user=who)
    return str(answer.choices[0].message.content)


@pytest.mark.parametrize("workers", [1, 2])
async def test_a_greedy_key_takes_no_more_than_its_share_of_places(
    start: Start, door: Turnstile, workers: int
) -> None:
    gateway = await start(config(door, workers=workers), fresh=workers > 1)
    async with asyncio.timeout(120), asyncio.TaskGroup() as tasks:
        for _ in range(60):
            tasks.create_task(ask(gateway, KEY, "greedy"))
        while door.inside < 4:
            await asyncio.sleep(0.01)
        await gateway.until_shown("bud_gateway_queued 56")
        for _ in range(8):
            tasks.create_task(ask(gateway, KEY + "-other", "other"))
        await gateway.until_shown("bud_gateway_queued 64")
        while door.order.count("other") < 8:
            seen = len(door.order)
            door.leave.release()
            while len(door.order) == seen:
                await asyncio.sleep(0.01)
        served = len(door.order)
        for _ in range(68):
            door.leave.release()
    # Of one worker: after the four that had a place, every other one that came free.
    # Workers share by how many wait, so a key's share there may be that of a worker.
    assert served <= (4 + 2 * 8 if workers == 1 else 60)
    assert door.most == 4
    assert Counter(door.order) == {"greedy": 60, "other": 8}


async def test_who_waits_too_long_or_is_one_too_many_is_told_what_is_full(
    start: Start, door: Turnstile
) -> None:
    gateway = await start(config(door, wait="500ms", length=1))
    async with asyncio.TaskGroup() as tasks:
        for n in range(4):
            tasks.create_task(ask(gateway, KEY, "first"))
            while door.inside <= n:
                await asyncio.sleep(0.01)
        late = tasks.create_task(refused(gateway))
        await gateway.until_shown("bud_gateway_queued 1")
        assert "1 more wait for a place" in (await refused(gateway)).message
        assert "no place was free within 0.5 s" in (await late).message
        for _ in range(4):
            door.leave.release()
    assert door.order == ["first"] * 4


async def refused(gateway: Gateway) -> openai.RateLimitError:
    with pytest.raises(openai.RateLimitError) as caught:
        await ask(gateway, KEY, "late")
    assert (
        caught.value.response.headers["x-bud-limiter"] == "route team/chat:concurrent"
    )
    assert caught.value.response.headers["retry-after"] == "1"
    assert "route team/chat has 4 requests at once" in caught.value.message
    return caught.value


async def test_who_leaves_the_queue_takes_no_place(
    start: Start, door: Turnstile
) -> None:
    gateway = await start(config(door))
    async with asyncio.TaskGroup() as tasks:
        for n in range(4):
            tasks.create_task(ask(gateway, KEY, "first"))
            while door.inside <= n:
                await asyncio.sleep(0.01)
        gone = asyncio.ensure_future(ask(gateway, KEY, "gone"))
        await gateway.until_shown("bud_gateway_queued 1")
        gone.cancel()
        await asyncio.wait({gone})
        await gateway.until_shown("bud_gateway_queued 0")
        last = tasks.create_task(ask(gateway, KEY, "last"))
        for _ in range(5):
            door.leave.release()
        assert await last == "hello"
    assert Counter(door.order) == {"first": 4, "last": 1}
