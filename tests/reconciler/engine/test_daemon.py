"""The daemon over a target in memory: when it looks, what cancels, what it says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from hashlib import sha256
from pathlib import Path

import aiohttp
import pytest

from reconciler.daemon import Daemon
from reconciler.daemon_http import ask_daemon, serve
from reconciler.metrics import Metrics
from reconciler.pipeline import Pipeline, Prepared
from reconciler.reconciler import Options, Reconciler
from reconciler.source import Tree
from reconciler.values import Change, Commit, Desired, Key, Rendered, Resolved
from schemas.environment import Environment
from schemas.errors import PermanentError, Problem, SpecError, TemporaryError
from tests.reconciler.engine.world import World, key_of


class Hand:
    """A source that a test turns by hand."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.error: Exception | None = None
        self._moved = asyncio.Event()

    def push(self) -> None:
        self._moved.set()

    async def newest(self) -> Tree:
        if self.error is not None:
            raise self.error
        content = repr(sorted(self.world.desired.items())).encode()
        return Tree(root=Path(), commit=Commit(sha=sha256(content).hexdigest()[:40]))

    async def changes(self, stop: asyncio.Event) -> AsyncIterator[None]:
        while not stop.is_set():
            waits = [asyncio.ensure_future(e.wait()) for e in (self._moved, stop)]
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            for wait in waits:
                wait.cancel()
            self._moved.clear()
            yield


class Line(Pipeline):
    """The real line from `observe` on; what comes before is the test's own."""

    world: World

    async def prepare(
        self,
        tree: Tree,
        pins: Mapping[str, str] | None = None,
        in_hand: Collection[Key] = (),
    ) -> Prepared:
        world = self.world
        rendered = Rendered(units=world.units)
        made, observed = await self.compare(
            tree.commit, world.settings, rendered, pins or {}, in_hand=in_hand
        )
        environment = Environment.model_construct(spec=world.settings)
        desired = Desired(
            commit=tree.commit, environment=environment, objects={}, files={}, lock={}
        )
        return Prepared(
            plan=made,
            resolved=Resolved(desired=desired, resolutions={}),
            rendered=rendered,
            observed=observed,
        )


class Running:
    def __init__(self, world: World, daemon: Daemon, source: Hand, where: Path) -> None:
        self.world, self.daemon, self.source, self.where = world, daemon, source, where

    async def until(self, true: Callable[[], bool]) -> None:
        async with asyncio.timeout(60):
            while not true():
                await asyncio.sleep(0.01)


@asynccontextmanager
async def running(world: World, tmp_path: Path) -> AsyncIterator[Running]:
    pipeline = Line(
        environment="test",
        catalog=world.pipeline.catalog,
        targets=world.pipeline.targets,
        store=world.store,
        clock=world.clock,
    )
    object.__setattr__(pipeline, "world", world)
    source, stop, metrics = Hand(world), asyncio.Event(), Metrics()
    where = tmp_path / "daemon.json"
    with world.store.lead("daemon") as journal:
        daemon = Daemon(
            Reconciler(
                pipeline,
                source,
                journal,
                actor="daemon",
                metrics=metrics,
                options=Options(interval_s=3600),
            )
        )
        async with serve(daemon, metrics, port=0, where=where):
            task = asyncio.ensure_future(daemon.run(stop))
            try:
                yield Running(world, daemon, source, where)
            finally:
                stop.set()
                await task


async def test_a_commit_is_applied_without_waiting_for_the_interval(
    world: World, tmp_path: Path
) -> None:
    async with running(world, tmp_path) as run:
        world.desired["Endpoint/chat"] = ("one", ())
        run.source.push()
        await run.until(lambda: world.live() == {"Endpoint/chat": "one"})
        world.desired.clear()
        run.source.push()
        await run.until(lambda: world.live() == {})


async def test_law_12_a_new_commit_cancels_the_waiting_of_the_old(
    world: World, tmp_path: Path
) -> None:
    """flux2#3569: a fix waited for the timeout of what it fixed."""

    async def hang_on_bad(change: Change) -> None:
        if change.unit and change.unit.content == b"bad":
            await asyncio.Event().wait()

    world.target.before_write = hang_on_bad
    world.desired["Endpoint/chat"] = ("bad", ())
    async with running(world, tmp_path) as run:
        await run.until(lambda: bool(run.daemon.progress.steps))
        world.desired["Endpoint/chat"] = ("good", ())
        run.source.push()
        await run.until(lambda: world.live() == {"Endpoint/chat": "good"})


