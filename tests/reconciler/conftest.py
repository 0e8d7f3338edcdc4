"""A checkout to be broken: a small valid spec, and files written over it; SOPS."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent

import pytest

from schemas.errors import SpecError

_BUILT_SOPS = Path(__file__).parents[2] / ".tools" / "bin" / "sops"

FILES = {
    "spec/cluster/here.yaml": """
        apiVersion: foundry.bud/v1
        kind: Cluster
        metadata: {name: here, labels: {where: here}}
        spec:
          provider: local
          nodePools: [{name: cpu, count: 1}]
        """,
    "spec/model/small.yaml": """
        apiVersion: foundry.bud/v1
        kind: Model
        metadata: {name: small}
        spec:
          source: {path: {path: /models/small.gguf}}
          format: gguf
          architecture: google/gemma-3-270m
          precision: q4_k_m
          licence: {id: gemma, accepted: true}
        """,
    "spec/endpoint/chat.yaml": """
        apiVersion: foundry.bud/v1
        kind: Endpoint
        metadata: {name: chat}
        spec:
          model: small
          cluster: here
          engine: {name: llamacpp}
          workload: {inputTokens: 100, outputTokens: 50, concurrency: 2}
          replicas: 1
        """,
    "spec/route/chat.yaml": """
        apiVersion: foundry.bud/v1
        kind: Route
        metadata: {name: chat}
        spec:
          models: [chat]
          targets: [{endpoint: chat}]
        """,
    "environments/dev/environment.yaml": """
        apiVersion: foundry.bud/v1
        kind: Environment
        metadata: {name: dev}
        spec:
          take: [Cluster/*, Model/*, Endpoint/*, Route/*]
        """,
}


class Checkout:
    """A checkout on disk; ``put`` writes one file of it."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def put(self, file: str, content: str | bytes) -> Path:
        path = self.root / file
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, str):
            content = dedent(content).lstrip("\n").encode()
        path.write_bytes(content)
        return path


@pytest.fixture
def empty_checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    """What every environment has, and nothing wrong in it."""
    made = Checkout(tmp_path)
    for file, content in FILES.items():
        made.put(file, content)
    return made


@pytest.fixture
def problems() -> Callable[..., list[str]]:
    """What is wrong, a line each, without the hints."""

    def run(call: Callable[[], object]) -> list[str]:
        with pytest.raises(SpecError) as caught:
            call()
        return [str(p).partition("\n")[0] for p in caught.value.problems]

    return run


@pytest.fixture
def sops(monkeypatch: pytest.MonkeyPatch) -> None:
    """The real binary, where our code finds it."""
    found = os.environ.get("BUD_SOPS") or shutil.which("sops")
    if found is None and os.access(_BUILT_SOPS, os.X_OK):
        found = str(_BUILT_SOPS)
    if found is None and os.environ.get("CI"):
        pytest.fail("sops is not here: run `make tools`")
    if found is None:
        pytest.skip("NOT RUN: sops is not on this machine; `make tools` builds it")
    monkeypatch.setenv("BUD_SOPS", found)
