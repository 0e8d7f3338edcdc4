"""The fake keeps the contract, and misbehaves only when it is told to."""

from hashlib import sha256

import pytest

from reconciler.targets.memory import MemoryTarget
from reconciler.values import Change, Health, Key, Presence, Unit
from schemas.errors import PermanentError, TemporaryError
from schemas.objects import Ref
from tests.reconciler.targets.contract import (
    TargetContract,
    change,
    create,
    delete,
    look,
    silent,
)


class MemoryWorld:
    def __init__(self) -> None:
        self.target = MemoryTarget()

    def unit(self, name: str, variant: int = 0) -> Unit:
        content = f"{name} {variant}".encode()
        key = Key("memory", Ref("Endpoint", "default", name))
        return Unit(key=key, content=content, digest=sha256(content).hexdigest())

    def impossible(self, name: str) -> Unit:
        unit = self.unit(name)
        self.target.refuse(unit.key, PermanentError("cannot hold it: refused"))
        return unit

    def break_reads(self, key: Key) -> None:
        self.target.fail_reads([key])

    async def stray(self, key: Key) -> None:
        self.target.drift(key, b"somebody else's")


@pytest.fixture
def world() -> MemoryWorld:
    return MemoryWorld()


class TestMemory(TargetContract):
    pass


class Crash(BaseException):
    """What kill -9 looks like from inside one process."""


def crash(change: Change) -> None:
    raise Crash


async def test_a_crash_before_the_write_leaves_nothing(world: MemoryWorld) -> None:
    unit, target = world.unit("a"), world.target
    target.before_write = crash
    with pytest.raises(Crash):
        await target.apply(create(unit), silent)
    assert (await look(target, unit.key)).presence is Presence.ABSENT
    assert target.log == []


async def test_a_crash_after_the_write_leaves_it_written(world: MemoryWorld) -> None:
    unit, target = world.unit("a"), world.target
    target.after_write = crash
    with pytest.raises(Crash):
        await target.apply(create(unit), silent)
    assert (await look(target, unit.key)).digest == unit.digest
    assert target.log == [create(unit)]


async def test_a_slow_write_can_be_waited_for(world: MemoryWorld) -> None:
    order = []

    async def slow(change: Change) -> None:
        order.append("waited")

    world.target.before_write = slow
    await world.target.apply(create(world.unit("a")), silent)
    order.append("written")
    assert order == ["waited", "written"]


async def test_an_unchanged_unit_is_not_written(world: MemoryWorld) -> None:
    unit, target = world.unit("a"), world.target
    live = await target.apply(create(unit), silent)
    await target.apply(change(unit, live), silent)
    assert target.log == [create(unit)]


async def test_an_impostor_is_refused_by_its_uid(world: MemoryWorld) -> None:
    unit, target = world.unit("a"), world.target
    live = await target.apply(create(unit), silent)
    target.impostor(unit.key, b"not ours")
    with pytest.raises(TemporaryError, match="cannot delete"):
        await target.delete(delete(live), silent)
    with pytest.raises(TemporaryError, match="cannot change"):
        await target.apply(change(world.unit("a", 1), live), silent)


async def test_what_vanished_is_absent_and_cannot_be_changed(
    world: MemoryWorld,
) -> None:
    unit, target = world.unit("a"), world.target
    live = await target.apply(create(unit), silent)
    target.vanish(unit.key)
    assert (await look(target, unit.key)).presence is Presence.ABSENT
    with pytest.raises(TemporaryError, match="it is gone"):
        await target.apply(change(world.unit("a", 1), live), silent)


async def test_reads_heal_and_refusals_are_taken_back(world: MemoryWorld) -> None:
    unit, target = world.impossible("a"), world.target
    target.refuse(unit.key, None)
    live = await target.apply(create(unit), silent)
    target.fail_reads([unit.key])
    assert (await target.health(unit.key)).presence is Presence.UNKNOWN
    target.fail_reads()
    assert await target.health(unit.key) == live


async def test_health_is_what_the_test_says(world: MemoryWorld) -> None:
    unit, target = world.unit("a"), world.target
    await target.apply(create(unit), silent)
    target.set_health(unit.key, Health.DEGRADED, "1 of 2 answer")
    live = await target.health(unit.key)
    assert (live.health, live.detail) == (Health.DEGRADED, "1 of 2 answer")
