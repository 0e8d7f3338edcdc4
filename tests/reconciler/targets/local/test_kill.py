"""Law 10: killed between any two lines, the next run looks, repeats nothing, converges.

The points at which a run can be killed are listed by a run that is not. Each
rehearsal forks, dies by SIGKILL at one of them, and is followed by a run that
remembers nothing, as a daemon that is started again.
"""

import asyncio
import os
import signal
import urllib.request
from collections.abc import Callable
from pathlib import Path

import orjson
import pytest

from reconciler import faults
from reconciler.targets.local import LocalTarget, lifecycle
from reconciler.values import Action, Change, Health, Key, Presence, Unit
from tests.reconciler.targets.contract import change, create, delete, look, silent
from tests.reconciler.targets.local.conftest import LocalWorld

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

OLD, NEW = ("--seed", "1"), ("--seed", "2")
STRIDE = int(os.environ.get("BUD_KILL_STRIDE", "3"))
"""1 kills at every point, as `make test-kill` does."""


async def reach(target: LocalTarget, key: Key, unit: Unit | None) -> None:
    """Look, decide on what is seen, and change it: what the engine does."""
    live = await look(target, key)
    if unit is None:
        if live.presence is Presence.PRESENT:
            await target.delete(delete(live), silent)
    elif live.presence is Presence.ABSENT:
        await target.apply(create(unit), silent)
    elif (live.digest, live.health) != (unit.digest, Health.SERVABLE):
        await target.apply(change(unit, live), silent)


def rehearse(act: Callable[[], None], *, die_at: int = 0, log: str = "") -> int:
    """Run ``act`` in a fork; returns how it ended, negative for a signal."""
    pid = os.fork()
    if pid == 0:
        faults._armed, faults._kill_at, faults._log = True, die_at, log
        try:
            act()
        except BaseException:  # noqa: BLE001 - whatever it is, this is not pytest
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def check(world: LocalWorld, unit: Unit, *, replicas: int) -> None:
    """Exactly the wanted processes live, each is in the address book, each answers."""
    instances = world.records.instances(unit.key.ref)
    running = world.running()
    assert sorted(running) == sorted(i.id for i in instances), "an orphan, or a loss"
    assert [len(group) for group in running.values()] == [1] * replicas
    book = orjson.loads((world.home / "addresses.json").read_bytes())["upstreams"]
    name = f"default/{unit.key.ref.name}"
    urls = book.get(name, [])
    assert sorted(urls) == sorted(f"http://127.0.0.1:{i.port}" for i in instances)
    assert len(urls) == replicas
    for url in urls:
        with urllib.request.urlopen(f"{url}/v1/models", timeout=10) as answer:
            assert answer.status == 200


