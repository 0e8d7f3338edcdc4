"""A team's repository with a model that is served, and whoever reviews changes of it."""

from __future__ import annotations

import subprocess
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from textwrap import dedent

from reconciler import lockfile
from reconciler.forge import Forge
from reconciler.load import load
from reconciler.overlay import overlay
from reconciler.pipeline import Pipeline
from reconciler.review.describer import Describer
from reconciler.review.planner import Planner
from reconciler.review.reviewer import Reviewer
from reconciler.review.trees import Trees
from reconciler.secrecy import Mask
from reconciler.store import Store, open_store
from reconciler.targets.memory import MemoryTarget
from reconciler.values import Commit
from schemas.catalog import catalog
from schemas.review import Review
from tests.e2e.team import CLUSTER, ENDPOINT, MODEL, ROUTE

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
FILES = {
    "spec/cluster/here.yaml": CLUSTER,
    "spec/model/llama.yaml": MODEL,
    "spec/endpoint/one.yaml": ENDPOINT,
    "spec/route/one.yaml": ROUTE,
    "spec/policy/four-eyes.yaml": POLICY,
    "environments/local/environment.yaml": ENVIRONMENT,
}


@dataclass(frozen=True, slots=True)
class Checkout:
    root: Path

    def git(self, *args: str, who: str = "alice") -> str:
        author = ["-c", f"user.name={who}", "-c", f"user.email={who}@example.org"]
        done = subprocess.run(
            ["git", *author, *args],
            cwd=self.root,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def begin(self, files: Mapping[str, str] | None = None) -> None:
        self.root.mkdir(parents=True)
        self.git("init", "-q", "-b", "main")
        for path, text in {**FILES, **(files or {})}.items():
            self.write(path, text)

    def write(self, path: str, text: str) -> None:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(dedent(text).replace("NAME", file.stem).lstrip())

    def commit(self, subject: str, *, who: str = "alice") -> str:
        """With the lock that `bud resolve` would write; the commit."""
        documents = load(self.root, Commit(sha="0" * 40))
        for environment in documents.environments:
            lock, _ = lockfile.refresh(overlay(documents, environment), catalog())
            lockfile.write(self.root, environment, lock)
        self.git("add", "-A", who=who)
        self.git("commit", "-q", "-m", subject, who=who)
        return self.git("rev-parse", "HEAD")


def store_of(
    folder: Path, clock: Callable[[], datetime], environment: str = "local"
) -> Store:
    folder.mkdir(parents=True, exist_ok=True)
    return open_store(
        f"sqlite:///{folder / 'state.db'}",
        key=folder / "ledger.key",
        origin=f"bud/{environment}",
        clock=clock,
    )


def pipeline_of(
    store: Store,
    clock: Callable[[], datetime],
    mask: Mask,
    targets: Mapping[str, MemoryTarget],
    environment: str = "local",
) -> Pipeline:
    return Pipeline(
        environment=environment,
        catalog=catalog(),
        targets=dict(targets),
        store=store,
        clock=clock,
        mask=mask,
    )


def reviewer_of(
    pipeline: Pipeline,
    forge: Forge,
    settings: Review,
    *,
    remote: str,
    home: Path,
    describer: Describer,
    notify: Callable[[str, str], Awaitable[None]],
) -> Reviewer:
    async def nothing() -> None:
        return None

    return Reviewer(
        forge=forge,
        planner=Planner(
            pipeline=pipeline,
            trees=Trees(remote, "main", home),
            describer=describer,
            traffic=nothing,
        ),
        settings=settings,
        branch="main",
        notify=notify,
        meters=nothing,
    )
