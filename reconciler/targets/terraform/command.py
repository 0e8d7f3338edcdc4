"""Terraform or OpenTofu as a child process (I/O).

The target runs every command through here: an argument list, an environment made
from nothing, a private home, and a time limit. What writes is never interrupted: a
provider that is asked to stop drops the call it is at, and what that call made is then
in no state. It has its own session and writes to a file, so that it outlives whoever
waits for it, and the next run waits for it in turn.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Literal

from reconciler.secrecy import Mask
from reconciler.targets.terraform.summary import PROVIDERS
from schemas.errors import PermanentError, TemporaryError

__all__ = ["PLAN_S", "READ_S", "Command", "Finished", "Line", "orphan"]

READ_S = 300.0
"""State reads and inits: seconds; minutes only where a backend hangs."""
PLAN_S = 900.0
PARALLEL = os.cpu_count() or 1
WRITE_S = 5400.0
"""An EKS cluster takes 10 to 15 minutes, a node group up to 30, and they queue."""
_POLL_S = 0.2
_RUNNING = "run.json"
"""Which process writes; gone once it ended in order."""
_LOG = "run.log"
_ENDINGS = (b'"type":"outputs"', b'"@level":"error"')
"""What Terraform's JSON log ends with, when all went well and when not."""

_children: list[subprocess.Popen[bytes]] = []
"""Those that nobody waits for any more are kept, so that they are reaped."""

