"""A team with a forge: a real Gitea, the real daemon and reviewer, targets in memory."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from reconciler.daemon import Daemon
from reconciler.forge import open_forge
from reconciler.foundry import now
from reconciler.ledger import Entry
from reconciler.metrics import Metrics
from reconciler.reconciler import Options, Reconciler
from reconciler.review.describer import Describer
from reconciler.review.gate import ReviewGate
from reconciler.review.receiver import Receiver, Wanted
from reconciler.review.reviewer import Reviewer
from reconciler.review.service import reviewing
from reconciler.secrecy import Mask
from reconciler.source import RemoteBranch
from reconciler.store import Store
from reconciler.targets.memory import MemoryTarget
from schemas.review import Review
from tests.reconciler.review.gitea import Gitea, running
from tests.reconciler.review.repository import (
    Checkout,
    pipeline_of,
    reviewer_of,
    store_of,
)

SECRET = "a-webhook-secret-of-a-test"
DEADLINE_S = 120.0


@pytest.fixture(scope="session")
def gitea(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gitea]:
    with running(tmp_path_factory.mktemp("gitea")) as found:
        yield found


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def describer() -> AsyncIterator[Describer]:
    """One child that plans, for all tests of a module."""
    made = Describer()
    yield made
    await made.close()


@dataclass(slots=True)
class House:
    """One team's repository, its daemon and everything around it."""

    gitea: Gitea
    name: str
    work: Checkout
    reviewer: Reviewer
    receiver: Receiver
    daemon: Daemon
    told: list[tuple[str, str]]
    targets: dict[str, MemoryTarget]
    port: int = 0

    @property
    def repo(self) -> str:
        return f"/repos/team/{self.name}"

    def push(self, branch: str, subject: str, *, who: str = "alice") -> str:
        """Commit everything and push it as somebody; the commit."""
        commit = self.work.commit(subject, who=who)
        self.send(branch, who=who)
        # Gitea takes note of a push after it has answered it.
        end = time.monotonic() + DEADLINE_S
        while not self._knows(branch, commit):
            assert time.monotonic() < end, f"{branch} is not there"
            time.sleep(0.05)
        return commit

    def send(self, branch: str, *, who: str = "alice") -> None:
        url = f"{self.gitea.url}/team/{self.name}.git".replace(
            "://", f"://{who}:{self.gitea.tokens[who]}@"
        )
        self.work.git("push", "-q", "-f", url, f"HEAD:refs/heads/{branch}", who=who)

    def _knows(self, branch: str, commit: str) -> bool:
        try:
            found = self.call("bud", "GET", f"/branches/{branch}")["commit"]["id"]
            self.call("bud", "GET", "/pulls")
        except AssertionError:
            return False
        return bool(found == commit)

    def propose(
        self, branch: str, title: str = "A change", *, who: str = "alice"
    ) -> int:
        body = {"title": title, "head": branch, "base": "main"}
        return int(self.call(who, "POST", "/pulls", body)["number"])

    def call(self, who: str, method: str, path: str, body: Any = None) -> Any:
        return self.gitea.call(who, method, f"{self.repo}{path}", body)

    def comment_of(self, number: int) -> str:
        """Ours; empty while there is none."""
        notes = self.call("bud", "GET", f"/issues/{number}/comments")
        ours = [n["body"] for n in notes if n["body"].startswith("<!-- bud plan")]
        assert len(ours) <= 1, "one comment, updated in place"
        return ours[0] if ours else ""

    def status_of(self, commit: str) -> tuple[str, str]:
        found = self.call("bud", "GET", f"/commits/{commit}/status")
        if not found["statuses"]:
            return "", ""
        return found["statuses"][0]["status"], found["statuses"][0]["description"]

    def digest(self, number: int) -> str:
        review = self.reviewer.store.reviews.of_pull(number)
        return "" if review is None else review.digest

    def approve(self, number: int, who: str) -> None:
        pull = self.call(who, "GET", f"/pulls/{number}")
        body = {"event": "APPROVED", "body": "", "commit_id": pull["head"]["sha"]}
        self.call(who, "POST", f"/pulls/{number}/reviews", body)

    def merge(self, number: int, who: str = "alice") -> None:
        self.call(who, "POST", f"/pulls/{number}/merge", {"Do": "merge"})

    def entries(self) -> list[Entry]:
        return list(self.reviewer.store.log.entries(limit=1000))

    def said(self) -> list[str]:
        """Decisions, whether they are in the ledger yet or wait for the leader."""
        waiting = [d.said for d in self.reviewer.store.decisions()]
        return waiting + [e.step for e in self.entries() if e.outcome == "decided"]

    async def until(self, what: str, true: Callable[[], Any]) -> Any:
        end = asyncio.get_running_loop().time() + DEADLINE_S
        while not (found := await asyncio.to_thread(true)):
            assert asyncio.get_running_loop().time() < end, (
                f"not in {DEADLINE_S:g} s: {what}; daemon: {self.daemon.progress.error}; "
                f"{self.said()[:10]}"
            )
            await asyncio.sleep(0.05)
        return found

    async def next_second(self, number: int) -> None:
        """Gitea's clock counts seconds: an approval in that of the plan is too early."""
        posted = await self.until("the plan is posted", lambda: self._posted(number))
        await self.until(
            "the next second", lambda: (now() - posted).total_seconds() > 1.1
        )

    def _posted(self, number: int) -> datetime | None:
        review = self.reviewer.store.reviews.of_pull(number)
        return None if review is None else review.posted_at


