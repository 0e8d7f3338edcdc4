"""Clients notice nothing: law 6, and no failed request through any change."""

import asyncio
import json
from dataclasses import dataclass, field

import aiohttp
import pytest

from reconciler.targets.local import lifecycle
from reconciler.values import Health, Key, Presence
from schemas.errors import FoundryError, PermanentError, TemporaryError
from tests.reconciler.targets.contract import change, create, delete, look, silent
from tests.reconciler.targets.local.conftest import LocalWorld, supervised, until

pytestmark = pytest.mark.slow

# A request takes some 20 ms: long enough to be in flight when something changes.
# Told to end, this engine ends: only a drain before that saves the request.
TIMED = (
    *("--ttft-ms", "10", "--input-tokens", "8", "--tpot-ms", "3"),
    *("--drain", "0"),
)


@dataclass
class Clients:
    """A few clients that ask whoever is in the address book, one after another."""

    world: LocalWorld
    name: str
    answers: int = 0
    failures: list[str] = field(default_factory=list)
    lowest: int = 10**6
    """The fewest addresses that any request found."""

    async def run(self, stop: asyncio.Event) -> None:
        connector = aiohttp.TCPConnector(force_close=True)
        async with aiohttp.ClientSession(connector=connector) as session:
            turn = 0
            while not stop.is_set() and turn < 20_000:
                turn += 1
                urls = self.world.addresses(self.name)
                self.lowest = min(self.lowest, len(urls))
                if not urls:
                    await asyncio.sleep(0.01)  # a gateway holds the request meanwhile
                    continue
                await self._ask(session, urls[turn % len(urls)])

    async def _ask(self, session: aiohttp.ClientSession, url: str) -> None:
        body = {
            "model": self.name,
            "messages": [{"role": "user", "content": "hello"}],
            "max_tokens": 4,
        }
        try:
            async with session.post(f"{url}/v1/chat/completions", json=body) as answer:
                text = await answer.text()
                if answer.status != 200 or "choices" not in json.loads(text):
                    self.failures.append(f"{answer.status} {text}")
        except aiohttp.ClientError as error:
            self.failures.append(repr(error))
        self.answers += 1


@pytest.mark.timeout(600)
async def test_no_client_sees_a_failure_through_any_change(world: LocalWorld) -> None:
    target, clients = world.target, Clients(world, "chat")
    other = await target.apply(create(world.endpoint("other")), silent)
    one = world.endpoint("chat", args=TIMED)
    three = world.endpoint("chat", args=TIMED, replicas=3)
    new = world.endpoint("chat", args=(*TIMED, "--seed", "9"), replicas=2)
    broken = world.endpoint("chat", args=("--start-fails", "no such kernel"))
    live = await target.apply(create(one), silent)
    stop = asyncio.Event()
    async with supervised(target), asyncio.TaskGroup() as group:
        tasks = [group.create_task(clients.run(stop)) for _ in range(3)]
        for unit in (three, one, new):
            live = await target.apply(change(unit, live), silent)
            assert live.health is Health.SERVABLE
        with pytest.raises(PermanentError, match="no such kernel"):
            await target.apply(change(broken, live), silent)
        assert clients.lowest >= 1, "there was always somebody to ask"
        live = await look(target, one.key)
        assert live.digest == new.digest
        await target.delete(delete(live), silent)
        stop.set()
        await asyncio.gather(*tasks)
    assert clients.failures == []
    assert clients.answers > 100
    assert world.addresses("chat") == []
    assert await look(target, other.key) == other, "nothing else was touched"


async def test_scaling_restarts_nothing(world: LocalWorld) -> None:
    live = await world.target.apply(create(world.endpoint("chat")), silent)
    (first,) = world.instances("chat")
    live = await world.target.apply(
        change(world.endpoint("chat", replicas=2), live), silent
    )
    assert first in world.instances("chat")
    await world.target.apply(change(world.endpoint("chat"), live), silent)
    assert world.instances("chat") == [first]


