"""The daemon's side of the process that reads pull requests (I/O).

`planner` asks it for facts and rendered bytes of a tree. It starts the process with
nothing of ours: an empty environment, a HOME of its own, no descriptor but its
pipes; and another one when that ends.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import structlog

from reconciler.review.describe import HEADER, MAX_ANSWER
from reconciler.values import Key, Rendered, Unit
from schemas.errors import PermanentError, TemporaryError
from schemas.objects import Ref

__all__ = ["Described", "Describer"]

_log = structlog.get_logger("review")
_SECONDS = 90.0
_SAID_BYTES = 1 << 16
_TREE = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, slots=True, kw_only=True)
class Described:
    """What one tree says, without an object of it."""

    facts: Mapping[str, Any]
    inputs: Mapping[str, str]
    decisions: Mapping[str, Mapping[str, object]]
    """Object -> what its lock says was decided."""
    rendered: Rendered


class Describer:
    """One process, one question at a time; ``close`` it at the end."""

    def __init__(self, mask: Callable[[str], str] = str) -> None:
        """``mask`` takes secrets out of what the process says on its stderr."""
        self._mask = mask
        self._listening: asyncio.Task[None] | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._home: str | None = None
        self._turn = asyncio.Lock()

    @property
    def pid(self) -> int:
        """Of the process; 0 while none runs."""
        return self._process.pid if self._process is not None else 0

    async def describe(
        self, root: Path, environment: str, sha: str, *, trusted: bool
    ) -> Described:
        """Describe a tree; one that is not trusted is read by a child that is shut in.

        Raises:
            PermanentError: what is wrong with it, in words for its author.
        """
        try:
            return await self._ask(root, environment, sha, trusted=trusted)
        except PermanentError:
            if not trusted:
                raise
            # A broken protected branch still has its rules, and must be mendable.
            return await self._ask(root, environment, sha, trusted=True, guards=True)

    async def close(self) -> None:
        async with self._turn:
            await self._end()

    async def _ask(
        self,
        root: Path,
        environment: str,
        sha: str,
        *,
        trusted: bool,
        guards: bool = False,
    ) -> Described:
        request = {
            "root": str(root.resolve()),
            "environment": environment,
            "sha": sha,
            "trusted": trusted,
            "guards": guards,
            "seconds": _SECONDS,
        }
        async with self._turn:
            try:
                async with asyncio.timeout(_SECONDS + 10):
                    data = await self._exchange(orjson.dumps(request) + b"\n")
            except BaseException as error:
                await self._end()
                if isinstance(
                    error, TimeoutError | OSError | asyncio.IncompleteReadError
                ):
                    raise TemporaryError(
                        f"cannot plan: the planning process ended: {type(error).__name__}"
                    ) from error
                raise
        if "error" in data:
            raise PermanentError(data["error"])
        return _read(data)

    async def _exchange(self, line: bytes) -> dict[str, Any]:
        process = self._process or await self._start()
        assert process.stdin is not None, "it was started with pipes"
        assert process.stdout is not None, "it was started with pipes"
        process.stdin.write(line)
        await process.stdin.drain()
        size = HEADER.unpack(await process.stdout.readexactly(HEADER.size))[0]
        if size > MAX_ANSWER:
            raise OSError("an answer beyond its limit")
        answer: dict[str, Any] = orjson.loads(await process.stdout.readexactly(size))
        return answer

    async def _start(self) -> asyncio.subprocess.Process:
        self._home = await asyncio.to_thread(tempfile.mkdtemp, prefix="bud-review-")
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-I", "-c"),
            f"import sys; sys.path.insert(0, {str(_TREE)!r}); "
            "from reconciler.review.describe import main; main()",
            cwd=self._home,
            env={"HOME": self._home, "PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"},
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            limit=1 << 20,
        )
        self._listening = asyncio.ensure_future(self._listen(self._process.stderr))
        return self._process

    async def _listen(self, said: asyncio.StreamReader | None) -> None:
        """What goes wrong in there may quote what was read."""
        assert said is not None, "it was started with pipes"
        while part := await said.read(_SAID_BYTES):
            _log.warning("planner", said=self._mask(part.decode(errors="replace")))

    async def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()
        if self._listening is not None:
            await self._listening  # ends with the pipe
            self._listening = None
        if self._home is not None:
            await asyncio.to_thread(shutil.rmtree, self._home, ignore_errors=True)
            self._home = None


def _read(data: Mapping[str, Any]) -> Described:
    units: dict[Key, Unit] = {}
    for item in data["units"]:
        content = base64.b64decode(item["content"])
        key = _key(item["key"])
        units[key] = Unit(
            key=key,
            content=content,
            digest=hashlib.sha256(content).hexdigest(),
            after=tuple(map(_key, item["after"])),
        )
    return Described(
        facts=data["facts"],
        inputs=data["inputs"],
        decisions=data["decisions"],
        rendered=Rendered(units=units),
    )


def _key(parts: list[str]) -> Key:
    target, kind, project, name = parts
    return Key(target, Ref(kind, project, name))
