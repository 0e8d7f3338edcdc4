"""Any history of commits, crashes, drift and broken reads ends where it should.

A Hypothesis state machine drives the real engine over a target in memory against
a model of a few lines: what was declared last is what lives, nobody else's
object was touched, and nothing is left in the inventory that is not there.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from reconciler.store import Suspension
from reconciler.values import Action, Change
from schemas.objects import Ref
from tests.reconciler.engine.world import Crash, World, key_of

NEEDS = {
    "Model/m": (),
    "Endpoint/a": ("Model/m",),
    "Endpoint/b": ("Model/m",),
    "Endpoint/c": (),
    "Route/r": ("Endpoint/a",),
    "Route/s": ("Endpoint/a", "Endpoint/b"),
}
NAMES = st.sampled_from(sorted(NEEDS))
CONTENTS = st.sampled_from(["one", "two", "three"])
STRANGER = "Endpoint/stranger"


class Foundry(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.world = World(self.folder)
        self.past: list[dict[str, tuple[str, tuple[str, ...]]]] = [{}]
        self.unreadable: set[str] = set()
        self.world.target.impostor(key_of(STRANGER), b"somebody's")

    def teardown(self) -> None:
        self.converge()
        self.world.close()
        shutil.rmtree(self.folder)

    @rule(names=st.sets(NAMES), content=CONTENTS)
    def commit(self, names: set[str], content: str) -> None:
        """A commit is whole: what it declares, it also has the needs of."""
        for _ in range(2):
            names |= {need for name in names for need in NEEDS[name]}
        self.world.desired = {name: (content, NEEDS[name]) for name in names}
        self.past.append(dict(self.world.desired))

    @rule(name=NAMES, content=CONTENTS)
    def edit(self, name: str, content: str) -> None:
        if name in self.world.desired:
            self.world.desired[name] = (content, NEEDS[name])

    @rule(data=st.data())
    def revert(self, data: st.DataObject) -> None:
        self.world.desired = dict(data.draw(st.sampled_from(self.past)))

    @rule(name=NAMES, content=CONTENTS)
    def drift(self, name: str, content: str) -> None:
        if key_of(name) in self.world.target.objects:
            self.world.target.drift(key_of(name), content.encode())

    @rule(name=NAMES)
    def vanish(self, name: str) -> None:
        self.world.target.vanish(key_of(name))

    @rule(names=st.sets(NAMES))
    def break_reads(self, names: set[str]) -> None:
        self.unreadable = names
        self.world.target.fail_reads(map(key_of, names))

    @rule(name=NAMES, minutes=st.integers(1, 120))
    def suspend(self, name: str, minutes: int) -> None:
        self.world.store.suspend(
            Suspension(
                ref=Ref.parse(name),
                reason="by the machine",
                actor="test",
                expires_at=self.world.clock.now + timedelta(minutes=minutes),
            )
        )

    @rule(minutes=st.integers(1, 60))
    def wait(self, minutes: int) -> None:
        self.world.clock.advance(minutes * 60)

    @rule()
    def run(self) -> None:
        self.world.run()

    @rule(side=st.sampled_from(["before_write", "after_write"]), at=st.integers(1, 6))
    def run_and_crash(self, side: str, at: int) -> None:
        passed = 0

        def die(_: Change) -> None:
            nonlocal passed
            passed += 1
            if passed == at:
                raise Crash

        setattr(self.world.target, side, die)
        with contextlib.suppress(BaseExceptionGroup):
            self.world.run()
        setattr(self.world.target, side, None)

    @rule()
    def converge(self) -> None:
        self.break_reads(set())
        self.world.settle()

        assert self.world.live() == self.world.wanted() | {STRANGER: "somebody's"}
        owned = {f"{k.ref.kind}/{k.ref.name}" for k in self.world.store.inventory()}
        assert owned == set(self.world.desired)
        self.world.run()
        assert self.world.writes == []

    @precondition(lambda self: self.world.writes)
    @invariant()
    def no_unreadable_object_was_written(self) -> None:
        written = {f"{c.key.ref.kind}/{c.key.ref.name}" for c in self.world.writes}
        assert not written & self.unreadable
        self.world.writes = []

    @invariant()
    def what_we_made_is_ours_to_delete(self) -> None:
        """Every object that a write of ours created is in the inventory."""
        made: dict[str, str] = {}
        for change in self.world.target.log:
            if change.action is Action.CREATE:
                made[str(change.key)] = "live"
            elif change.action is Action.DELETE:
                made.pop(str(change.key), None)
        present = {str(k) for k in self.world.target.objects}
        owned = {str(k) for k in self.world.store.inventory()}
        assert set(made) & present <= owned

    @invariant()
    def the_ledger_is_intact(self) -> None:
        if self.world.store.log.entries(limit=1):
            self.world.store.log.verify()


TestFoundry = pytest.mark.timeout(900)(Foundry.TestCase)
TestFoundry.settings = settings(
    max_examples=30,
    stateful_step_count=25,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