Line = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    code: int
    out: bytes = field(repr=False)
    """Standard output; of a write, its whole log."""
    err: str = ""
    """Standard error, with the credentials masked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """How to run the tool on this machine."""

    binary: str
    home: Path
    """Private to these runs; never the home of a person."""
    mirror: Path | None
    """Where the providers are: nothing is ever fetched from a registry."""
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    """What passes from the surroundings: proxies, trust, endpoints."""
    room: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(PARALLEL))
    """For what reads: a provider takes a core and half a GiB while it compares."""

    def prepare(self) -> None:
        """Write the tool's own configuration: one mirror, listed providers."""
        self.home.mkdir(parents=True, exist_ok=True, mode=0o700)
        hosts = json.dumps(sorted(p for p in PROVIDERS if "builtin" not in p))
        mirror = json.dumps(str(self.mirror or self.home / "no-mirror"))
        text = (
            "disable_checkpoint = true\nprovider_installation {\n  filesystem_mirror {\n"
            f"    path    = {mirror}\n    include = {hosts}\n  }}\n}}\n"
        )
        (self.home / "cli.tfrc").write_text(text, encoding="utf-8")

    async def read(
        self,
        arguments: tuple[str, ...],
        *,
        folder: Path,
        secrets: Mapping[str, str],
        workspace: str = "default",
        timeout_s: float = READ_S,
    ) -> Finished:
        """Run what changes nothing outside ``folder``; its output stays in memory."""
        async with self.room:
            process = await asyncio.create_subprocess_exec(
                self._binary(),
                *arguments,
                cwd=folder,
                env=self._environment(secrets, workspace),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
            )
            try:
                async with asyncio.timeout(timeout_s):
                    out, err = await process.communicate()
            except TimeoutError as error:
                raise TemporaryError(
                    f"cannot run terraform {arguments[0]}: "
                    f"no answer in {timeout_s:.0f} s"
                ) from error
            finally:
                if process.returncode is None:
                    process.kill()
                    await process.wait()
        code = process.returncode
        assert code is not None, "it has ended"
        text = Mask(secrets.values())(err.decode(errors="replace"))
        return Finished(code=code, out=out, err=text)

    async def write(
        self,
        arguments: tuple[str, ...],
        *,
        folder: Path,
        secrets: Mapping[str, str],
        workspace: str,
        line: Line,
        timeout_s: float = WRITE_S,
    ) -> Finished:
        """Run what changes the world; ``line`` is told each line of its log.

        Raises:
            TemporaryError: it did not end in time, and goes on alone. So it does when
                this call is cancelled.
        """
        log, running = folder / _LOG, folder / _RUNNING
        process = self._start(arguments, folder, self._environment(secrets, workspace))
        try:
            async with asyncio.timeout(timeout_s):
                code = await _follow(process, log, line)
        except TimeoutError as error:
            raise TemporaryError(
                f"cannot wait for terraform {arguments[0]}: not done in {timeout_s:.0f} s",
                hint="it goes on alone; the next run waits for it",
                retry_after_s=60,
            ) from error
        _children.remove(process)
        if code >= 0:  # not by a signal: it let go of its lock
            running.unlink()
        content = Mask(secrets.values())(log.read_text(errors="replace")).encode()
        return Finished(code=code, out=content)

    def _start(
        self, arguments: tuple[str, ...], folder: Path, environment: dict[str, str]
    ) -> subprocess.Popen[bytes]:
        with _private(folder / _LOG) as out:
            # Not asyncio's: that one kills its child when the loop ends.
            process = subprocess.Popen(
                [self._binary(), *arguments],
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                # Ctrl-C in a terminal, or the end of this process, is not the end
                # of a change to the world.
                start_new_session=True,
            )
        _children.append(process)
        note = {"pid": process.pid, "started": _started(process.pid)}
        (folder / _RUNNING).write_text(json.dumps(note), encoding="utf-8")
        return process

    def _binary(self) -> str:
        if not os.access(self.binary, os.X_OK):
            raise PermanentError(
                f"cannot run Terraform: {self.binary!r} is not there",
                hint="install terraform or tofu, and name it in BUD_TERRAFORM",
            )
        return self.binary

    def _environment(
        self, secrets: Mapping[str, str], workspace: str
    ) -> dict[str, str]:
        return {
            **self.environment,
            **secrets,
            "PATH": "/usr/bin:/bin",
            "HOME": str(self.home),
            "LANG": "C.UTF-8",
            "TMPDIR": str(self.home),
            "CHECKPOINT_DISABLE": "1",
            # Most of a plan is a provider's schema being built and sent: collecting
            # that garbage less often takes a fifth of the CPU off, for 80 MiB.
            "GOGC": "400",
            "TF_CLI_CONFIG_FILE": str(self.home / "cli.tfrc"),
            "TF_IN_AUTOMATION": "1",
            "TF_INPUT": "0",
            **({} if workspace == "default" else {"TF_WORKSPACE": workspace}),
        }


def orphan(folder: Path) -> Literal["none", "running", "dead"]:
    """What became of a write in ``folder`` whose end nobody saw."""
    try:
        noted = json.loads((folder / _RUNNING).read_text(encoding="utf-8"))
        log = (folder / _LOG).read_bytes()
    except (OSError, ValueError):
        return "none"
    if noted["started"] and _started(noted["pid"]) == noted["started"]:
        return "running"
    # One that ended in order said so last, and let go of its lock.
    return "none" if any(end in log for end in _ENDINGS) else "dead"


def _started(pid: int) -> str:
    """When a process started, in ticks since boot: tells it from a later one."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except OSError:
        return ""
    # The command in brackets may hold spaces; field 22 counts from the pid.
    state, *fields = stat.rsplit(")", 1)[1].split()
    return "" if state == "Z" else fields[18]


async def _follow(process: subprocess.Popen[bytes], log: Path, line: Line) -> int:
    with log.open("rb") as lines:
        rest = b""
        while True:
            code = process.poll()
            *whole, rest = (rest + lines.read()).split(b"\n")
            for each in whole:
                line(each.decode(errors="replace"))
            if code is not None:
                return code
            await asyncio.sleep(_POLL_S)


def _private(file: Path) -> IO[bytes]:
    return open(file, "wb", opener=lambda path, flags: os.open(path, flags, 0o600))
