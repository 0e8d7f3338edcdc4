"""A whole engine over a target in memory, with a clock that a test turns."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path

import orjson

from reconciler.pipeline import Pipeline
from reconciler.plan import Plan
from reconciler.rollback import revisions_before
from reconciler.store import Store, open_store
from reconciler.targets.memory import MemoryTarget
from reconciler.values import Change, Commit, Key, Live, Outcome, Rendered, Unit
from schemas.catalog import catalog
from schemas.environment import EnvironmentSpec
from schemas.objects import Ref

ORDER = ("Model", "Endpoint", "Route")
"""Each kind of these tests refers to the one before it."""


class Crash(BaseException):
    """The process dies here: nothing may catch it."""


class Clock:
    def __init__(self) -> None:
        self.now = datetime(2026, 1, 1, tzinfo=UTC)

    def __call__(self) -> datetime:
        # Two entries never share an instant, as on a real machine.
        self.now += timedelta(microseconds=1)
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


def key_of(name: str) -> Key:
    """``Endpoint/chat`` at the target of these tests."""
    return Key("memory", Ref.parse(name))


def unit_of(name: str, content: str, needs: Iterable[str] = ()) -> Unit:
    data = content.encode()
    return Unit(
        key=key_of(name),
        content=data,
        digest=sha256(data).hexdigest(),
        after=tuple(sorted(key_of(need) for need in needs)),
    )


def settings_of(**spec: object) -> EnvironmentSpec:
    return EnvironmentSpec.model_validate_json(
        orjson.dumps({"take": ["Endpoint/*"], **spec})
    )


class World:
    """``desired`` is name -> (content, names it needs); everything else is real."""

    def __init__(self, folder: Path, settings: EnvironmentSpec | None = None) -> None:
        self.clock = Clock()
        self.target = MemoryTarget()
        self.desired: dict[str, tuple[str, tuple[str, ...]]] = {}
        self.settings = settings or settings_of(deletions={"percent": 100})
        self.writes: list[Change] = []
        self._open = ExitStack()
        self.store: Store = self._open.enter_context(
            open_store(
                f"sqlite:///{folder / 'state.db'}",
                key=folder / "ledger.key",
                origin="bud/test",
                clock=self.clock,
            )
        )
        self.pipeline = Pipeline(
            environment="test",
            catalog=catalog(),
            targets={"memory": self.target},
            store=self.store,
            clock=self.clock,
        )

    def close(self) -> None:
        self._open.close()

    @property
    def units(self) -> Mapping[Key, Unit]:
        made = (
            unit_of(n, content, needs) for n, (content, needs) in self.desired.items()
        )
        return {unit.key: unit for unit in made}

    async def look(self) -> tuple[Plan, Mapping[Key, Live]]:
        content = repr(sorted(self.desired.items())).encode()
        commit = Commit(sha=sha256(content).hexdigest()[:40])
        rendered = Rendered(units=self.units)
        return await self.pipeline.compare(commit, self.settings, rendered, {})

    def plan(self) -> Plan:
        return asyncio.run(self.look())[0]

    def run(self) -> tuple[Outcome, ...]:
        """One pass: look, plan, apply, record. ``writes`` are those of this pass."""
        before = len(self.target.log)

        async def once() -> tuple[Outcome, ...]:
            made, _ = await self.look()
            with self.store.lead("test") as journal:
                return await self.pipeline.execute(
                    made, journal, actor="test", progress=lambda *_: None
                )

        try:
            return asyncio.run(once())
        finally:
            self.writes = self.target.log[before:]

    def roll_back(self, name: str, reason: str) -> None:
        items = revisions_before(
            key_of(name).ref,
            owned=self.store.inventory(),
            former=self.store.former(key_of(name).ref),
            frozen=self.store.frozen(),
            reason=reason,
            now=self.clock(),
        )
        self.store.freeze(items, "ana", f"rollback {name}: {reason}")

    def settle(self) -> None:
        """Run until nothing is left to do."""
        for _ in range(8):
            self.clock.advance(3600)
            made = self.plan()
            if made.empty and not made.blocked:
                return
            self.run()
        raise AssertionError(f"it does not converge: {self.plan().document()}")

    def live(self) -> dict[str, str]:
        return {
            f"{key.ref.kind}/{key.ref.name}": stored.content.decode()
            for key, stored in self.target.objects.items()
        }

    def wanted(self) -> dict[str, str]:
        return {name: content for name, (content, _) in self.desired.items()}
