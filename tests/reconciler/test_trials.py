"""A canary from its first record to its end: the real store, ledger and line."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from reconciler.pipeline import Prepared
from reconciler.store import Frozen
from reconciler.targets.memory import MemoryTarget
from reconciler.trials import Trials, alone, promoted
from reconciler.values import Commit, Desired, Key, Rendered, Resolved, Unit
from renderers.gateway import render_route
from schemas.environment import Environment
from schemas.errors import PermanentError
from schemas.kinds import parse
from schemas.objects import API_VERSION, Ref
from schemas.route import Route
from tests.reconciler.engine.world import World

REF = Ref("Route", "default", "chat")
KEY = Key("gateway", REF)


def route(**canary: Any) -> Route:
    spec = {
        "models": ["chat"],
        "targets": [{"endpoint": "old"}],
        "canary": {"endpoint": "new", "percent": 20, **canary},
    }
    metadata = {"name": "chat"}
    made = parse(
        {"apiVersion": API_VERSION, "kind": "Route", "metadata": metadata, "spec": spec}
    )
    assert isinstance(made, Route)
    return made


class Trying:
    """A foundry with one route, whose gateway holds what it is given."""

    def __init__(self, folder: Path) -> None:
        self.world, self.folder = World(folder), folder / "usage"
        self.folder.mkdir()
        self.gateway = MemoryTarget("gateway")
        self.world.pipeline.targets["gateway"] = self.gateway
        self.proposed: list[tuple[Ref, str]] = []
        self.promoted: list[tuple[Ref, str]] = []
        self.route = route()
        self.trials = self.fresh()
        self._random = np.random.default_rng(0)

    def fresh(self) -> Trials:
        """As another daemon makes it, which knows nothing."""
        return Trials(
            self.world.store,
            self.folder,
            propose=self._propose,
            promote=self._promote,
            clock=self.world.clock,
        )

    async def _propose(self, ref: Ref, items: Sequence[Frozen], reason: str) -> None:
        self.proposed.append((ref, reason))
        if "undecided" in reason:
            raise PermanentError("cannot propose: it was never committed")

    async def _promote(self, ref: Ref, endpoint: str, _reason: str) -> None:
        self.promoted.append((ref, endpoint))

    async def run(self) -> Prepared:
        """One pass of the line."""
        content = render_route(self.route, {REF: self.route})
        digest = hashlib.sha256(content).hexdigest()
        unit = Unit(key=KEY, content=content, digest=digest)
        rendered = Rendered(units={KEY: unit})
        commit = Commit(sha="0" * 40)
        plan, observed = await self.world.pipeline.compare(
            commit, self.world.settings, rendered, {}
        )
        with self.world.store.lead("test") as journal:
            await self.world.pipeline.note_decisions(journal)
            await self.world.pipeline.execute(
                plan, journal, actor="test", progress=lambda *_: None
            )
        desired = Desired(
            commit=commit,
            environment=Environment.model_construct(),
            objects={REF: self.route},
            files={},
            lock={},
        )
        return Prepared(
            plan=plan,
            resolved=Resolved(desired=desired, resolutions={}),
            rendered=rendered,
            observed=observed,
        )

    def answer(
        self, side: str, count: int, *, slower: float = 0.0, **said: Any
    ) -> None:
        """What the gateway writes of ``count`` requests."""
        lines = []
        for noise in self._random.normal(1.0, 0.1, count):
            first = 0.2 * (1 + slower) * max(noise, 0.5)
            record = {
                "at": self.world.clock().timestamp(),
                "route": "default/chat",
                "upstream": f"default/{side}",
                "status": 200,
                "stream": True,
                "output": 11,
                "first_seconds": first,
                "seconds": first + 0.1 * (1 + slower) * max(noise, 0.5),
                **said,
            }
            lines.append(json.dumps(record) + "\n")
        with (self.folder / "1.000.jsonl").open("a") as file:
            file.writelines(lines)

    def serves(self) -> bytes:
        return self.gateway.objects[KEY].content


@pytest.fixture
def trying(tmp_path: Path) -> Iterator[Trying]:
    made = Trying(tmp_path)
    yield made
    made.world.close()


async def test_a_canary_that_is_shown_harmful_loses_its_weight_and_git_is_told(
    trying: Trying,
) -> None:
    prepared = await trying.run()
    trying.answer("old", 2000)
    trying.answer("new", 500, slower=0.5)
    assert await trying.trials.look(prepared)

    await trying.run()
    assert trying.serves() == render_route(alone(trying.route), {})
    ((ref, reason),) = trying.proposed
    assert ref == REF
    assert "canary new rolled back: " in reason
    assert "is worse than" in reason
    (decided,) = [e for e in trying.world.store.log.entries() if e.actor == "canary"]
    assert reason in decided.step


async def test_a_canary_that_is_shown_harmless_takes_all_of_the_traffic(
    trying: Trying,
) -> None:
    prepared = await trying.run()
    trying.answer("old", 8000)
    trying.answer("new", 4000)
    assert await trying.trials.look(prepared)

    await trying.run()
    assert trying.serves() == render_route(promoted(trying.route), {})
    assert (trying.proposed, trying.promoted) == ([], [(REF, "new")])


async def test_errors_alone_are_enough(trying: Trying) -> None:
    prepared = await trying.run()
    trying.answer("old", 1000, stream=False)
    trying.answer("new", 300, stream=False, status=502)
    assert await trying.trials.look(prepared)
    assert "errors" in trying.proposed[0][1]


@pytest.mark.parametrize("side", ["old", "new"])
async def test_without_both_sides_nothing_is_decided(trying: Trying, side: str) -> None:
    prepared = await trying.run()
    trying.answer(side, 3000, status=500)
    assert not await trying.trials.look(prepared)
    assert "0 of 200 requests" in trying.trials.rulings[REF].why


async def test_what_was_measured_before_the_canary_says_nothing_about_it(
    trying: Trying,
) -> None:
    trying.answer("old", 1000)
    trying.answer("new", 1000, slower=2.0)
    trying.world.clock.advance(60)
    assert not await trying.trials.look(await trying.run())


async def test_another_daemon_reads_the_same_and_rules_the_same(
    trying: Trying,
) -> None:
    prepared = await trying.run()
    trying.answer("old", 1000)
    trying.answer("new", 150, slower=0.5)
    assert not await trying.trials.look(prepared)
    trying.answer("new", 350, slower=0.5)
    assert await trying.fresh().look(prepared)


async def test_a_ruling_stands_until_git_declares_another(trying: Trying) -> None:
    prepared = await trying.run()
    trying.answer("old", 1000)
    trying.answer("new", 500, slower=0.5)
    await trying.trials.look(prepared)
    for _ in range(2):
        prepared = await trying.run()
        assert not await trying.trials.look(prepared)
    assert trying.serves() == render_route(alone(trying.route), {})

    trying.route = route(percent=30)
    prepared = await trying.run()
    assert b"70" in trying.serves()
    assert not await trying.trials.look(prepared)
    assert len(trying.proposed) == 1