SCENARIOS = {
    "create": (None, {"replicas": 2, "args": OLD}),
    "scale-up": ({"replicas": 1, "args": OLD}, {"replicas": 2, "args": OLD}),
    "scale-down": ({"replicas": 2, "args": OLD}, {"replicas": 1, "args": OLD}),
    "replace": ({"replicas": 1, "args": OLD}, {"replicas": 1, "args": NEW}),
    "recreate": (
        {"replicas": 1, "args": OLD},
        {"replicas": 1, "args": NEW, "strategy": "recreate"},
    ),
    "delete": ({"replicas": 1, "args": OLD}, None),
}


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_killed_at_any_write_the_next_run_converges(
    scenario: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # No client is served here: what a drain waits for is tested on its own.
    monkeypatch.setattr(lifecycle, "QUIET_S", 0.1)
    before, after = SCENARIOS[scenario]
    log = tmp_path / "points"

    def run(number: int) -> int:
        world = LocalWorld(tmp_path / f"home{number}")
        first = world.endpoint("chat", **before) if before else None  # type: ignore[arg-type]
        last = world.endpoint("chat", **after) if after else None  # type: ignore[arg-type]
        key = world.key("chat")
        try:
            if first is not None:
                asyncio.run(reach(world.target, key, first))
            ended = rehearse(
                lambda: asyncio.run(reach(world.restarted(), key, last)),
                die_at=number,
                log="" if number else str(log),
            )
            living = world.running()
            assert all(len(group) == 1 for group in living.values()), "started twice"
            asyncio.run(reach(world.restarted(), key, last))
            live = asyncio.run(look(world.restarted(), key))
            if last is None:
                assert live.presence is Presence.ABSENT
                assert world.running() == {}
            else:
                assert (live.digest, live.health) == (last.digest, Health.SERVABLE)
                check(world, last, replicas=int(str((after or {})["replicas"])))
        finally:
            world.end()
        return ended

    assert run(0) == 0
    points = log.read_text(encoding="utf-8").splitlines()
    assert points, "a run without a point proves nothing"
    # Scenarios share most of their points: each takes others of them.
    first = 1 + [*SCENARIOS].index(scenario) % STRIDE
    for number in range(first, len(points) + 1, STRIDE):
        assert run(number) == -signal.SIGKILL, points[number - 1]


def test_a_process_that_was_started_and_not_written_down_is_kept(
    world: LocalWorld, tmp_path: Path
) -> None:
    log, unit = tmp_path / "points", world.endpoint("chat")

    def act() -> None:
        asyncio.run(reach(world.restarted(), unit.key, unit))

    assert rehearse(act, log=str(log)) == 0
    world.end()
    asyncio.run(reach(world.restarted(), unit.key, None))
    names = [line.partition(" ")[2] for line in log.read_text().splitlines()]
    assert rehearse(act, die_at=names.index("after spawn") + 1) == -signal.SIGKILL
    (instance,) = world.instances("chat")
    assert instance.pid == 0, "it died before it wrote the pid"
    started = world.running()
    act()
    assert world.running() == started
    check(world, unit, replicas=1)


def test_a_reverted_change_that_was_killed_is_undone(
    world: LocalWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Desired goes back to what it was while half of the new one lives."""
    monkeypatch.setattr(lifecycle, "QUIET_S", 0.1)
    first = world.endpoint("chat", args=OLD)
    second = world.endpoint("chat", args=NEW)
    asyncio.run(reach(world.target, first.key, first))
    uid = asyncio.run(look(world.target, first.key)).uid
    log = tmp_path / "points"
    for number in (2, 8, 12):
        ended = rehearse(
            lambda: asyncio.run(reach(world.restarted(), second.key, second)),
            die_at=number,
            log=str(log),
        )
        assert ended == -signal.SIGKILL
        live = asyncio.run(look(world.restarted(), first.key))
        assert live.digest == "", "what is half done is not what it was"
        asyncio.run(reach(world.restarted(), first.key, first))
        check(world, first, replicas=1)
    assert asyncio.run(look(world.restarted(), first.key)).uid == uid


def test_a_process_without_a_record_is_reported_and_ended_by_its_endpoint(
    world: LocalWorld,
) -> None:
    unit = world.endpoint("chat")
    asyncio.run(reach(world.target, unit.key, unit))
    uid = asyncio.run(look(world.target, unit.key)).uid
    (orphan,) = world.running().values()
    world.records.remove_instances(unit.key.ref)
    world.records.remove(unit.key.ref)

    live = asyncio.run(look(world.restarted(), unit.key))
    assert (live.presence, live.uid) == (Presence.PRESENT, uid)
    assert "1 processes of it run without a record" in live.detail
    assert live.key in asyncio.run(world.target.observe([])), "seen unasked"

    asyncio.run(reach(world.restarted(), unit.key, unit))
    check(world, unit, replicas=1)
    assert orphan not in world.running().values()


def test_an_orphan_is_deleted_by_its_uid(world: LocalWorld) -> None:
    unit = world.endpoint("chat")
    asyncio.run(reach(world.target, unit.key, unit))
    world.records.remove(unit.key.ref)
    live = asyncio.run(look(world.restarted(), unit.key))
    gone = Change(key=unit.key, action=Action.DELETE, unit=None, uid=live.uid)
    asyncio.run(world.target.delete(gone, silent))
    assert world.running() == {}
    assert asyncio.run(look(world.target, unit.key)).presence is Presence.ABSENT
