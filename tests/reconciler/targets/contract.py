"""What every target must do: the suite that all of them inherit.

A target's own test module subclasses ``TargetContract`` and offers a fixture
``world`` that yields a `World`: the target, and the few things a test has to do
behind its back.
"""

from typing import Protocol

import pytest

from reconciler.targets.base import Target
from reconciler.values import Action, Change, Health, Key, Live, Presence, Unit
from schemas.errors import PermanentError, TemporaryError


class World(Protocol):
    target: Target

    def unit(self, name: str, variant: int = 0) -> Unit:
        """Make a unit for this target; another variant has another digest."""
        ...

    def impossible(self, name: str) -> Unit:
        """Make a unit that this target can never hold."""
        ...

    def break_reads(self, key: Key) -> None:
        """Make reading ``key`` fail from now on."""
        ...

    async def stray(self, key: Key) -> None:
        """Change the live object as somebody else would."""
        ...


def silent(key: Key, message: str) -> None:
    """Take progress and say nothing."""


def create(unit: Unit) -> Change:
    return Change(key=unit.key, action=Action.CREATE, unit=unit)


def change(unit: Unit, live: Live) -> Change:
    return Change(
        key=unit.key,
        action=Action.CHANGE,
        unit=unit,
        uid=live.uid,
        version=live.version,
    )


def delete(live: Live) -> Change:
    return Change(
        key=live.key,
        action=Action.DELETE,
        unit=None,
        uid=live.uid,
        version=live.version,
    )


async def look(target: Target, key: Key) -> Live:
    return (await target.observe([key]))[key]


class TargetContract:
    async def test_what_is_not_there_is_absent(self, world: World) -> None:
        key = world.unit("a").key
        assert (await look(world.target, key)).presence is Presence.ABSENT
        assert (await world.target.health(key)).presence is Presence.ABSENT

    async def test_created_is_present_and_servable(self, world: World) -> None:
        unit = world.unit("a")
        said = await world.target.apply(create(unit), silent)
        live = await look(world.target, unit.key)
        assert live == said
        assert live.presence is Presence.PRESENT
        assert live.digest == unit.digest
        assert live.health is Health.SERVABLE
        assert live.uid
        assert live.version

    async def test_all_that_is_ours_is_seen_unasked(self, world: World) -> None:
        unit = world.unit("a")
        await world.target.apply(create(unit), silent)
        assert unit.key in await world.target.observe([])

    async def test_observing_changes_nothing(self, world: World) -> None:
        unit = world.unit("a")
        await world.target.apply(create(unit), silent)
        first = await world.target.observe([unit.key])
        assert await world.target.observe([unit.key]) == first

    async def test_a_dry_run_writes_nothing(self, world: World) -> None:
        unit = world.unit("a")
        await world.target.dry_run(create(unit))
        assert (await look(world.target, unit.key)).presence is Presence.ABSENT
        live = await world.target.apply(create(unit), silent)
        await world.target.dry_run(change(world.unit("a", 1), live))
        await world.target.dry_run(delete(live))
        assert await look(world.target, unit.key) == live

    async def test_applied_twice_is_written_once(self, world: World) -> None:
        unit = world.unit("a")
        first = await world.target.apply(create(unit), silent)
        assert await world.target.apply(create(unit), silent) == first

    async def test_a_change_keeps_the_uid_and_moves_the_version(
        self, world: World
    ) -> None:
        before = await world.target.apply(create(world.unit("a")), silent)
        unit = world.unit("a", 1)
        after = await world.target.apply(change(unit, before), silent)
        assert after.digest == unit.digest
        assert after.uid == before.uid
        assert after.version != before.version

    async def test_a_change_that_was_made_can_be_asked_for_again(
        self, world: World
    ) -> None:
        before = await world.target.apply(create(world.unit("a")), silent)
        again = change(world.unit("a", 1), before)
        after = await world.target.apply(again, silent)
        assert await world.target.apply(again, silent) == after

    async def test_a_change_decided_on_an_older_version_is_refused(
        self, world: World
    ) -> None:
        old = await world.target.apply(create(world.unit("a")), silent)
        new = await world.target.apply(change(world.unit("a", 1), old), silent)
        late = change(world.unit("a", 2), old)
        with pytest.raises(TemporaryError, match="cannot change"):
            await world.target.dry_run(late)
        with pytest.raises(TemporaryError, match="cannot change"):
            await world.target.apply(late, silent)
        assert await look(world.target, new.key) == new

    async def test_nothing_is_created_over_something_else(self, world: World) -> None:
        live = await world.target.apply(create(world.unit("a")), silent)
        with pytest.raises(TemporaryError, match="cannot create"):
            await world.target.dry_run(create(world.unit("a", 1)))
        with pytest.raises(TemporaryError, match="cannot create"):
            await world.target.apply(create(world.unit("a", 1)), silent)
        assert await look(world.target, live.key) == live

    async def test_what_can_never_work_fails_its_dry_run(self, world: World) -> None:
        unit = world.impossible("a")
        with pytest.raises(PermanentError, match="cannot"):
            await world.target.dry_run(create(unit))
        assert (await look(world.target, unit.key)).presence is Presence.ABSENT

    async def test_deleted_is_absent_and_the_rest_stays(self, world: World) -> None:
        doomed = await world.target.apply(create(world.unit("a")), silent)
        stays = await world.target.apply(create(world.unit("b")), silent)
        await world.target.delete(delete(doomed), silent)
        assert (await look(world.target, doomed.key)).presence is Presence.ABSENT
        assert await look(world.target, stays.key) == stays

    async def test_deleting_the_absent_succeeds(self, world: World) -> None:
        live = await world.target.apply(create(world.unit("a")), silent)
        await world.target.delete(delete(live), silent)
        await world.target.dry_run(delete(live))
        await world.target.delete(delete(live), silent)

    async def test_another_object_of_the_same_name_is_not_deleted(
        self, world: World
    ) -> None:
        first = await world.target.apply(create(world.unit("a")), silent)
        await world.target.delete(delete(first), silent)
        second = await world.target.apply(create(world.unit("a")), silent)
        assert second.uid != first.uid
        with pytest.raises(TemporaryError, match="cannot delete"):
            await world.target.dry_run(delete(first))
        with pytest.raises(TemporaryError, match="cannot delete"):
            await world.target.delete(delete(first), silent)
        assert await look(world.target, second.key) == second

    async def test_a_failed_read_is_unknown_and_stops_every_write(
        self, world: World
    ) -> None:
        live = await world.target.apply(create(world.unit("a")), silent)
        other = await world.target.apply(create(world.unit("b")), silent)
        world.break_reads(live.key)
        seen = await world.target.observe([live.key, other.key])
        assert seen[live.key].presence is Presence.UNKNOWN
        assert seen[live.key].detail
        assert seen[other.key] == other
        with pytest.raises(TemporaryError, match="unknown"):
            await world.target.apply(change(world.unit("a", 1), live), silent)
        with pytest.raises(TemporaryError, match="unknown"):
            await world.target.delete(delete(live), silent)

    async def test_what_strayed_is_seen_and_brought_back(self, world: World) -> None:
        unit = world.unit("a")
        before = await world.target.apply(create(unit), silent)
        await world.stray(unit.key)
        live = await look(world.target, unit.key)
        assert (live.digest, live.health) != (before.digest, before.health)
        assert live.uid == before.uid
        back = await world.target.apply(change(unit, live), silent)
        assert (back.digest, back.health) == (unit.digest, Health.SERVABLE)
        assert await look(world.target, unit.key) == back
