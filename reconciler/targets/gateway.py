"""The gateway as a target: one TOML file, one table of it for each object (I/O).

The file is written whole or not at all (temp, fsync, rename), with a comment line
before each table that says whose it is. Observing reads that file and nothing
else, so a table that somebody edited by hand is drift of that one object. The
gateway picks the file up by itself; whether it has is asked of the gateway.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import tomllib
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from secrets import token_hex
from typing import NamedTuple

from reconciler import faults
from reconciler.targets.base import Progress
from reconciler.targets.precondition import check_precondition
from reconciler.values import Change, Health, Key, Live, Presence
from schemas.errors import PermanentError, TemporaryError
from schemas.objects import Ref

__all__ = ["Ask", "GatewayTarget", "InForce"]

_HEADER = "# Written by bud from the spec; a change made here is undone.\n"
_MARK = re.compile(r"^#: (\w+/[a-z0-9-]+/[a-z0-9-]+) uid=([0-9a-f]{16})$", re.MULTILINE)
_LOAD_TIMEOUT_S = 10.0
_POLL_S = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class _Table:
    uid: str
    text: str

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.text.encode()).hexdigest()


class InForce(NamedTuple):
    """What the running gateway says of itself."""

    digest: str
    """SHA-256 of the config file it serves from, hex."""
    error: str
    """Why it did not take a newer one."""


Ask = Callable[[], Awaitable[InForce | None]]
"""Asks the gateway; None when none runs."""

Keep = Callable[[asyncio.Event], Awaitable[None]]


class GatewayTarget:
    """``file`` is the gateway's config; the folder it is in must exist."""

    name = "gateway"

    def __init__(self, file: Path, *, ask: Ask, keep: Keep | None = None) -> None:
        """``keep`` keeps a gateway running where this machine runs it."""
        self._file, self._ask, self._keep = file, ask, keep
        self._writing = asyncio.Lock()

    async def observe(self, keys: Collection[Key]) -> Mapping[Key, Live]:
        try:
            tables = self._read()
        except OSError as error:
            reason = f"cannot read {self._file}: {error.strerror}"
            return {
                key: Live(key=key, presence=Presence.UNKNOWN, detail=reason)
                for key in keys
            }
        health, detail = await self._health()
        found = {*keys, *(Key(self.name, ref) for ref in tables)}
        return {key: _live(key, tables, health, detail) for key in sorted(found)}

    async def dry_run(self, change: Change) -> None:
        _check(change, self._tables())

    async def apply(self, change: Change, progress: Progress) -> Live:
        async with self._writing:
            tables = self._tables()
            live = _check(change, tables)
            assert change.unit is not None, "checked by _check"
            if live.digest != change.unit.digest:
                text = change.unit.content.decode()
                # Decided before the write, so that a kill between the two leaves
                # an object that the next run recognises by its digest.
                uid = live.uid or token_hex(8)
                self._write(tables | {change.key.ref: _Table(uid=uid, text=text)})
        progress(change.key, "waiting for the gateway to take it")
        await self._taken()
        return await self.health(change.key)

    async def delete(self, change: Change, progress: Progress) -> None:
        async with self._writing:
            tables = self._tables()
            _check(change, tables)
            if tables.pop(change.key.ref, None) is not None:
                self._write(tables)
        progress(change.key, "waiting for the gateway to let go")
        await self._taken()

    async def supervise(self, stop: asyncio.Event) -> None:
        if self._keep is not None:
            await self._keep(stop)

    async def health(self, key: Key) -> Live:
        return (await self.observe([key]))[key]

    def _tables(self) -> dict[Ref, _Table]:
        try:
            return self._read()
        except OSError as error:
            raise TemporaryError(
                f"cannot read {self._file}: {error.strerror}", retry_after_s=5
            ) from error

    def _read(self) -> dict[Ref, _Table]:
        try:
            text = self._file.read_text(encoding="utf-8")
        except FileNotFoundError:
            return {}
        marks = [*_MARK.finditer(text)]
        ends = [mark.start() for mark in marks[1:]] + [len(text)]
        return {
            Ref.parse(mark[1]): _Table(uid=mark[2], text=text[mark.end() + 1 : end])
            for mark, end in zip(marks, ends)  # noqa: B905  no marks, one end
        }

    def _write(self, tables: Mapping[Ref, _Table]) -> None:
        text = _HEADER + "".join(
            f"#: {ref} uid={table.uid}\n{table.text}"
            for ref, table in sorted(tables.items())
        )
        # Between two steps of a plan the file may name what a later step adds:
        # whether the whole is sound is the gateway's to say, and it keeps the old.
        faults.point("gateway before write")
        part = self._file.with_suffix(".part")
        with part.open("w", encoding="utf-8") as out:
            out.write(text)
            out.flush()
            os.fsync(out.fileno())
        faults.point("gateway before rename")
        part.replace(self._file)
        folder = os.open(self._file.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
        faults.point("gateway after rename")

    async def _taken(self) -> None:
        """Wait until the running gateway serves from the file as it is now.

        Raises:
            PermanentError: the gateway refused it.
            TemporaryError: the gateway did not take it in time.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _LOAD_TIMEOUT_S
        while True:
            running = await self._ask()
            if running is None or running.digest == self._digest():
                return
            if loop.time() > deadline:
                break
            await asyncio.sleep(_POLL_S)
        if running.error:
            raise PermanentError(f"cannot load gateway config: {running.error}")
        raise TemporaryError(
            f"cannot load gateway config: the gateway did not in {_LOAD_TIMEOUT_S:.0f} s",
            hint="see its log",
        )

    async def _health(self) -> tuple[Health, str]:
        running = await self._ask()
        if running is None:
            return Health.APPLIED, "the gateway does not run"
        if running.digest != self._digest():
            return Health.APPLIED, "the gateway has not taken the newest config"
        return Health.SERVABLE, ""

    def _digest(self) -> str:
        content = self._file.read_bytes() if self._file.exists() else b""
        return hashlib.sha256(content).hexdigest()


def _check(change: Change, tables: Mapping[Ref, _Table]) -> Live:
    """Refuse what must not be written; return what lives there now."""
    live = _live(change.key, tables, Health.UNKNOWN, "")
    check_precondition(change, live)
    if change.unit is not None:
        try:
            text = change.unit.content.decode()
            tomllib.loads(text)
        except ValueError as error:  # neither UTF-8 nor TOML
            raise PermanentError(f"cannot write {change.key}: {error}") from error
        if _MARK.search(text):
            raise PermanentError(f"cannot write {change.key}: it holds a mark of ours")
    return live


def _live(key: Key, tables: Mapping[Ref, _Table], health: Health, detail: str) -> Live:
    table = tables.get(key.ref)
    if table is None:
        return Live(key=key, presence=Presence.ABSENT)
    return Live(
        key=key,
        presence=Presence.PRESENT,
        digest=table.digest,
        uid=table.uid,
        version=table.digest[:16],
        health=health,
        detail=detail,
    )
