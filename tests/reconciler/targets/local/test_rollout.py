"""Replacing under a floor, as a pure walk: no step ever goes below it."""

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.targets.local.records import Instance, Phase
from reconciler.targets.local.rollout import Step, Want, next_step
from schemas.local import Probe


def replica(slot: int, revision: str, phase: Phase = Phase.SERVING) -> Instance:
    return Instance(
        id=f"default.chat.uid.{slot}.{revision}",
        uid="uid",
        slot=slot,
        port=40000 + slot,
        revision=revision,
        phase=phase,
        since=0,
        argv=(),
        env={},
        probe=Probe(task="chat", model="chat"),
        ready_timeout_s=1,
        drain_timeout_s=1,
    )


def want(count: int, *, surge: int = 1, floor: int = 0) -> Want:
    return Want(revision="new", count=count, max_surge=surge, floor=floor)


@dataclass
class Fleet:
    """Replicas that do what they are told, in an order that somebody else chooses."""

    replicas: list[Instance]
    lowest: int = 10**6
    most: int = 0
    _slots: int = field(default=100)

    def serving(self) -> int:
        return sum(r.phase is Phase.SERVING for r in self.replicas)

    def obey(self, step: Step) -> None:
        self.replicas = [
            r.model_copy(update={"phase": Phase.DRAINING}) if r.id in step.stop else r
            for r in self.replicas
        ]
        for _ in range(step.start):
            self._slots += 1
            self.replicas.append(replica(self._slots, "new", Phase.STARTING))
        self.lowest = min(self.lowest, self.serving())
        self.most = max(self.most, len(self.replicas))

    def settle(self, choice: int) -> None:
        """Let one replica that is on its way arrive."""
        moving = [r for r in self.replicas if r.phase is not Phase.SERVING]
        if not moving:
            return
        one = moving[choice % len(moving)]
        self.replicas.remove(one)
        if one.phase in {Phase.STARTING, Phase.WAITING}:
            self.replicas.append(one.model_copy(update={"phase": Phase.SERVING}))


fleets = st.lists(
    st.tuples(st.sampled_from(["old", "new"]), st.sampled_from(list(Phase))),
    max_size=6,
).map(lambda rows: [replica(n, rev, phase) for n, (rev, phase) in enumerate(rows)])


@given(fleets, st.integers(0, 5), st.integers(1, 3), st.data())
def test_from_any_state_the_wanted_is_reached_and_the_floor_is_kept(
    replicas: list[Instance], count: int, surge: int, data: st.DataObject
) -> None:
    fleet = Fleet(replicas)
    floor = min(fleet.serving(), count)
    most = max(len(replicas), count + surge)
    for _ in range(200):
        step = next_step(fleet.replicas, want(count, surge=surge, floor=floor))
        assert not step.stuck
        if step.done:
            break
        fleet.obey(step)
        assert fleet.lowest >= floor
        assert fleet.most <= most
        fleet.settle(data.draw(st.integers(0, 9)))
    assert step.done
    assert [r.revision for r in fleet.replicas] == ["new"] * count
    assert fleet.serving() == count


def test_nothing_old_is_stopped_while_a_new_one_is_on_its_way() -> None:
    both = [replica(0, "old"), replica(1, "new", Phase.STARTING)]
    assert next_step(both, want(1)) == Step()


def test_what_already_is_as_wanted_is_done_at_once() -> None:
    assert next_step([replica(0, "new")], want(1)) == Step(done=True)


def test_scaling_down_stops_what_does_not_answer_first_then_the_last() -> None:
    three = [
        replica(0, "new", Phase.WAITING),
        replica(1, "new"),
        replica(2, "new"),
    ]
    assert next_step(three, want(2)).stop == (three[0].id,)
    assert next_step(three[1:], want(1)).stop == (three[2].id,)


def test_without_room_and_above_the_floor_the_old_makes_room_first() -> None:
    two = [replica(0, "old"), replica(1, "old")]
    assert next_step(two, want(2, surge=0, floor=1)).stop == (two[0].id,)


def test_without_room_and_at_the_floor_it_is_stuck_and_says_so() -> None:
    assert next_step([replica(0, "old")], want(1, surge=0, floor=1)).stuck


@pytest.mark.parametrize("phase", [Phase.STARTING, Phase.WAITING])
def test_an_old_replica_that_does_not_answer_is_stopped_for_free(phase: Phase) -> None:
    silent = replica(0, "old", phase)
    assert next_step([silent], want(1, floor=1)).stop == (silent.id,)
