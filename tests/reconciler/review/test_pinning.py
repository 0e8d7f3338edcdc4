"""One input of an approved plan moves: it is refused, and that input is named."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from reconciler import pins
from reconciler.forge import Approval, Note, PullRequest
from reconciler.pipeline import Pipeline, Prepared
from reconciler.review.describer import Describer
from reconciler.review.gate import ReviewGate
from reconciler.review.receiver import Receiver, Wanted
from reconciler.review.service import reviewing
from reconciler.secrecy import Mask
from reconciler.source import RemoteBranch, Tree, git
from reconciler.store import Suspension
from reconciler.targets.memory import MemoryTarget
from reconciler.values import Key
from schemas.errors import PermanentError
from schemas.objects import Ref
from schemas.review import Review
from schemas.units import Duration
from tests.e2e.team import CLUSTER, ENDPOINT, ROUTE
from tests.reconciler.review.memory_forge import MemoryForge
from tests.reconciler.review.repository import (
    Checkout,
    pipeline_of,
    reviewer_of,
    store_of,
)

SETTINGS = Review.model_validate_json(
    """{"forge": {"kind": "gitea", "url": "http://forge.example/api/v1",
    "repository": "t/r", "token": {"env": "T"}, "webhookSecret": {"env": "S"}}}"""
)
ONE = Key("local", Ref("Endpoint", "default", "one"))


# One process reads the trees of all of them, as it does for all pull requests.
pytestmark = pytest.mark.asyncio(loop_scope="module")


async def nobody(_event: str, _text: str) -> None:
    return None


@dataclass(slots=True)
class Bench:
    """A plan of pull request 1 that changes one endpoint, approved by bob."""

    folder: Path
    work: Checkout
    forge: MemoryForge
    gate: ReviewGate
    pipeline: Pipeline
    source: RemoteBranch
    target: MemoryTarget
    edit: Callable[[Tree], None] = lambda _: None

    def commit(self, subject: str, ref: str) -> str:
        head = self.work.commit(subject)
        self.work.git(
            "push", "-q", "-f", str(self.folder / "remote.git"), f"HEAD:{ref}"
        )
        return head

    def merge(self) -> None:
        """As the forge would, onto whatever main is."""
        self.work.git("switch", "-q", "main")
        self.work.git("merge", "-q", "--no-ff", "-m", "Merge", "change")
        self.work.git("push", "-q", str(self.folder / "remote.git"), "main")
        self.forge.pulls[1] = replace(
            self.forge.pulls[1],
            open=False, merged=True, merge_commit=self.work.git("rev-parse", "HEAD"),
        )  # fmt: skip

    async def apply(self) -> Prepared:
        """What the daemon does, up to the first write."""
        tree, wanted = await self.gate.admit(await self.source.newest())
        assert wanted is not None
        self.edit(tree)
        prepared = await self.pipeline.prepare(tree, wanted)
        await self.gate.check(prepared.plan)
        return prepared


@asynccontextmanager
async def bench(
    folder: Path,
    describer: Describer,
    *,
    count: int = 0,
    mask: Mask | None = None,
    target: MemoryTarget | None = None,
) -> AsyncIterator[Bench]:
    """``count`` more endpoints lie beside the one that changes."""
    clock, target = Clock(), target or MemoryTarget("local")
    await git("init", "-q", "--bare", str(folder / "remote.git"), cwd=folder)
    remote = (folder / "remote.git").as_uri()
    work = Checkout(folder / "work")
    work.begin()
    with store_of(folder, clock) as store:
        targets = {"local": target, "gateway": MemoryTarget("gateway")}
        pipeline, forge = (
            pipeline_of(store, clock, mask or Mask(), targets),
            MemoryForge(clock()),
        )
        reviewer = reviewer_of(
            pipeline,
            forge,
            SETTINGS,
            remote=remote,
            home=folder,
            describer=describer,
            notify=nobody,
        )
        made = Bench(
            folder, work, forge, ReviewGate(reviewer=reviewer, actor="daemon"), pipeline,
            RemoteBranch(remote, "main", folder / "source"), target,
        )  # fmt: skip
        for i in range(count):
            work.write(f"spec/endpoint/e{i}.yaml", ENDPOINT)
        if count:
            work.write(
                "spec/cluster/here.yaml", CLUSTER.replace("count: 4", "count: 400")
            )
        made.commit("Begin", "refs/heads/main")
        prepared = await pipeline.prepare(await made.source.newest())
        with store.lead("daemon") as journal:
            await pipeline.execute(
                prepared.plan, journal, actor="daemon", progress=lambda *_: None
            )
        work.git("switch", "-q", "-c", "change")
        work.write(
            "spec/endpoint/one.yaml", ENDPOINT.replace("replicas: 1", "replicas: 2")
        )
        head = made.commit("Two of them", "refs/pull/1/head")
        forge.pulls[1] = PullRequest(
            number=1, title="Two", author="alice", head=head, branch="main",
            fork=False, open=True, merged=False,
        )  # fmt: skip
        await reviewer.look(1)
        at = forge.now + timedelta(minutes=1)
        forge.approved = [Approval(by="bob", commit=head, at=at)]
        yield made


class Clock:
    def __init__(self) -> None:
        self.now = datetime(2026, 11, 23, 12, tzinfo=UTC)

    def __call__(self) -> datetime:
        self.now += timedelta(microseconds=1)
        return self.now


async def test_an_approved_plan_is_applied_once_and_says_who_agreed(
    tmp_path: Path, describer: Describer
) -> None:
    async with bench(tmp_path, describer) as b:
        b.merge()
        made = (await b.apply()).plan
        [said] = [
            d.said
            for d in b.pipeline.store.decisions()
            if d.said.startswith("apply plan")
        ]
        assert said == f"apply plan {made.digest} of #1, approved by bob"

        with pytest.raises(PermanentError, match="the plan is applying"):
            await b.gate.check(made)
        with pytest.raises(PermanentError, match="was used by daemon"):
            b.pipeline.store.use_plan(made.digest, "another")


Mutate = Callable[[Bench, pytest.MonkeyPatch], Any]


def _head(b: Bench, _: pytest.MonkeyPatch) -> None:
    b.work.write(
        "spec/endpoint/one.yaml", ENDPOINT.replace("replicas: 1", "replicas: 3")
    )
    head = b.commit("Three", "refs/pull/1/head")
    b.forge.pulls[1] = replace(b.forge.pulls[1], head=head)


def _base(b: Bench, _: pytest.MonkeyPatch) -> None:
    b.work.git("switch", "-q", "main")
    b.work.write(
        "spec/route/another.yaml", ROUTE.replace("endpoint: NAME", "endpoint: one")
    )
    b.commit("Somebody else's", "refs/heads/main")


def _approval(b: Bench, _: pytest.MonkeyPatch) -> None:
    b.forge.approved = []


def _approver(b: Bench, _: pytest.MonkeyPatch) -> None:
    b.forge.approved = [replace(b.forge.approved[0], by="carol")]


def _self_approval(b: Bench, _: pytest.MonkeyPatch) -> None:
    b.forge.pulls[1] = replace(b.forge.pulls[1], author="bob")


def _stranger(b: Bench, _: pytest.MonkeyPatch) -> None:
    b.forge.approved = [replace(b.forge.approved[0], by="mallory")]


def _earlier(b: Bench, _: pytest.MonkeyPatch) -> None:
    b.forge.approved = [replace(b.forge.approved[0], at=b.forge.now)]


def _other_commit(b: Bench, _: pytest.MonkeyPatch) -> None:
    b.forge.approved = [replace(b.forge.approved[0], commit="f" * 40)]


def _expiry(b: Bench, _: pytest.MonkeyPatch) -> None:
    clock = b.pipeline.clock
    assert isinstance(clock, Clock)
    clock.now += timedelta(hours=72)


def _unlock(b: Bench, _: pytest.MonkeyPatch) -> None:
    b.pipeline.store.reviews.supersede(1)


def _live_content(b: Bench, _: pytest.MonkeyPatch) -> None:
    b.target.drift(ONE, b"touched")


def _live_version(b: Bench, _: pytest.MonkeyPatch) -> None:
    """A Kubernetes object's state, and the serial of a Terraform state, are versions."""
    stored = b.target.objects[ONE]
    b.target.objects[ONE] = replace(stored, version=stored.version + 1)


