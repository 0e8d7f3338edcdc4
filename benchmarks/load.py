"""How long a checkout takes to validate, against the floor: parsing its bytes.

    python -m benchmarks.load [documents=10000]

The floor is PyYAML's own C loader over the same bytes, already in memory. Ours
reads the files, refuses what is ambiguous, validates, merges an environment,
resolves every reference and checks every rule.
"""

from __future__ import annotations

import gc
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import yaml

from reconciler.load import load
from reconciler.overlay import overlay
from reconciler.validate import validate
from reconciler.values import Commit, Document

ROUNDS = 3
COMMIT = Commit(sha="0" * 40)
HEAD = "apiVersion: foundry.bud/v1\nkind: {kind}\nmetadata:\n  name: {name}\n  labels:\n    team: search\nspec:\n"
CLUSTER = (
    HEAD
    + """\
  provider: existing
  credentials:
    file: /etc/bud/kubeconfig
  nodePools:
    - name: h100
      gpu: h100-sxm-80gb
      gpusPerNode: 8
      count: 4
"""
)
MODEL = (
    HEAD
    + """\
  source:
    hf:
      repo: meta-llama/Llama-3.1-70B-Instruct
      revision: 1605565b47bb9346c5515c34102e054115b4f98b
  precision: bf16
  licence:
    id: llama3.1
    accepted: true
"""
)
ENDPOINT = (
    HEAD
    + """\
  model: m{n}
  cluster: c{c}
  engine:
    name: vllm
    args:
      enable-prefix-caching: true
  workload:
    inputTokens: 1000
    outputTokens: 250
    concurrency: 64
  slo:
    ttft: {{target: 500ms, percentile: 95}}
    tpot: {{target: 40ms, percentile: 95}}
  parallelism:
    tensor: 4
  replicas: 2
"""
)
ROUTE = (
    HEAD
    + """\
  models:
    - public-{n}
  targets:
    - endpoint: e{n}
      weight: 90
  fallbacks:
    - route: r{other}
  limits:
    tokensPerMinute: 100000
"""
)
ENVIRONMENT = (
    HEAD
    + """\
  take:
    - Cluster/*
    - Model/*
    - Endpoint/*
    - Route/*
"""
)


def main() -> None:
    documents = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        files = write(root, documents)
        texts = [file.read_bytes() for file in files]
        size = sum(map(len, texts))
        print(
            f"{len(files):,} documents, {size:,} bytes, processor time, best of {ROUNDS}"
        )

        floor = best(lambda: [yaml.load(t, yaml.CSafeLoader) for t in texts])
        full = best(lambda: validate(root, COMMIT))
        print(f"PyYAML's C loader alone      {floor:7.2f} s   1.00")
        print(f"validate                     {full:7.2f} s   {full / floor:.2f}")

        cache: dict[str, tuple[bytes, Document]] = {}
        overlay(load(root, COMMIT, cache=cache), "all")
        changed = files[len(files) // 2]
        texts_of_it = [changed.read_text(), changed.read_text() + "# changed\n"]

        def one_changed() -> None:
            texts_of_it.reverse()
            changed.write_text(texts_of_it[0])
            overlay(load(root, COMMIT, cache=cache), "all")

        fresh = best(lambda: overlay(load(root, COMMIT), "all"))
        again = best(one_changed)
        print(f"load and overlay, all fresh  {fresh:7.2f} s   1.00")
        print(f"load and overlay, 1 changed  {again:7.2f} s   {again / fresh:.3f}")


def write(root: Path, documents: int) -> list[Path]:
    """Endpoints, each with a model and a route; a cluster for every hundred."""
    each = max(1, (documents - 1) * 100 // 301)
    contents = {
        "environments/all/environment.yaml": ENVIRONMENT.format(
            kind="Environment", name="all"
        )
    }
    for n in range(each):
        other = n + 1 if n + 1 < each else n - 1
        contents[f"spec/model/m{n}.yaml"] = MODEL.format(kind="Model", name=f"m{n}")
        contents[f"spec/endpoint/e{n}.yaml"] = ENDPOINT.format(
            kind="Endpoint", name=f"e{n}", n=n, c=n // 100
        )
        route = ROUTE.format(kind="Route", name=f"r{n}", n=n, other=other)
        if n + 1 == each:
            route = route.replace(f"  fallbacks:\n    - route: r{other}\n", "")
        contents[f"spec/route/r{n}.yaml"] = route
        contents[f"spec/cluster/c{n // 100}.yaml"] = CLUSTER.format(
            kind="Cluster", name=f"c{n // 100}"
        )
    files = []
    for name, content in contents.items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
        files.append(file)
    return files


def best(run: Callable[[], object]) -> float:
    found = []
    for _ in range(ROUNDS):
        gc.collect()
        start = time.process_time()
        run()
        found.append(time.process_time() - start)
    return min(found)


if __name__ == "__main__":
    main()