@pytest.mark.parametrize(
    ("args", "ready_timeout_s", "error", "said"),
    [
        (("--start-fails", "CUDA is gone"), 600, PermanentError, "CUDA is gone"),
        (("--not-ready",), 1, TemporaryError, "did not answer in time"),
    ],
    ids=["skypilot#4312-it-ends", "dstack#4186-it-never-answers"],
)
async def test_a_revision_that_cannot_serve_leaves_the_old_one_serving(
    world: LocalWorld,
    args: tuple[str, ...],
    ready_timeout_s: float,
    error: type[FoundryError],
    said: str,
) -> None:
    before = await world.target.apply(
        create(world.endpoint("chat", replicas=2)), silent
    )
    old, urls = world.instances("chat"), world.addresses("chat")
    broken = world.endpoint(
        "chat", args=args, replicas=2, ready_timeout_s=ready_timeout_s
    )
    with pytest.raises(error, match=said):
        await world.target.apply(change(broken, before), silent)
    after = await look(world.target, broken.key)
    assert (after.digest, after.health) == (before.digest, Health.SERVABLE)
    assert world.instances("chat") == old, "the same processes, never touched"
    assert world.addresses("chat") == urls
    assert sorted(world.running()) == sorted(i.id for i in old)


async def test_an_endpoint_that_never_came_up_leaves_nothing(world: LocalWorld) -> None:
    unit = world.endpoint("chat", args=("--start-fails", "no"), ready_timeout_s=600)
    with pytest.raises(PermanentError, match="exit code 1"):
        await world.target.apply(create(unit), silent)
    assert (await look(world.target, unit.key)).presence is Presence.ABSENT
    assert world.running() == {}
    assert world.addresses("chat") == []


async def test_recreating_has_no_two_revisions_at_once(world: LocalWorld) -> None:
    live = await world.target.apply(create(world.endpoint("chat")), silent)
    most = 0

    def watch(key: Key, message: str) -> None:
        nonlocal most
        most = max(most, len(world.running()))

    unit = world.endpoint("chat", args=("--seed", "7"), strategy="recreate")
    after = await world.target.apply(change(unit, live), watch)
    assert (after.digest, after.health, most) == (unit.digest, Health.SERVABLE, 1)


async def test_a_request_in_flight_is_finished_before_its_replica_ends(
    world: LocalWorld,
) -> None:
    slow = ("--tpot-ms", "100", "--drain", "0")
    unit = world.endpoint("chat", args=slow, drain_timeout_s=30)
    live = await world.target.apply(create(unit), silent)
    (url,) = world.addresses("chat")
    body = {"model": "chat", "prompt": "a story", "max_tokens": 20, "stream": True}
    async with (
        aiohttp.ClientSession(headers={"Connection": "close"}) as session,
        session.post(f"{url}/v1/completions", json=body) as answer,
        asyncio.TaskGroup() as group,
    ):
        await answer.content.readline()
        group.create_task(world.target.delete(delete(live), silent))
        await until(lambda: world.addresses("chat") == [])
        rest = await answer.content.read()
        assert rest.endswith(b"data: [DONE]\n\n")
    assert world.running() == {}


async def test_a_client_that_never_leaves_is_waited_for_only_so_long(
    world: LocalWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lifecycle, "GRACE_S", 0.5)
    unit = world.endpoint("chat", args=("--tpot-ms", "60000"), drain_timeout_s=0.5)
    live = await world.target.apply(create(unit), silent)
    (url,) = world.addresses("chat")
    body = {"model": "chat", "prompt": "a story", "max_tokens": 20, "stream": True}
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{url}/v1/completions", json=body) as answer,
    ):
        await answer.content.readline()
        async with asyncio.timeout(20):
            await world.target.delete(delete(live), silent)
    assert world.running() == {}


async def test_health_asks_for_real(world: LocalWorld) -> None:
    unit = world.endpoint("chat", args=("--error-after", "1"))
    live = await world.target.apply(create(unit), silent)
    assert live.health is Health.SERVABLE
    asked = await world.target.health(unit.key)
    assert asked.health is Health.DEGRADED
    assert "replica 0 does not answer (HTTP 500" in asked.detail


async def test_no_replicas_are_servable_when_none_are_wanted(world: LocalWorld) -> None:
    unit = world.endpoint("chat", replicas=0)
    live = await world.target.apply(create(unit), silent)
    assert (live.digest, live.health) == (unit.digest, Health.SERVABLE)
    assert world.running() == {}


async def test_an_error_shows_the_log_and_no_secret_of_it(world: LocalWorld) -> None:
    secret = "canary-5f1c"
    unit = world.endpoint(
        "chat",
        args=("--start-fails", f"bad login with {secret} or sk-abcdefgh12345678"),
        env={"HUB_TOKEN": secret},
    )
    heard: list[str] = []
    with pytest.raises(PermanentError) as failure:
        await world.target.apply(create(unit), lambda _, text: heard.append(text))
    said = f"{failure.value} {heard}"
    assert "bad login with *** or ***" in said
    assert secret not in said
    assert "sk-abc" not in said
