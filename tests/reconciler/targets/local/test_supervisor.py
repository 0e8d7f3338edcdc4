"""Replicas outlive accidents, and the daemon that watched them."""

import os
import signal
import socket
from functools import partial
from pathlib import Path

import orjson
import pytest

from reconciler.targets.local import lifecycle, requests, target
from reconciler.targets.local.files import lock
from reconciler.targets.local.records import Phase
from reconciler.values import Health
from schemas.errors import TemporaryError
from tests.reconciler.targets.contract import change, create, look, silent
from tests.reconciler.targets.local.conftest import (
    CHECKOUT,
    LocalWorld,
    supervised,
    until,
)

pytestmark = pytest.mark.slow

# The simulator, unless the file named first exists: then it ends at once.
BREAKABLE = """
import pathlib, sys
flag, *rest = sys.argv[1:]
if pathlib.Path(flag).exists():
    sys.exit("the disk is gone")
from reconciler.engines.simulator import main
main(rest)
"""


async def test_a_replica_that_ended_loses_its_address_and_comes_back(
    world: LocalWorld,
) -> None:
    unit = world.endpoint("chat", replicas=2)
    await world.target.apply(create(unit), silent)
    both = world.addresses("chat")
    async with supervised(world.target):
        ended = world.kill(unit.key)
        await until(lambda: world.addresses("chat") == both[1:])
        await until(lambda: world.addresses("chat") == both)
    first, _ = world.instances("chat")
    assert first.pid != ended.pid
    assert f"http://127.0.0.1:{first.port}" == both[0], "the slot keeps its port"
    assert (await look(world.target, unit.key)).health is Health.SERVABLE


async def test_until_then_observing_says_what_is_wrong(world: LocalWorld) -> None:
    unit = world.endpoint("chat", replicas=2)
    await world.target.apply(create(unit), silent)
    world.kill(unit.key)
    live = await look(world.restarted(), unit.key)
    assert live.digest == unit.digest, "what is written is what lives"
    assert live.health is Health.DEGRADED
    assert live.detail == "1 of 2 replicas answer; replica 0 has ended"


async def test_a_daemon_that_starts_again_adopts_and_restarts_nothing(
    world: LocalWorld,
) -> None:
    unit = world.endpoint("chat", replicas=2)
    live = await world.target.apply(create(unit), silent)
    before = world.instances("chat")
    again = world.restarted()
    async with supervised(again):
        assert await again.apply(change(unit, live), silent) == live
    assert world.instances("chat") == before


def _failed(world: LocalWorld, times: int) -> bool:
    return world.instances("chat")[0].failures >= times


async def test_a_crash_loop_is_counted_over_daemons_and_shows(
    world: LocalWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lifecycle, "BACKOFF_BASE_S", 0.01)
    flag = tmp_path / "flag"
    unit = world.endpoint(
        "chat",
        argv=("{python}", "-c", BREAKABLE, str(flag)),
        env={"PYTHONPATH": str(CHECKOUT)},
    )
    await world.target.apply(create(unit), silent)
    flag.touch()
    world.kill(unit.key)
    for failures in (2, 4):
        async with supervised(world.restarted()):
            await until(partial(_failed, world, failures))
    assert world.addresses("chat") == []
    live = await look(world.target, unit.key)
    assert live.health is Health.DEGRADED
    assert "0 of 1 replicas answer; replica 0" in live.detail
    flag.unlink()
    async with supervised(world.target):
        await until(lambda: len(world.addresses("chat")) == 1)


async def test_a_replica_that_hangs_is_replaced(
    world: LocalWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lifecycle, "CHECK_EVERY_S", 0.05)
    monkeypatch.setattr(requests, "LIGHT_S", 0.2)
    unit = world.endpoint("chat")
    await world.target.apply(create(unit), silent)
    (hung,) = world.instances("chat")
    os.kill(hung.pid, signal.SIGSTOP)
    async with supervised(world.target):
        await until(lambda: world.instances("chat")[0].pid not in {0, hung.pid})
        await until(lambda: len(world.addresses("chat")) == 1)
    (now,) = world.instances("chat")
    assert now.failures == 1


async def test_a_port_that_a_stranger_took_is_given_up(world: LocalWorld) -> None:
    unit = world.endpoint("chat")
    await world.target.apply(create(unit), silent)
    (before,) = world.instances("chat")
    world.kill(unit.key)
    with socket.socket() as stranger:
        stranger.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        stranger.bind(("127.0.0.1", before.port))
        stranger.listen()
        live = await look(world.target, unit.key)
        await world.target.apply(change(unit, live), silent)
    (after,) = world.instances("chat")
    assert after.port != before.port
    assert world.addresses("chat") == [f"http://127.0.0.1:{after.port}"]


async def test_stopping_all_keeps_what_is_needed_to_start_again(
    world: LocalWorld,
) -> None:
    unit = world.endpoint("chat")
    live = await world.target.apply(create(unit), silent)
    await world.target.stop_all(silent)
    assert world.running() == {}
    assert world.addresses("chat") == []
    down = await look(world.restarted(), unit.key)
    assert (down.uid, down.digest, down.health) == (live.uid, "", Health.DEGRADED)
    up = await world.target.apply(change(unit, down), silent)
    assert (up.uid, up.health) == (live.uid, Health.SERVABLE)


async def test_an_unreadable_record_takes_no_address_away(world: LocalWorld) -> None:
    one, other = world.endpoint("one"), world.endpoint("other")
    for unit in (one, other):
        await world.target.apply(create(unit), silent)
    kept = world.addresses("one")
    (instance,) = world.instances("one")
    folder = world.records.folder_of(one.key.ref, instance.id)
    (folder / "record.json").write_bytes(b"{")
    async with supervised(world.restarted()):
        world.kill(other.key)
        await until(lambda: world.instances("other")[0].phase is not Phase.SERVING)
        await until(lambda: world.instances("other")[0].phase is Phase.SERVING)
    assert world.addresses("one") == kept
    assert len(world.running()) == 2


async def test_a_change_waits_for_another_and_then_gives_up(
    world: LocalWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(target, "_PATIENCE_S", 0.2)
    unit = world.endpoint("chat")
    held = world.home / "locks" / "Endpoint.default.chat"
    async with lock(held, what="it", patience_s=0):
        with pytest.raises(TemporaryError, match="another change of it"):
            await world.target.apply(create(unit), silent)
    assert world.running() == {}


async def test_an_address_book_that_was_broken_is_written_again(
    world: LocalWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lifecycle, "CHECK_EVERY_S", 0.05)
    unit = world.endpoint("chat")
    await world.target.apply(create(unit), silent)
    book = world.home / "addresses.json"
    before = book.read_bytes()
    book.write_bytes(b"half of it")
    async with supervised(world.target):
        await until(lambda: book.read_bytes() == before)
    assert orjson.loads(before)["version"] == 1
