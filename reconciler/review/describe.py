"""The process that reads pull requests: `python -m reconciler.review.describe` (I/O).

`describer` starts it with an empty environment and a private HOME, and writes one
request a line. The protected branch is read here, which warms what a branch shares
with it; a pull request is read in a forked child that is shut in first (`confine`),
so that what one of them could ever do to this process ends with that child. It
executes nothing of what it reads, and holds no credential.
"""

from __future__ import annotations

import base64
import gc
import os
import select
import signal
import struct
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from reconciler import load as reading
from reconciler.optimizer.shown import decision_of
from reconciler.overlay import look_over, overlay
from reconciler.pins import inputs_of
from reconciler.render import Renderer
from reconciler.resolve import Memo, resolve
from reconciler.review.confine import confine
from reconciler.review.facts import facts_of, guards_of
from reconciler.values import Commit
from schemas.catalog import catalog
from schemas.errors import FoundryError

__all__ = ["Describing"]

HEADER = struct.Struct(">Q")
MAX_ANSWER = 256 << 20
"""Bytes; a plan of 10,000 objects is a tenth of it."""


@dataclass(slots=True)
class Describing:
    """What was read last, so that what did not change is not read again."""

    files: reading.Cache = field(default_factory=dict)
    memo: Memo = field(default_factory=Memo)
    renderer: Renderer = field(default_factory=Renderer)

    def describe(self, root: Path, environment: str, sha: str) -> dict[str, Any]:
        """load, overlay, resolve, render: facts, bytes and digests of one tree."""
        documents = reading.load(root, Commit(sha=sha), cache=self.files)
        desired = overlay(documents, environment)
        resolved = resolve(desired, catalog(), memo=self.memo)
        units = self.renderer.render(resolved, catalog()).units
        return {
            "facts": facts_of(resolved, catalog()),
            "decisions": {
                str(ref): said
                for ref in desired.objects
                if (said := decision_of(desired.lock, ref)) is not None
            },
            "inputs": inputs_of(units, desired.lock),
            "units": [
                {
                    "key": [k.target, k.ref.kind, k.ref.project, k.ref.name],
                    "content": base64.b64encode(unit.content).decode(),
                    "after": [
                        [a.target, a.ref.kind, a.ref.project, a.ref.name]
                        for a in unit.after
                    ],
                }
                for k, unit in sorted(units.items())
            ],
        }

    def guards(self, root: Path, environment: str, sha: str) -> dict[str, Any]:
        """The rules of a tree that may be broken elsewhere: it must be mendable."""
        found = reading.read_tree(root, Commit(sha=sha), cache=self.files)
        desired, _ = look_over(found.documents, environment, broken=found.broken)
        return {"facts": guards_of(desired), "decisions": {}, "inputs": {}, "units": []}


def answer(state: Describing, request: dict[str, Any]) -> bytes:
    """One request's answer, whatever came of it."""
    root = Path(request["root"])
    arguments = root, request["environment"], request["sha"]
    try:
        if request["guards"]:
            data = state.guards(*arguments)
        else:
            data = state.describe(*arguments)
    except FoundryError as error:
        data = {"error": str(error)}
    except (MemoryError, RecursionError) as error:
        data = {"error": f"cannot plan: {type(error).__name__}"}
    return orjson.dumps(data)


def _forked(state: Describing, request: dict[str, Any]) -> bytes:
    """The answer of a child that is shut in before it opens a file."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(reader)
            _answer_shut_in(state, request, writer)
        finally:
            os._exit(0)  # whatever went wrong, this copy must not go on as we do
    os.close(writer)
    try:
        return _collect(reader, request["seconds"])
    finally:
        os.close(reader)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def _answer_shut_in(state: Describing, request: dict[str, Any], writer: int) -> None:
    try:
        confine([Path(request["root"]), *_needed()])
        data = answer(state, request)
    except FoundryError as error:
        data = orjson.dumps({"error": str(error)})
    with os.fdopen(writer, "wb") as out:
        out.write(data)


def _collect(reader: int, seconds: float) -> bytes:
    parts, size, end = [], 0, time.monotonic() + seconds
    while True:
        left = end - time.monotonic()
        if left <= 0 or not select.select([reader], [], [], left)[0]:
            said = f"cannot plan: no answer in {seconds:g} s"
            return orjson.dumps({"error": said})
        part = os.read(reader, 1 << 20)
        size += len(part)
        if size > MAX_ANSWER:
            return orjson.dumps({"error": "cannot plan: too large"})
        if not part:
            break
        parts.append(part)
    whole = b"".join(parts)
    if not whole:
        said = "cannot plan: the planner was ended by its limits of memory or time"
        return orjson.dumps({"error": said})
    return whole


def _needed() -> list[Path]:
    """What a module that is imported late, or a time zone, is read from."""
    tree = Path(__file__).resolve().parents[2]
    folders = [tree / n for n in ("schemas", "renderers", "reconciler", "templates")]
    return [
        *folders,
        *{Path(p) for p in sys.path if p and Path(p) != tree and Path(p).exists()},
    ]


def main() -> None:
    state = Describing()
    catalog()
    for line in sys.stdin.buffer:
        request = orjson.loads(line)
        if request["trusted"]:
            said = answer(state, request)
            gc.freeze()  # what a child shares with us is not copied by its collector
        else:
            said = _forked(state, request)
        sys.stdout.buffer.write(HEADER.pack(len(said)) + said)
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
