"""The line at scale: a full plan, a plan after one edit, and a pass with nothing to do.

    python -m benchmarks.line [ENDPOINTS]

The whole engine from YAML files to a plan over targets in memory, so that what is
measured is ours. The floor of a full plan is PyYAML's C parser over the same
files; the other figures are ratios to the full plan. Counts of renders and writes
are printed because a fast pass that does needless work is no success.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from reconciler.pipeline import Pipeline
from reconciler.source import Tree
from reconciler.store import open_store
from reconciler.targets.memory import MemoryTarget
from reconciler.values import Commit, Key
from schemas.catalog import catalog

HEAD = "apiVersion: foundry.bud/v1\nkind: {kind}\nmetadata: {{name: {name}}}\nspec:\n"
CLUSTER = (
    "  provider: local\n"
    "  nodePools: [{name: gpus, gpu: h100-sxm-80gb, gpusPerNode: 8, count: 10000}]\n"
)
MODEL = (
    "  source: {path: {path: /nowhere}}\n  architecture: meta-llama/Llama-3.1-8B\n"
    "  precision: bf16\n  licence: {id: llama3.1, accepted: true}\n"
)
ENDPOINT = (
    "  model: llama\n  cluster: here\n  engine: {name: simulator, rehearses: vllm}\n"
    "  workload: {inputTokens: 64, outputTokens: 16, concurrency: 8}\n"
    "  parallelism: {tensor: 1, pipeline: 1, data: 1, expert: 1}\n"
    "  maxBatch: 8\n  context: 1024\n  replicas: 1\n"
)


def write(root: Path, kind: str, name: str, spec: str) -> None:
    folder = root / "spec" / kind.lower()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.yaml").write_text(HEAD.format(kind=kind, name=name) + spec)


def lay_out(root: Path, count: int) -> None:
    write(root, "Cluster", "here", CLUSTER)
    write(root, "Model", "llama", MODEL)
    for i in range(count):
        write(root, "Endpoint", f"e{i}", ENDPOINT)
        route = f"  models: [m{i}]\n  targets: [{{endpoint: e{i}}}]\n"
        write(root, "Route", f"r{i}", route)
    folder = root / "environments" / "local"
    folder.mkdir(parents=True)
    (folder / "environment.yaml").write_text(
        HEAD.format(kind="Environment", name="local")
        + '  take: ["Cluster/*", "Model/*", "Endpoint/*", "Route/*"]\n'
    )


@contextmanager
def timed(what: str, seconds: dict[str, float]) -> Iterator[None]:
    started, cpu = time.perf_counter(), time.process_time()
    yield
    seconds[what] = time.process_time() - cpu
    wall = time.perf_counter() - started
    print(f"  {what:<44} {seconds[what]:8.2f} s CPU {wall:8.2f} s")


async def main(count: int) -> None:
    seconds: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "repo"
        lay_out(root, count)
        files = [*(root / "spec").rglob("*.yaml")]
        print(f"{count} endpoints, {len(files)} files")
        store = open_store(
            f"sqlite:///{folder}/state.db",
            key=Path(folder) / "key",
            origin="bud/benchmark",
            clock=lambda: datetime.now(UTC),
        )
        targets = {name: MemoryTarget(name) for name in ("local", "gateway")}
        pipeline = Pipeline(
            environment="local",
            catalog=catalog(),
            targets=targets,
            store=store,
            clock=lambda: datetime.now(UTC),
        )
        tree = Tree(root=root, commit=Commit(sha="a" * 40))
        with timed("floor: PyYAML's C parser, the same files", seconds):
            for file in files:
                yaml.load(file.read_bytes(), Loader=yaml.CSafeLoader)
        with timed("resolve, nothing in the lock", seconds):
            pipeline.refresh_lock(tree)
        pipeline._files.clear()
        with timed("full plan", seconds):
            prepared = await pipeline.prepare(tree)
        with store.lead("benchmark") as journal, timed("first apply", seconds):
            await pipeline.execute(
                prepared.plan, journal, actor="benchmark", progress=_quiet
            )
        with timed("pass with nothing to do", seconds):
            idle = await _pass(pipeline, tree, targets)
        with timed("pass with nothing to do, again", seconds):
            idle = await _pass(pipeline, tree, targets)
        edited = root / "spec" / "route" / "r0.yaml"
        edited.write_text(edited.read_text().replace("[m0]", "[m0, also]"))
        with timed("plan after one file of them changed", seconds):
            one = await _pass(pipeline, tree, targets)
        store.close()
    full = seconds["full plan"]
    print(f"full plan / C parser                {full / seconds[FLOOR]:8.2f}")
    print(f"one changed / full plan             {seconds[ONE] / full:8.3f}")
    print(f"nothing to do / full plan           {seconds[IDLE] / full:8.3f}")
    print(f"nothing to do: steps, renders, writes = {idle}; one changed: {one}")


FLOOR = "floor: PyYAML's C parser, the same files"
ONE = "plan after one file of them changed"
IDLE = "pass with nothing to do, again"


async def _pass(
    pipeline: Pipeline, tree: Tree, targets: dict[str, MemoryTarget]
) -> tuple[int, int, int]:
    renders = pipeline._renderer.rendered
    writes = sum(len(target.log) for target in targets.values())
    prepared = await pipeline.prepare(tree)
    now = sum(len(target.log) for target in targets.values())
    return len(prepared.plan.steps), pipeline._renderer.rendered - renders, now - writes


def _quiet(key: Key, doing: str) -> None:
    pass


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 1000))