async def test_what_strays_is_healed_while_another_rollout_takes_its_time(
    world: World, tmp_path: Path
) -> None:
    finish = asyncio.Event()

    async def slow(change: Change) -> None:
        if change.unit and change.unit.content == b"slow":
            await finish.wait()

    world.target.before_write = slow
    world.desired["Endpoint/steady"] = ("one", ())
    async with running(world, tmp_path) as run:
        await run.until(lambda: world.live() == {"Endpoint/steady": "one"})
        world.desired["Endpoint/large"] = ("slow", ())
        world.desired["Endpoint/leans"] = ("on it", ("Endpoint/large",))
        run.source.push()
        await run.until(lambda: bool(run.daemon.progress.steps))
        world.target.drift(key_of("Endpoint/steady"), b"somebody else's")
        run.daemon.look()
        await run.until(lambda: world.live() == {"Endpoint/steady": "one"})
        assert not finish.is_set()
        finish.set()
        await run.until(lambda: world.live() == world.wanted())

    assert [c.key for c in world.target.log].count(key_of("Endpoint/large")) == 1
    assert world.store.log.verify().size == len(world.store.log.entries())


async def test_the_end_records_the_step_in_hand(world: World, tmp_path: Path) -> None:
    async def hang(_: Change) -> None:
        await asyncio.Event().wait()

    world.target.before_write = hang
    world.desired["Endpoint/chat"] = ("one", ())
    async with running(world, tmp_path) as run:
        await run.until(lambda: bool(run.daemon.progress.steps))

    assert world.store.log.entries(limit=1)[0].error == "interrupted"
    assert world.store.runs(limit=1)[0].result == "interrupted"


@pytest.mark.parametrize(
    "error",
    [
        SpecError([Problem(file="spec/endpoint/chat.yaml", message="it is wrong")]),
        TemporaryError("cannot run git fetch: refused"),
        PermanentError("cannot trust commit"),
    ],
)
async def test_a_source_that_fails_changes_nothing_and_is_said(
    world: World, tmp_path: Path, error: Exception
) -> None:
    world.desired["Endpoint/chat"] = ("one", ())
    async with running(world, tmp_path) as run:
        await run.until(lambda: bool(world.live()))
        await run.until(lambda: run.daemon.progress.phase == "waiting")
        world.desired.clear()
        run.source.error = error
        run.source.push()
        await run.until(lambda: run.daemon.progress.error == str(error))

        said = await ask_daemon(run.where)

        assert said is not None
        assert said["error"] == str(error)
        assert world.live() == {"Endpoint/chat": "one"}


async def test_an_idle_pass_writes_nothing_anywhere(
    world: World, tmp_path: Path
) -> None:
    world.desired["Endpoint/chat"] = ("one", ())
    async with running(world, tmp_path) as run:
        await run.until(
            lambda: run.daemon.progress.phase == "waiting" and bool(world.live())
        )
        entries, runs = len(world.store.log.entries()), len(world.store.runs())
        writes = len(world.target.log)
        for _ in range(3):
            before = run.daemon.progress.since
            run.source.push()
            await run.until(lambda before=before: run.daemon.progress.since != before)
            await run.until(lambda: run.daemon.progress.phase == "waiting")

        assert len(world.store.log.entries()) == entries
        assert len(world.store.runs()) == runs
        assert len(world.target.log) == writes


async def test_status_and_metrics_say_what_waits(world: World, tmp_path: Path) -> None:
    world.target.refuse(key_of("Endpoint/chat"), PermanentError("cannot create: no"))
    world.desired["Endpoint/chat"] = ("one", ())
    async with running(world, tmp_path) as run:
        await run.until(lambda: bool(world.store.log.entries()))
        run.source.push()
        await run.until(
            lambda: bool(run.daemon.progress.plan and run.daemon.progress.plan.blocked)
        )
        said = await ask_daemon(run.where)
        url = run.where.read_text().split('"')[-2]
        async with aiohttp.ClientSession() as session:
            metrics = await (await session.get(f"{url}/metrics")).text()
            health = await session.get(f"{url}/healthz")

        assert said is not None
        assert said["blocked"][0]["waits"] == "backoff"
        assert "cannot create: no" in said["blocked"][0]["detail"]
        assert 'bud_blocked_objects{reason="backoff"} 1.0' in metrics
        assert (
            'bud_reconcile_steps_total{outcome="failed",target="memory"} 1.0' in metrics
        )
        assert health.status == 200

    assert await ask_daemon(run.where) is None


async def test_one_daemon_leads(world: World, tmp_path: Path) -> None:
    async with running(world, tmp_path):
        with (
            pytest.raises(TemporaryError, match=r"daemon .* leads it"),
            world.store.lead("two"),
        ):
            pass