def _live_uid(b: Bench, _: pytest.MonkeyPatch) -> None:
    """Made again by somebody; the lineage of a Terraform state is a uid."""
    b.target.objects[ONE] = replace(b.target.objects[ONE], uid="another")


def _catalog(_: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pins, "catalog_digest", lambda: "another")


def _prices(_: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pins, "_prices", lambda: "another")


def _tables(_: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    class Retrained:
        identity = "regressor/2"

    monkeypatch.setattr(pins, "optimizer_for", lambda _: Retrained())


def _lock(b: Bench, _: pytest.MonkeyPatch) -> None:
    def edit(tree: Tree) -> None:
        file = tree.root / "environments/local/resolved.lock.yaml"
        file.write_text(file.read_text().replace("considered: ", "considered: 1"))

    b.edit = edit


def _rendered(b: Bench, _: pytest.MonkeyPatch) -> None:
    def edit(tree: Tree) -> None:
        file = tree.root / "spec/endpoint/one.yaml"
        file.write_text(
            file.read_text().replace(
                "rehearses: vllm}", "rehearses: vllm, env: {A: b}}"
            )
        )

    b.edit = edit


def _suspended(b: Bench, _: pytest.MonkeyPatch) -> None:
    until = b.pipeline.clock() + timedelta(hours=1)
    b.pipeline.store.suspend(
        Suspension(ref=ONE.ref, reason="hands off", actor="op", expires_at=until)
    )


@pytest.mark.parametrize(
    ("mutate", "reason"),
    [
        (_head, "head moved"),
        (_base, "base moved"),
        (_approval, "1 approvals of bob are missing"),
        (_approver, "1 approvals of bob are missing"),
        (_self_approval, "approval by bob does not count: they wrote"),
        (_stranger, "approval by mallory does not count: they may not write"),
        (_earlier, "is stale: it is older than this plan"),
        (_other_commit, "is stale: it is of ffffffffffff"),
        (_expiry, "the plan expired"),
        (_unlock, "the plan is superseded"),
        (_live_content, r"live, local:Endpoint/default/one \(content"),
        (_live_version, r"live, local:Endpoint/default/one \(version\) moved"),
        (_live_uid, r"live, local:Endpoint/default/one \(uid\) moved"),
        (_catalog, "catalog moved"),
        (_prices, "prices moved"),
        (_tables, "tables moved"),
        (_lock, "lock moved"),
        (_rendered, "rendered moved"),
        (_suspended, "moved"),
    ],
)
async def test_what_moved_since_the_approval_is_named_and_nothing_is_applied(
    tmp_path: Path,
    describer: Describer,
    monkeypatch: pytest.MonkeyPatch,
    mutate: Mutate,
    reason: str,
) -> None:
    async with bench(tmp_path, describer) as b:
        mutate(b, monkeypatch)
        b.merge()

        with pytest.raises(PermanentError, match=reason):
            await b.apply()
        said = [d.said for d in b.pipeline.store.decisions()]
        assert any(s.startswith("refuse plan") and "of #1" in s for s in said)
        assert not any(s.startswith("apply plan") for s in said)


async def test_what_came_by_no_pull_request_is_not_applied(
    tmp_path: Path, describer: Describer
) -> None:
    async with bench(tmp_path, describer) as b:
        b.work.git("switch", "-q", "main")
        b.work.write(
            "spec/endpoint/one.yaml", ENDPOINT.replace("replicas: 1", "replicas: 3")
        )
        b.commit("Past everybody", "refs/heads/main")

        with pytest.raises(PermanentError, match="no pull request brought it"):
            await b.apply()
        assert any("refuse to apply" in d.said for d in b.pipeline.store.decisions())


async def test_a_comment_in_our_name_by_somebody_else_is_not_ours(
    tmp_path: Path, describer: Describer
) -> None:
    async with bench(tmp_path, describer) as b:
        [ours] = b.forge.written
        b.forge.written = [
            Note(id="99", author="mallory", body=ours.body, at=b.forge.now), ours
        ]  # fmt: skip
        b.pipeline.store.reviews.supersede(1)
        await b.gate.reviewer.look(1)

        assert {n.id for n in b.forge.written if n.author == "bud"} == {ours.id}


async def test_what_was_measured_stands_beside_what_was_predicted(
    tmp_path: Path, describer: Describer
) -> None:
    counted: dict[str, dict[str, float]] = {}

    async def meters() -> dict[str, dict[str, float]]:
        return counted

    async with bench(tmp_path, describer) as b:
        object.__setattr__(b.gate.reviewer, "meters", meters)
        b.merge()
        prepared = await b.apply()
        await b.gate.report(prepared.plan, ())
        counted["default/one"] = dict.fromkeys(("requests", "tokens"), 40.0) | {
            "ttftSum": 8.0, "ttftCount": 40.0, "tpotSum": 1.0, "tpotCount": 40.0,
        }  # fmt: skip
        await b.gate.reviewer.look_at_all()

        [comment] = [n.body for n in b.forge.written]
        assert "| `Endpoint/default/one` |" in comment.split("predicted TTFT")[1]
        assert "| 200 |" in comment
        assert "| 25 |" in comment


async def test_a_look_while_the_forge_merges_voids_no_approval(
    tmp_path: Path, describer: Describer
) -> None:
    async with bench(tmp_path, describer) as b:
        still_open = b.forge.pulls[1]
        b.merge()
        merged, b.forge.pulls[1] = b.forge.pulls[1], still_open
        await b.gate.reviewer.look(1)
        b.forge.pulls[1] = merged

        await b.apply()


async def test_a_lost_webhook_costs_one_poll_before_and_after_a_merge(
    tmp_path: Path, describer: Describer
) -> None:
    async with bench(tmp_path, describer) as b:
        reviewer = b.gate.reviewer
        poll = SETTINGS.model_copy(update={"poll": Duration("1s")})
        object.__setattr__(reviewer, "settings", poll)
        object.__setattr__(reviewer.planner, "describer", Lasting(describer))
        receiver = Receiver(
            kind="gitea", repository="t/r", secret="s", store=b.pipeline.store,
            wanted=Wanted(), clock=b.pipeline.clock,
        )  # fmt: skip

        async def until(words: str) -> None:
            end = asyncio.get_running_loop().time() + 60
            while not any(words in n.body for n in b.forge.written):
                assert asyncio.get_running_loop().time() < end, b.forge.written
                await asyncio.sleep(0.02)

        async with reviewing(reviewer, receiver, moved=lambda: None):
            _head(b, pytest.MonkeyPatch())
            await until(b.forge.pulls[1].head[:12])
            b.work.git("switch", "-q", "change")
            b.merge()
            why = Note(id="77", author="carol", body="/bud why", at=b.forge.now)
            b.forge.written.append(why)
            await until("What it waits for:")


async def test_a_webhook_that_is_ahead_of_its_forge_is_not_lost(
    tmp_path: Path, describer: Describer
) -> None:
    async with bench(tmp_path, describer) as b:
        reviewer, wanted = b.gate.reviewer, Wanted()
        rarely = SETTINGS.model_copy(update={"poll": Duration("1h")})
        object.__setattr__(reviewer, "settings", rarely)
        object.__setattr__(reviewer.planner, "describer", Lasting(describer))
        receiver = Receiver(
            kind="gitea", repository="t/r", secret="s", store=b.pipeline.store,
            wanted=wanted, clock=b.pipeline.clock,
        )  # fmt: skip
        tried = asyncio.Event()
        async with reviewing(reviewer, receiver, moved=tried.set):
            b.work.write(
                "spec/endpoint/one.yaml", ENDPOINT.replace("replicas: 1", "replicas: 3")
            )
            head = b.work.commit("Three")
            b.forge.pulls[1] = replace(b.forge.pulls[1], head=head)
            async with asyncio.timeout(60):
                await tried.wait()
                tried.clear()
                wanted.ask(1)
                await tried.wait()
                assert head[:12] not in b.forge.written[-1].body
                remote = str(b.folder / "remote.git")
                b.work.git("push", "-q", "-f", remote, "HEAD:refs/pull/1/head")
                while head[:12] not in b.forge.written[-1].body:
                    await asyncio.sleep(0.02)


class Lasting:
    """A describer that others use after this reviewer ended."""

    def __init__(self, describer: Describer) -> None:
        self.describe = describer.describe

    async def close(self) -> None:
        return None
