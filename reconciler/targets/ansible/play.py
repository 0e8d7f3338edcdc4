"""Plays, by ansible-runner in a process of its own (I/O).

The target calls it. What comes back are events, one JSON object a line: they become
progress, and the reasons why something failed. A project's folder is made for one run
and holds no secret; it goes with the run.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import orjson

from reconciler.targets.ansible.machines import Shell
from schemas.errors import PermanentError, TemporaryError

__all__ = ["Played", "play"]

_PLAY_S = 7200.0
"""A machine takes minutes, and they go one after the other."""
_LINE_BYTES = 1 << 24  # an event holds what a task returned


@dataclass(frozen=True, slots=True, kw_only=True)
class Played:
    changed: tuple[str, ...]
    """``host: task`` of whatever was changed, or would be."""
    unreachable: Mapping[str, str]
    """Machine -> why."""
    failed: tuple[str, ...]
    """``host: task: why``."""

    def check(self, verb: str, noun: str, gone: Collection[str] = ()) -> None:
        """Raise what stopped it; ``gone`` are machines that may be silent.

        Raises:
            TemporaryError: a machine does not answer.
            PermanentError: a task failed.
        """
        if self.failed:
            raise PermanentError(
                f"cannot {verb} {noun}: {'; '.join(self.failed)[:1000]}",
                hint="what was done stays; the next run goes on from there",
            )
        if silent := sorted(self.unreachable.keys() - {*gone}):
            said = ", ".join(f"{name} ({self.unreachable[name]})" for name in silent)
            raise TemporaryError(
                f"cannot {verb} {noun}: {said} does not answer",
                hint="the next run goes on from there",
                retry_after_s=30,
            )


async def play(
    book: str,
    files: Mapping[str, bytes],
    shell: Shell,
    line: Callable[[str], None],
    *options: str,
) -> Played:
    """Play ``book`` of the project ``files``; ``line`` is told each task.

    Cancelled, it ends Ansible: what a task had done stays, and the next run sees it.

    Raises:
        PermanentError: Ansible did not run at all.
    """
    with TemporaryDirectory(prefix="bud-play-") as private:
        for name, content in files.items():
            file = Path(private, name)
            file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            file.write_bytes(content)
        environment = {
            **shell.environment,
            "ANSIBLE_CONFIG": f"{private}/project/ansible.cfg",
            "ANSIBLE_LOCAL_TEMP": f"{private}/work",
            "ANSIBLE_SSH_ARGS": " ".join(shell.options),
        }
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "ansible_runner", "run", private),
            *("-p", book, "-j", "--omit-env-files"),
            *((f"--cmdline={' '.join(options)}",) if options else ()),
            cwd=private,
            env=environment,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            limit=_LINE_BYTES,
        )
        try:
            async with asyncio.timeout(_PLAY_S):
                events, err = await asyncio.gather(
                    _follow(process, line), _rest(process)
                )
                await process.wait()
        except TimeoutError as error:
            raise TemporaryError(
                f"cannot play {book}: not done in {_PLAY_S:.0f} s"
            ) from error
        finally:
            if process.returncode is None:
                process.terminate()
                await process.wait()
        said = "".join(f.read_text() for f in Path(private).glob("artifacts/*/stdout"))
    return _read(events, said or err, book)


async def _rest(process: asyncio.subprocess.Process) -> str:
    assert process.stderr is not None, "asked for"
    return (await process.stderr.read()).decode(errors="replace")


async def _follow(
    process: asyncio.subprocess.Process, line: Callable[[str], None]
) -> list[Mapping[str, Any]]:
    assert process.stdout is not None, "asked for"
    events = []
    async for raw in process.stdout:
        try:
            event = orjson.loads(raw)
        except orjson.JSONDecodeError:
            continue
        events.append(event)
        data = event.get("event_data") or {}
        if event.get("event") == "runner_on_start":
            line(f"{data['host']}: {data['task']}")
    return events


def _read(events: list[Mapping[str, Any]], said: str, book: str) -> Played:
    if not any(event.get("event") == "playbook_on_stats" for event in events):
        raise PermanentError(
            f"cannot play {book}: {' '.join(said.split())[:600]}",
            hint="is ansible-core installed beside bud?",
        )
    changed = tuple(_changed(events))
    failed = tuple(
        f"{data['host']}: {data['task']}: {_why(data.get('res') or {})}"
        for data in _of(events, "runner_on_failed")
        if not data.get("ignore_errors")
    )
    unreachable = {
        data["host"]: _why(data.get("res") or {})
        for data in _of(events, "runner_on_unreachable")
    }
    return Played(changed=changed, failed=failed, unreachable=unreachable)


def _changed(events: list[Mapping[str, Any]]) -> Iterator[str]:
    for data in _of(events, "runner_on_ok"):
        if (data.get("res") or {}).get("changed"):
            yield f"{data['host']}: {data['task']}"


def _of(events: list[Mapping[str, Any]], name: str) -> Iterator[Mapping[str, Any]]:
    return (e["event_data"] for e in events if e.get("event") == name)


def _why(result: Mapping[str, Any]) -> str:
    said = str(result.get("msg") or result.get("stderr") or "no reason")
    return " ".join(said.split())[:300]