@asynccontextmanager
async def house(
    gitea: Gitea,
    tmp_path: Path,
    *,
    files: dict[str, str] | None = None,
    interval_s: float = 1.0,
) -> AsyncIterator[House]:
    name = f"r{os.urandom(4).hex()}"
    gitea.new_repository(name)
    work = Checkout(tmp_path / "checkout")
    work.begin(files)
    told: list[tuple[str, str]] = []

    async def tell(event: str, text: str) -> None:
        told.append((event, text))

    settings = Review.model_validate_json(
        f"""{{"forge": {{"kind": "gitea", "url": "{gitea.url}/api/v1",
        "repository": "team/{name}", "token": {{"env": "TOKEN"}},
        "webhookSecret": {{"env": "SECRET"}}}}, "poll": "60s", "publicUrl": "http://x.example"}}"""
    )
    targets = {"local": MemoryTarget("local"), "gateway": MemoryTarget("gateway")}
    async with AsyncExitStack() as stack:
        store = stack.enter_context(store_of(tmp_path, now))
        mask = Mask([gitea.tokens["bud"], SECRET])
        pipeline = pipeline_of(store, now, mask, targets)
        remote = gitea.repository(name).as_uri()
        reviewer = reviewer_of(
            pipeline,
            open_forge(settings.forge, lambda _: gitea.tokens["bud"], now),
            settings,
            remote=remote,
            home=tmp_path,
            describer=Describer(),
            notify=tell,
        )
        receiver = Receiver(
            kind="gitea",
            repository=f"team/{name}",
            secret=SECRET,
            store=store,
            wanted=Wanted(),
            clock=now,
        )
        gate = ReviewGate(reviewer=reviewer, actor="daemon@test")
        journal = stack.enter_context(store.lead("daemon@test"))
        daemon = Daemon(
            Reconciler(
                pipeline,
                RemoteBranch(remote, "main", tmp_path / "source", poll_s=3),
                journal,
                actor="daemon@test",
                metrics=Metrics(),
                options=Options(gate=gate, tell=tell, interval_s=interval_s),
            )
        )
        made = House(gitea, name, work, reviewer, receiver, daemon, told, targets)
        made.push("main", "Begin", who="bud")
        made.port = await stack.enter_async_context(
            reviewing(reviewer, receiver, moved=daemon.look)
        )
        hook = {
            "type": "gitea",
            "active": True,
            "events": ["push", "pull_request", "pull_request_comment", "issue_comment",
                       "pull_request_review", "pull_request_label", "pull_request_sync"],
            "config": {"url": f"http://127.0.0.1:{made.port}/webhook",
                       "content_type": "json", "secret": SECRET},
        }  # fmt: skip
        made.call("bud", "POST", "/hooks", hook)
        stop = asyncio.Event()
        run = asyncio.ensure_future(daemon.run(stop))
        try:
            await made.until("the first state", lambda: settled(daemon, store))
            yield made
        finally:
            stop.set()
            await run


def settled(daemon: Daemon, store: Store) -> bool:
    """Nothing of the first state is left to do: a plan made now stays the plan."""
    made, runs = daemon.progress.plan, store.runs(limit=1)
    return bool(runs and runs[0].ended_at and made and made.empty)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """One forge, one worker: starting a second costs more than it saves."""
    for item in items:
        if "gitea" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.xdist_group("gitea"))


@pytest_asyncio.fixture
async def team(gitea: Gitea, tmp_path: Path) -> AsyncIterator[House]:
    async with house(gitea, tmp_path) as made:
        yield made
