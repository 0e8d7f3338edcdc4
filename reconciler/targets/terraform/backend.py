"""States: what the backend keeps of every cluster (I/O).

The target asks here what exists. Nothing of a state is ever written to this
machine's disk: it is pulled into memory, and it can hold secrets.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from reconciler.targets.terraform.command import Command, Finished
from reconciler.targets.terraform.failures import failure
from reconciler.targets.terraform.state import State, read_state

__all__ = ["Backend"]

# Two columns for the mark of the selected one; what else is printed starts before.
_LISTED = re.compile(r"^[* ] (\S+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Backend:
    """One backend, as Terraform's ``backend`` block names it: local, s3 ..."""

    command: Command
    folder: Path
    """Where its own root lies: a backend block and nothing else."""
    settings: Mapping[str, Any]
    """Its arguments; a credential among them is a profile or a file, never a value."""
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)
    """What bud itself holds: for states, and for clusters that name nothing else."""

    _opening: asyncio.Lock = field(default_factory=asyncio.Lock, repr=False)

    async def workspaces(self) -> frozenset[str]:
        """The names of all states there are.

        Raises:
            TemporaryError, PermanentError: the backend does not say.
        """
        listed = await self._ask("list", "states", "workspace", "list")
        names = _LISTED.findall(listed.out.decode())
        return frozenset(names) - {"default"}

    async def state(self, workspace: str) -> State | None:
        """Read one state into memory.

        Raises:
            TemporaryError, PermanentError: it cannot be read.
        """
        noun = f"state of {workspace}"
        pulled = await self._ask("read", noun, "state", "pull", workspace=workspace)
        return read_state(pulled.out)

    async def remove(self, workspace: str) -> None:
        """Remove a state that stands for nothing any more; Terraform checks that."""
        noun = f"state of {workspace}"
        await self._ask("remove", noun, "workspace", "delete", workspace)

    async def _ask(
        self, verb: str, noun: str, *arguments: str, workspace: str = "default"
    ) -> Finished:
        await self._initialise()
        done = await self.command.read(
            arguments, folder=self.folder, secrets=self.secrets, workspace=workspace
        )
        if done.code:
            raise failure(verb, noun, done.err)
        return done

    async def _initialise(self) -> None:
        async with self._opening:  # two at once lock each other out
            await self._open()

    async def _open(self) -> None:
        text = orjson.dumps({"terraform": {"backend": self.settings}})
        digest = hashlib.sha256(text).hexdigest()
        mark = self.folder / "initialised"
        if mark.exists() and mark.read_text() == digest:
            return
        self.command.prepare()
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        (self.folder / "main.tf.json").write_bytes(text)
        done = await self.command.read(
            ("init", "-input=false", "-reconfigure"),
            folder=self.folder,
            secrets=self.secrets,
        )
        if done.code:
            raise failure("open", "Terraform backend", done.err)
        mark.write_text(digest)
