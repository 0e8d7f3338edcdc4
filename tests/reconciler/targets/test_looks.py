"""Comparisons are made when they are due, and beside the line where somebody watches."""

import asyncio

from reconciler.targets.looks import Looks
from schemas.errors import TemporaryError


class World:
    def __init__(self) -> None:
        self.drift: tuple[str, ...] = ()
        self.compared = 0

    async def compare(self) -> tuple[str, ...]:
        self.compared += 1
        return self.drift


async def test_a_comparison_is_remembered_while_the_version_stays() -> None:
    looks, world = Looks(), World()
    assert await looks.drift("a", "1", world.compare) == ()
    world.drift = ("update x",)
    assert await looks.drift("a", "1", world.compare) == ()
    assert await looks.drift("a", "2", world.compare) == ("update x",)
    looks.forget("a")
    await looks.drift("a", "2", world.compare)
    assert world.compared == 3


async def test_while_somebody_watches_no_look_compares_again() -> None:
    looks, world = Looks(every_s=0), World()
    await looks.drift("a", "1", world.compare)
    await looks.drift("a", "1", world.compare)
    assert world.compared == 2  # due at once
    looks.watched = True
    await looks.drift("a", "1", world.compare)
    assert world.compared == 2


async def test_what_strays_is_told_once_and_a_broken_read_stops_nothing() -> None:
    looks, world, stop = Looks(every_s=0.01), World(), asyncio.Event()
    moved = asyncio.Event()
    told, broken = [], [True]

    async def all_of_them() -> None:
        if broken:
            broken.clear()
            raise TemporaryError("cannot read states: no answer")
        await looks.drift("a", "1", world.compare, again=True)
        if world.compared > 5:
            stop.set()

    def note() -> None:
        told.append(world.drift)
        moved.set()

    await looks.drift("a", "1", world.compare)
    world.drift = ("update x",)
    async with asyncio.timeout(30):
        await looks.watch(all_of_them, note, stop)
    assert moved.is_set()
    assert told == [("update x",)]
    assert not looks.watched
