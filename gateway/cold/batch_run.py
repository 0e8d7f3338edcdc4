"""Runs batches: every line a request of the key that made it (I/O).

Results are appended to a file of this taking-up alone; whoever takes a batch
up again reads what all before it have written, and does only the rest. A killed
worker so repeats at most what it had in flight. Called by the jobs.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import orjson

from gateway import batch
from gateway.batch import Line
from gateway.cold.call import Broken, Reply
from gateway.cold.files import content_path, file_body
from gateway.cold.jobs import RENEW_S, Job
from gateway.cold.relay import ColdRuntime, ask
from gateway.documents import Document
from gateway.openai import BadRequest

if TYPE_CHECKING:
    from gateway.store import Store

__all__ = ["BatchRunner"]

_KEEP_S = 30 * 86_400  # as long as OpenAI keeps what a batch wrote
_OK = range(200, 300)
_WAIT = frozenset({429, 503})
"""Not now: our own limits, and replicas that are not up yet."""
_MAX_PAUSE_S = 60.0
_MAX_TRIES = 3
"""Of a line whose upstreams all failed; each try is several of theirs."""


class BatchRunner:
    """What every batch is run with."""

    def __init__(self, runtime: ColdRuntime, store: Store) -> None:
        self._runtime, self._store = runtime, store

    async def run(self, job: Job) -> None:
        """Bring a batch as far as it goes.

        Raises:
            Lost: another worker has it.
        """
        run = _Run(self._runtime, self._store, job)
        lines, errors = await asyncio.to_thread(run.scan)
        if errors:
            now = int(self._runtime.wall())
            found = {"object": "list", "data": errors}
            await job.end(lambda b: batch.moved(b, "failed", now=now, errors=found))
            return
        cancelling = job.body["status"] == "cancelling"
        await run.finish("cancelled" if cancelling else await run.all(lines), lines)


class _Run:
    def __init__(self, runtime: ColdRuntime, store: Store, job: Job) -> None:
        self._runtime, self._store, self._job = runtime, store, job
        self._id = job.document.id
        self._done: dict[str, bool] = {}
        """By custom id, whether it succeeded."""
        self._left: Iterator[Line] = iter(())

    def parts(self) -> list[Path]:
        """List what was written so far, by all who took it up."""
        return sorted((self._store.folder / "parts").glob(f"{self._id}.*"))

    def scan(self) -> tuple[list[Line], list[dict[str, Any]]]:
        for part in self.parts():
            for _, document in _results(part):
                self._done[document["custom_id"]] = _succeeded(document)
        try:
            with self._input().open("rb") as file:
                return batch.scan(file, self._job.body["endpoint"])
        except OSError:
            gone = {"code": "input_gone", "message": "the input file is gone"}
            return [], [gone | {"line": None, "param": "input_file_id"}]

    def _input(self) -> Path:
        return content_path(self._store, self._job.body["input_file_id"])

    def _counts(self, total: int) -> dict[str, int]:
        completed = sum(self._done.values())
        failed = len(self._done) - completed
        return {"total": total, "completed": completed, "failed": failed}

    async def all(self, lines: list[Line]) -> str:
        """Do what is left of the lines; say how it ended."""
        now = int(self._runtime.wall())
        if self._job.body["status"] == "validating":
            await self._job.write(
                lambda b: batch.moved(
                    b, "in_progress", now=now, request_counts=self._counts(len(lines))
                )
            )
        self._left = iter([line for line in lines if line.custom_id not in self._done])
        listener = self._runtime.snapshot.listener
        width = 1 if listener.store is None else listener.store.batch_width
        part = self._store.folder / "parts" / f"{self._id}.{self._job.epoch:012}"
        with self._input().open("rb") as source, part.open("ab", buffering=0) as out:
            askers = asyncio.gather(*(self._ask_on(source, out) for _ in range(width)))
            try:
                return await self._watch(askers, len(lines))
            finally:
                askers.cancel()
                await asyncio.gather(askers, return_exceptions=True)

    async def _watch(self, askers: asyncio.Future[Any], total: int) -> str:
        """Renew, count and look for the end."""
        while True:
            done, _ = await asyncio.wait({askers}, timeout=RENEW_S)
            await self._job.write(
                lambda b: {**b, "request_counts": self._counts(total)}
            )
            if self._job.body["status"] == "cancelling":
                return "cancelled"
            if done:
                await askers
                return "completed"
            if self._runtime.wall() >= self._job.body["expires_at"]:
                return "expired"

    async def _ask_on(self, source: BinaryIO, out: Any) -> None:
        for line in self._left:
            source.seek(line.start)
            document = batch.read_line(source.read(line.stop - line.start))
            result = await self._ask(document)
            # One write in the kernel's hands: a kill leaves it whole or not at all.
            out.write(result)
            self._done[line.custom_id] = _succeeded(orjson.loads(result))

    async def _ask(self, document: dict[str, Any]) -> bytes:
        """Ask until there is an answer worth writing down."""
        custom_id, tries, pause = document["custom_id"], 0, 1.0
        digest = hashlib.sha256(f"{self._id}/{custom_id}".encode()).hexdigest()
        name = f"batch_req_{digest[:32]}"
        while True:
            tries += 1
            try:
                request = batch.request_from(document)
                reply, body = await ask(self._runtime, self._job.document.key, request)
            except BadRequest as bad:
                return batch.failed_line(name, custom_id, bad.code or "bad", str(bad))
            except Broken:
                reply, body = Reply(502, {}), b'"the upstream broke off"'
            status, fields = reply
            limited = status in _WAIT
            if not limited and (status < 500 or tries >= _MAX_TRIES):  # noqa: PLR2004  HTTP's
                request_id = fields.get("x-request-id", "")
                return batch.result_line(
                    name, custom_id, status=status, request_id=request_id, body=body
                )
            asked = fields.get("retry-after", "")
            seconds = float(asked) if limited and asked.isdigit() else pause
            await asyncio.sleep(min(seconds, _MAX_PAUSE_S))
            pause = min(pause * 2, _MAX_PAUSE_S)

    async def finish(self, status: str, lines: list[Line]) -> None:
        """Write the two files, and say that it is over."""
        wall = self._runtime.wall
        now = int(wall())
        await self._job.write(lambda b: {**b, "finalizing_at": now})
        files = await asyncio.to_thread(self._merge, status, lines, now)
        body = {
            "output_file_id": files[0],
            "error_file_id": files[1],
            "request_counts": self._counts(len(lines)),
        }
        await self._job.end(lambda b: batch.moved(b, status, now=int(wall()), **body))
        for part in self.parts():
            part.unlink(missing_ok=True)

    def _merge(
        self, status: str, lines: list[Line], now: int
    ) -> tuple[str | None, str | None]:
        """Gather what every taking-up wrote, one result for each line."""
        seen: set[str] = set()
        names = [
            "file-" + hashlib.sha256(f"{self._id}/{what}".encode()).hexdigest()[:32]
            for what in ("output", "error")
        ]
        paths = [content_path(self._store, name) for name in names]
        with paths[0].open("wb") as output, paths[1].open("wb") as error:
            for part in self.parts():
                for raw, document in _results(part):
                    if document["custom_id"] not in seen:
                        seen.add(document["custom_id"])
                        (output if _succeeded(document) else error).write(raw)
            for line in lines if status in {"expired", "cancelled"} else ():
                if line.custom_id not in seen:
                    said = f"the batch was {status} before this request was answered"
                    code = f"batch_{status}"
                    error.write(batch.failed_line("", line.custom_id, code, said))
        for what, name, path in zip(("output", "error"), names, paths, strict=True):
            self._keep(what, name, path, now)
        output_id, error_id = (
            name if path.exists() else None
            for name, path in zip(names, paths, strict=True)
        )
        return output_id, error_id

    def _keep(self, what: str, name: str, path: Path, now: int) -> None:
        size = path.stat().st_size
        if not size:
            path.unlink()
            return
        expires_at = now + _KEEP_S
        body = file_body(
            name,
            filename=f"{self._id}_{what}.jsonl",
            purpose="batch_output",
            size=size,
            now=now,
            expires_at=expires_at,
        )
        self._store.add(
            Document(
                project=self._job.document.project,
                kind="file",
                id=name,
                body=body,
                created_at=now,
                expires_at=expires_at,
                bytes=size,
            )
        )


def _results(path: Path) -> Iterator[tuple[bytes, dict[str, Any]]]:
    """Read the whole lines of a part; a kill may have left a torn one."""
    with path.open("rb") as file:
        for raw in file:
            if raw.endswith(b"\n"):
                yield raw, orjson.loads(raw)


def _succeeded(document: dict[str, Any]) -> bool:
    response = document["response"]
    return response is not None and response["status_code"] in _OK
