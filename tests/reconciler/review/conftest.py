"""A team with a forge: a real Gitea, the real daemon and reviewer, targets in memory."""

from __future__ import annotations

import asyncio
import os
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
import pytest_asyncio

from reconciler import lockfile
from reconciler.daemon import Daemon, Options
from reconciler.forge import open_forge
from reconciler.foundry import now
from reconciler.ledger import Entry
from reconciler.load import load
from reconciler.metrics import Metrics
from reconciler.overlay import overlay
from reconciler.pipeline import Pipeline
from reconciler.review.describer import Describer
from reconciler.review.gate import ReviewGate
from reconciler.review.planner import Planner
from reconciler.review.receiver import Receiver, Wanted
from reconciler.review.reviewer import Reviewer
from reconciler.review.service import reviewing
from reconciler.review.trees import Trees
from reconciler.secrecy import Mask
from reconciler.source import RemoteBranch
from reconciler.store import Store, open_store
from reconciler.targets.memory import MemoryTarget
from reconciler.values import Commit
from schemas.catalog import catalog
from schemas.review import Review
from tests.e2e.team import CLUSTER, ENDPOINT, MODEL, ROUTE
from tests.reconciler.review.gitea import Gitea, running

SECRET = "a-webhook-secret-of-a-test"
ENVIRONMENT = """
    apiVersion: foundry.bud/v1
    kind: Environment
    metadata: {name: local}
    spec:
      take: ["Cluster/*", "Model/*", "Endpoint/*", "Route/*", "Policy/*"]
      deletions: {percent: 100}
    """
POLICY = """
    apiVersion: foundry.bud/v1
    kind: Policy
    metadata: {name: four-eyes}
    spec:
      effect: approve
      approvers: [bob]
      rules: {approvals: 1}
    """
DEADLINE_S = 120.0


@pytest.fixture(scope="session")
def gitea(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gitea]:
    with running(tmp_path_factory.mktemp("gitea")) as found:
        yield found


@dataclass(slots=True)
class House:
    """One team's repository, its daemon and everything around it."""

    gitea: Gitea
    name: str
    folder: Path
    reviewer: Reviewer
    receiver: Receiver
    daemon: Daemon
    told: list[tuple[str, str]]
    targets: dict[str, MemoryTarget]
    port: int = 0

    @property
    def repo(self) -> str:
        return f"/repos/team/{self.name}"

    @property
    def checkout(self) -> Path:
        return self.folder / "checkout"

    def git(self, *args: str, who: str = "alice") -> str:
        author = ["-c", f"user.name={who}", "-c", f"user.email={who}@example.org"]
        done = subprocess.run(
            ["git", *author, *args],
            cwd=self.checkout,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def write(self, path: str, text: str) -> None:
        file = self.checkout / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(dedent(text).replace("NAME", file.stem).lstrip())

    def lock(self) -> None:
        """What `bud resolve` does."""
        documents = load(self.checkout, Commit(sha="0" * 40))
        lock, _ = lockfile.refresh(overlay(documents, "local"), catalog())
        lockfile.write(self.checkout, "local", lock)

    def push(self, branch: str, subject: str, *, who: str = "alice") -> str:
        """Commit everything and push it as somebody; the commit."""
        self.git("add", "-A", who=who)
        self.git("commit", "-q", "-m", subject, who=who)
        url = f"{self.gitea.url}/team/{self.name}.git".replace(
            "://", f"://{who}:{self.gitea.tokens[who]}@"
        )
        self.git("push", "-q", "-f", url, f"HEAD:refs/heads/{branch}", who=who)
        commit = self.git("rev-parse", "HEAD")
        # Gitea takes note of a push after it has answered it.
        end = time.monotonic() + DEADLINE_S
        while not self._knows(branch, commit):
            assert time.monotonic() < end, f"{branch} is not there"
            time.sleep(0.05)
        return commit

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
    daemon_runs: bool = True,
    clock: Callable[[], datetime] | None = None,
) -> AsyncIterator[House]:
    name = f"r{os.urandom(4).hex()}"
    gitea.new_repository(name)
    (tmp_path / "checkout").mkdir(parents=True)
    told: list[tuple[str, str]] = []
    clock = clock or now

    async def tell(event: str, text: str) -> None:
        told.append((event, text))

    settings = Review.model_validate_json(
        f"""{{"forge": {{"kind": "gitea", "url": "{gitea.url}/api/v1",
        "repository": "team/{name}", "token": {{"env": "TOKEN"}},
        "webhookSecret": {{"env": "SECRET"}}}}, "poll": "60s", "publicUrl": "http://x.example"}}"""
    )
    targets = {"local": MemoryTarget("local"), "gateway": MemoryTarget("gateway")}
    async with AsyncExitStack() as stack:
        store = stack.enter_context(
            open_store(
                f"sqlite:///{tmp_path / 'state.db'}",
                key=tmp_path / "ledger.key",
                origin="bud/local",
                clock=clock,
            )
        )
        pipeline = Pipeline(
            environment="local",
            catalog=catalog(),
            targets=dict(targets),
            store=store,
            clock=clock,
            mask=Mask([gitea.tokens["bud"], SECRET]),
        )
        remote = gitea.repository(name).as_uri()

        async def nothing() -> None:
            return None

        reviewer = Reviewer(
            forge=open_forge(settings.forge, lambda _: gitea.tokens["bud"], clock),
            planner=Planner(
                pipeline=pipeline,
                trees=Trees(remote, "main", tmp_path),
                describer=Describer(),
                traffic=nothing,
            ),
            settings=settings,
            branch="main",
            notify=tell,
            meters=nothing,
        )
        receiver = Receiver(
            kind="gitea",
            repository=f"team/{name}",
            secret=SECRET,
            store=store,
            wanted=Wanted(),
            clock=clock,
        )
        gate = ReviewGate(reviewer=reviewer, actor="daemon@test")
        journal = stack.enter_context(store.lead("daemon@test"))
        daemon = Daemon(
            pipeline,
            RemoteBranch(remote, "main", tmp_path / "source", poll_s=3),
            journal,
            actor="daemon@test",
            metrics=Metrics(),
            options=Options(gate=gate, tell=tell, interval_s=1),
        )
        made = House(
            gitea, name, tmp_path, reviewer, receiver, daemon, told, targets
        )  # fmt: skip
        made.git("init", "-q", "-b", "main")
        made.write("spec/cluster/here.yaml", CLUSTER)
        made.write("spec/model/llama.yaml", MODEL)
        made.write("spec/endpoint/one.yaml", ENDPOINT)
        made.write("spec/route/one.yaml", ROUTE)
        made.write("spec/policy/four-eyes.yaml", POLICY)
        made.write("environments/local/environment.yaml", ENVIRONMENT)
        for path, text in (files or {}).items():
            made.write(path, text)
        made.lock()
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
        if daemon_runs:
            stop = asyncio.Event()
            run = asyncio.ensure_future(daemon.run(stop))
            try:
                await made.until("the first state", lambda: settled(daemon, store))
                yield made
            finally:
                stop.set()
                await run
        else:
            yield made


def settled(daemon: Daemon, store: Store) -> bool:
    """Nothing of the first state is left to do: a plan made now stays the plan."""
    made, runs = daemon.progress.plan, store.runs(limit=1)
    return bool(runs and runs[0].ended_at and made and made.empty)


@pytest_asyncio.fixture
async def team(gitea: Gitea, tmp_path: Path) -> AsyncIterator[House]:
    async with house(gitea, tmp_path) as made:
        yield made
