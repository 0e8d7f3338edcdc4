"""What a plan changes is really started, measured, and never left behind."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from reconciler.foundry import now
from reconciler.pipeline import Prepared
from reconciler.review import rehearse as module
from reconciler.review.document import Surroundings, document_of
from reconciler.review.facts import facts_of, guards_of
from reconciler.review.rehearse import rehearse
from reconciler.secrecy import Mask
from reconciler.source import Checkout as Source
from reconciler.targets.memory import MemoryTarget
from renderers import plan as terminal
from renderers.comment import comment
from schemas.catalog import catalog
from tests.e2e.team import ENDPOINT, ROUTE
from tests.reconciler.review.repository import Checkout, pipeline_of, store_of

ROOT = Path(__file__).resolve().parents[3]
DEADLINE_S = 60.0


def simulators() -> set[int]:
    """Processes that this test started, or what it started did."""
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                line = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if b"reconciler.engines.simulator" in line and MARK.encode() in line:
                found.add(int(entry.name))
    return found


MARK = f"rehearsed-{os.getpid()}"


def repository(folder: Path, text: str) -> Checkout:
    """One endpoint that can be found among all processes, and its route."""
    work = Checkout(folder / "checkout")
    work.begin()
    for kind, content in (("endpoint", text), ("route", ROUTE)):
        (work.root / f"spec/{kind}/one.yaml").unlink()
        work.write(f"spec/{kind}/{MARK}.yaml", content)
    work.commit("Begin")
    return work


@asynccontextmanager
async def prepared(folder: Path, text: str) -> AsyncIterator[Prepared]:
    work = repository(folder, text)
    with store_of(folder, now) as store:
        targets = {"local": MemoryTarget("local"), "gateway": MemoryTarget("gateway")}
        pipeline = pipeline_of(store, now, Mask(), targets)
        yield await pipeline.prepare(await Source(work.root).newest())


def on(engine: str) -> str:
    return ENDPOINT.replace("{name: simulator, rehearses: vllm}", engine)


async def rows_of(folder: Path, text: str, **options: float) -> list[dict[str, Any]]:
    async with prepared(folder, text) as made:
        return await rehearse(made, **options)


async def test_the_measured_table_stands_beside_the_predicted_one(
    tmp_path: Path,
) -> None:
    [row] = await rows_of(tmp_path, on("{name: vllm}"))

    said, met = row["predicted"], row["measured"]
    assert (row["failed"], row["atOnce"], row["tokens"]) == ("", 8, 16)
    assert met["answers"] == 16
    # It plays what was predicted; a busy machine is only ever slower.
    assert said["ttftMs"] * 0.9 < met["ttftMs"] <= met["ttftP95Ms"] * 1.01
    assert said["tpotMs"] * 0.9 < met["tpotMs"]
    assert 0 < met["tokensPerS"] < said["tokensPerS"] * 1.1
    assert simulators() == set()


@pytest.mark.parametrize(
    ("argument", "reason"),
    [
        ("start-fails: not today", "it ended with code"),
        ("crash-after: 3", "it ended"),
        ("error-after: 3", "it answered 500: .*simulated failure"),
        ("hang-after: 3", "no end in 5 s"),
    ],
)
async def test_what_fails_in_a_rehearsal_says_how(
    tmp_path: Path, argument: str, reason: str
) -> None:
    engine = f"{{name: simulator, rehearses: vllm, args: {{{argument}}}}}"
    limit = {"limit_s": 5.0} if "hang" in argument else {}
    [row] = await rows_of(tmp_path, on(engine), **limit)

    assert re.search(reason, row["failed"])
    assert "measured" not in row
    assert simulators() == set()


async def test_an_interrupt_leaves_nothing_behind(tmp_path: Path) -> None:
    engine = "{name: simulator, rehearses: vllm, args: {hang-after: 1}}"
    task = asyncio.ensure_future(rows_of(tmp_path, on(engine)))
    end = time.monotonic() + DEADLINE_S
    while not simulators():
        assert time.monotonic() < end
        await asyncio.sleep(0.02)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert simulators() == set()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_whatever_ends_the_command_ends_what_it_started(
    tmp_path: Path, number: signal.Signals
) -> None:
    engine = "{name: simulator, rehearses: vllm, args: {hang-after: 1}}"
    work = repository(tmp_path, on(engine))
    bud = subprocess.Popen(
        [sys.executable, ROOT / "bud_foundry.py", "--repo", work.root, "plan", "--rehearse"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    until(simulators)
    bud.send_signal(number)

    assert bud.wait(DEADLINE_S) != 0
    until(lambda: not simulators())


def until(true: Any) -> None:
    end = time.monotonic() + DEADLINE_S
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


async def test_every_form_of_the_document_has_the_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_ANSWER_S", 0.0)
    monkeypatch.setattr(module, "AT_ONCE", 2)
    bad = {"object": "Endpoint/default/`bad`", "failed": "it ended | @all"}
    async with prepared(tmp_path, on("{name: vllm}")) as made:
        facts = facts_of(made.resolved, catalog())
        around = Surroundings(now=now(), owned={})
        document = document_of(
            made.plan, made.observed, head=facts, base=guards_of(made.desired), around=around
        )  # fmt: skip
        document["rehearsal"] = [*await rehearse(made), bad]
        said, text = comment(document), terminal.text(document)

    for form in (said, text):
        assert "whose timing follows the prediction" in form
        assert "2 of 8" in form
        assert "8 of 16" in form
    assert "- failed: `Endpoint/default/'bad'`: `it ended \N{BOX DRAWINGS LIGHT VERTICAL} @all`" in said  # fmt: skip
