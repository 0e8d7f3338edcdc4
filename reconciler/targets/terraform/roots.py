"""Roots: the folders that Terraform runs in, and the plans kept there (I/O).

One folder for each cluster and purpose; the target works with these. Whatever a
folder holds can be made again from a unit and the backend, except that a plan which
somebody approved is applied from here, once.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import orjson

from reconciler import faults
from reconciler.secrecy import Mask
from reconciler.targets.terraform.command import (
    PLAN_S,
    READ_S,
    Command,
    Finished,
    Line,
    orphan,
)
from reconciler.targets.terraform.failures import diagnostics, failure, lock_of
from reconciler.targets.terraform.summary import (
    Summary,
    refuse_code,
    refuse_providers,
    summarise,
    summarise_log,
)
from schemas.errors import TemporaryError

__all__ = ["Root"]

_PLAN = "plan.tfplan"
_PIN = "plan.json"
# Whatever Terraform or OpenTofu would read of a folder: all of it has to be ours.
_READ = (
    "*.tf",
    "*.tf.json",
    "*.tofu",
    "*.tofu.json",
    "*.tfvars",
    "*.tfvars.json",
    "module/*.tf",
    "module/*.tf.json",
    "module/*.tofu",
    "module/*.tofu.json",
)
_CHANGES = 2  # exit code of `plan -detailed-exitcode`


@dataclass(frozen=True, slots=True, kw_only=True)
class Root:
    """The folder of one cluster, for one purpose."""

    command: Command
    folder: Path
    noun: str
    """As messages call the cluster."""
    workspace: str
    secrets: Mapping[str, str] = field(repr=False)

    async def prepare(self, files: Mapping[str, bytes]) -> None:
        """Hold exactly these files, with the providers that they pin.

        Raises:
            PermanentError: a provider is not in the mirror, or not the pinned one; or
                the files would run what nobody allowed.
            TemporaryError: a run that nobody waits for is still at work here.
        """
        if orphan(self.folder) == "running":
            raise TemporaryError(
                f"cannot change {self.noun}: an earlier run is still at work",
                hint="it ends by itself; its log is run.log beside the plan",
                retry_after_s=30,
            )
        # The variables play no part in it, so new values need no new init.
        lasting = {n: f for n, f in files.items() if n != "terraform.tfvars.json"}
        digest = hashlib.sha256(
            b"\0".join(n.encode() + b"\0" + f for n, f in sorted(lasting.items()))
        ).hexdigest()
        mark = self.folder / "initialised"
        strays = {n for g in _READ for n in _below(self.folder, g)} - files.keys()
        if strays or not mark.exists() or mark.read_text() != digest:
            shutil.rmtree(self.folder, ignore_errors=True)
            self.command.prepare()
            refuse_code(files)
            _write(self.folder, files)
            arguments = ["init", "-input=false"]
            if ".terraform.lock.hcl" in files:
                arguments.append("-lockfile=readonly")
            # In the default workspace: others come into being when first written.
            done = await self._read(*arguments, workspace="default")
            if done.code:
                raise failure("prepare", self.noun, done.err)
            providers = self.folder / ".terraform" / "providers"
            refuse_providers(_below(providers, "*/*/*"))
            mark.write_text(digest)
        _write(self.folder, files)

    async def drift(self) -> tuple[str, ...]:
        """What it would take to have the world as the applied unit says."""
        arguments = "-input=false", "-lock=false", "-detailed-exitcode", "-json"
        seen = await self._read("plan", *arguments, timeout_s=PLAN_S)
        if seen.code not in {0, _CHANGES}:
            raise failure("compare", self.noun, self._said(seen))
        said = [orjson.loads(line) for line in seen.out.splitlines()]
        changes = [s["change"] for s in said if s.get("type") == "planned_change"]
        return tuple(sorted(f"{c['action']} {c['resource']['addr']}" for c in changes))

    async def plan(self, pin: str, *, destroy: bool = False) -> Summary:
        """Save a plan under ``pin``: whatever it was decided on.

        Raises:
            PermanentError: the provider refuses the plan.
            TemporaryError: not now.
        """
        how = ("-destroy",) if destroy else ()
        # Without the lock: Terraform refuses a plan whose state moved meanwhile.
        arguments = "-input=false", "-lock=false", "-json", f"-out={_PLAN}", *how
        made = await self._read("plan", *arguments, timeout_s=PLAN_S)
        if made.code:
            raise failure("plan", self.noun, self._said(made))
        summary = summarise_log(made.out)
        if summary is None:
            shown = await self._read("show", "-json", _PLAN)
            if shown.code:
                raise failure("read plan of", self.noun, shown.err)
            summary = summarise(shown.out)
        note = {"pin": pin, "sha256": _sha256(self.folder / _PLAN)}
        (self.folder / _PIN).write_text(json.dumps(note), encoding="utf-8")
        return summary

    def holds(self, pin: str) -> bool:
        """Whether the plan saved under ``pin`` is there, byte for byte."""
        try:
            note = json.loads((self.folder / _PIN).read_text(encoding="utf-8"))
            return bool(note == {"pin": pin, "sha256": _sha256(self.folder / _PLAN)})
        except (OSError, ValueError):
            return False

    async def apply(self, line: Line) -> None:
        """Apply the saved plan. A plan is used once, even one that fails.

        Raises:
            TemporaryError: it goes on from there later.
            PermanentError: it will not.
        """
        left = orphan(self.folder)
        # Terraform would take a plan made on an empty state twice, and make
        # everything a second time (hashicorp/terraform#24078).
        used = self.folder / f"{_PLAN}.used"
        (self.folder / _PLAN).replace(used)
        faults.point("terraform before apply")
        done = await self._apply(used, line)
        lock = lock_of(diagnostics(done.out)) if done.code else None
        if lock is not None and left == "dead" and lock.who.endswith(_host()):
            # Killed with the lock in hand: ours, from here, and that run is gone.
            broken = await self._read("force-unlock", "-force", lock.id)
            if broken.code:
                raise failure("unlock", self.noun, broken.err)
            done = await self._apply(used, line)
        if done.code < 0:
            raise TemporaryError(
                f"cannot apply {self.noun}: terraform was killed by signal {-done.code}",
                hint="the next run goes on from the state that it had written",
            )
        if done.code:
            raise failure("apply", self.noun, diagnostics(done.out))
        faults.point("terraform after apply")

    def _said(self, done: Finished) -> str:
        """Why it failed, without the credentials: a provider may quote them."""
        return Mask(self.secrets.values())(diagnostics(done.out) + done.err)

    async def _apply(self, plan: Path, line: Line) -> Finished:
        return await self.command.write(
            ("apply", "-input=false", "-json", plan.name),
            folder=self.folder,
            secrets=self.secrets,
            workspace=self.workspace,
            line=line,
        )

    async def _read(
        self, *arguments: str, workspace: str = "", timeout_s: float = READ_S
    ) -> Finished:
        return await self.command.read(
            arguments,
            folder=self.folder,
            secrets=self.secrets,
            workspace=workspace or self.workspace,
            timeout_s=timeout_s,
        )


def _host() -> str:
    return f"@{os.uname().nodename}"


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _below(folder: Path, pattern: str) -> set[str]:
    return {file.relative_to(folder).as_posix() for file in folder.glob(pattern)}


def _write(folder: Path, files: Mapping[str, bytes]) -> None:
    for name, content in files.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        file.write_bytes(content)
