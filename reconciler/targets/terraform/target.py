"""Clusters in a cloud as a target: Terraform states, and what they stand for (I/O).

The state of a cluster says itself which unit made it: ``bud_unit`` is made when
everything else of it is there, ``bud_intent`` is written when it is begun. So whatever
machine looks next, and whatever was killed before, it sees the same: absent, whole,
half made, or strayed. Applying runs a saved plan and nothing else.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import orjson

from reconciler.targets.base import Progress
from reconciler.targets.looks import Looks
from reconciler.targets.precondition import check_precondition
from reconciler.targets.terraform.backend import Backend
from reconciler.targets.terraform.command import PLAN_S, READ_S
from reconciler.targets.terraform.credentials import parse_credentials
from reconciler.targets.terraform.kubeconfig import kubeconfig
from reconciler.targets.terraform.roots import Root
from reconciler.targets.terraform.state import State
from reconciler.targets.terraform.summary import Summary
from reconciler.targets.terraform.tokens import Tokens
from reconciler.targets.terraform.view import (
    live_of,
    pin_of,
    ref_of,
    tell,
    unknown,
    workspace_of,
)
from reconciler.values import Action, Change, Key, Live, Presence, Preview
from renderers.terraform import (
    MODULE,
    UNIT,
    Module,
    our_module,
    read_manifest,
    root,
)
from schemas.cluster import Cluster
from schemas.errors import FoundryError, PermanentError, TemporaryError
from schemas.objects import Credential
from schemas.terraform import ModuleManifest

__all__ = ["TerraformTarget"]


@dataclass(frozen=True, slots=True)
class _Planned:
    """A plan that was saved, and what it was decided on."""

    pin: str
    at: float
    summary: Summary


@dataclass(slots=True)
class TerraformTarget:
    """``credentials`` turns a reference into its text; ``modules`` finds a module."""

    backend: Backend
    credentials: Callable[[Credential], str]
    modules: Callable[[str], Module] = our_module
    looks: Looks = field(default_factory=Looks)
    name: str = "terraform"
    _plans: dict[str, _Planned] = field(default_factory=dict)
    _tokens: Tokens = field(default_factory=Tokens)
    _locks: dict[str, asyncio.Lock] = field(default_factory=dict)

    @property
    def observe_s(self) -> float:
        """A comparison is a plan of its own; while watched, no look waits for one."""
        return READ_S if self.looks.watched else READ_S + PLAN_S

    async def observe(self, keys: Collection[Key]) -> Mapping[Key, Live]:
        try:
            found = await self.backend.workspaces()
        except FoundryError as error:
            return {key: unknown(key, error) for key in keys}
        ours = {Key(self.name, ref) for name in found if (ref := ref_of(name))}
        asked = sorted({*keys, *ours})
        lives = await asyncio.gather(*(self._observe(key, found) for key in asked))
        return {
            live.key: live
            for live in lives
            if live.key in keys or live.presence is not Presence.ABSENT
        }

    async def health(self, key: Key) -> Live:
        return (await self.observe([key]))[key]

    async def dry_run(self, change: Change) -> None:
        """Save the plan that ``apply`` will run, and refuse what it must not do."""
        await self.summary(change)

    async def preview(self, change: Change) -> Preview:
        return (await self.summary(change)).preview

    async def summary(self, change: Change) -> Summary:
        """Save the plan of ``change``, and say what it would do to which resources.

        Raises:
            PermanentError: the cluster would not survive it, a quota is too small,
                or its policy is to be retained.
            TemporaryError: the cluster moved, or the cloud does not answer.
        """
        async with self._alone(change.key):
            live, state = await self._check(change)
            if live.presence is Presence.ABSENT and change.action is Action.DELETE:
                return Summary(changes=())
            return await self._planned(change, live, state)

    async def apply(self, change: Change, progress: Progress) -> Live:
        async with self._alone(change.key):
            live, state = await self._check(change)
            assert change.unit is not None, "checked by _check"
            if live.digest == change.unit.digest:
                return live
            await self._run(change, live, state, progress)
            state = await self.backend.state(workspace_of(change.key))
            if state is not None and state.whole:
                # It was compared when it was planned, and written since.
                self.looks.note(workspace_of(change.key), str(state.serial), ())
            return live_of(change.key, state, ())

    async def delete(self, change: Change, progress: Progress) -> None:
        async with self._alone(change.key):
            live, state = await self._check(change)
            if live.presence is Presence.PRESENT:
                await self._run(change, live, state, progress)
                state = await self.backend.state(workspace_of(change.key))
                if state is not None and state.resources:
                    raise TemporaryError(
                        f"cannot delete {change.key}: {state.resources} resources stay",
                        hint="the next run goes on from there",
                    )
            await self._forget(change.key)

    async def outputs(self, key: Key) -> Mapping[str, object]:
        """What the module says of a cluster: its address, pools and identities."""
        state = await self.backend.state(workspace_of(key))
        return {} if state is None else state.outputs

    async def kubeconfig(self, cluster: Cluster) -> Mapping[str, Any] | None:
        """Where ``cluster`` answers, without a key; None while it does not."""
        key = Key(self.name, cluster.ref)
        if workspace_of(key) not in await self.backend.workspaces():
            return None
        said = (await self.outputs(key)).get("cluster")
        return kubeconfig(said) if isinstance(said, dict) else None

    async def token(self, cluster: Cluster) -> str:
        """Who we are there, for the next minutes."""
        secrets = await asyncio.to_thread(self._secrets, cluster.spec.credentials)
        return await self._tokens.get(
            cluster, secrets, self.backend.command.environment
        )

    async def watch(self, moved: Callable[[], None], stop: asyncio.Event) -> None:
        """Compare clusters with their cloud, so that no look has to wait for that."""
        await self.looks.watch(self._compare_all, moved, stop)

    # Looking.

    async def _compare_all(self) -> None:
        found = await self.backend.workspaces()
        keys = [Key(self.name, ref) for name in found if (ref := ref_of(name))]
        await asyncio.gather(*(self._observe(key, found, again=True) for key in keys))

    async def _observe(
        self, key: Key, found: frozenset[str], *, again: bool = False
    ) -> Live:
        if workspace_of(key) not in found:
            return Live(key=key, presence=Presence.ABSENT)
        try:
            return (await self._look(key, again=again))[0]
        except FoundryError as error:
            return unknown(key, error)

    async def _look(
        self, key: Key, *, again: bool = False
    ) -> tuple[Live, State | None]:
        state = await self.backend.state(workspace_of(key))
        drift: tuple[str, ...] = ()
        if state and state.whole:
            drift = await self.looks.drift(
                workspace_of(key),
                str(state.serial),
                partial(self._compare, key, state),
                again=again,
            )
        return live_of(key, state, drift), state

    async def _compare(self, key: Key, state: State) -> tuple[str, ...]:
        manifest = read_manifest(state.applied)
        module = self.modules(manifest.module)
        if module.digest != manifest.module_digest:
            return ()  # another version made it; its unit differs from ours anyway
        made = await self._root(key, "look", state.applied, module)
        return await made.drift()

    # Changing.

    async def _check(self, change: Change) -> tuple[Live, State | None]:
        """Refuse what must not be written; return what lives there now."""
        if change.unit is not None:
            self._module(change.key, change.unit.content)
        live, state = Live(key=change.key, presence=Presence.ABSENT), None
        try:
            if workspace_of(change.key) in await self.backend.workspaces():
                live, state = await self._look(change.key)
        except FoundryError as error:
            live = unknown(change.key, error)
        check_precondition(change, live)
        return live, state

    async def _plan(self, change: Change, live: Live, state: State | None) -> Summary:
        made, manifest = await self._open(change, state)
        destroy = change.action is Action.DELETE
        if destroy and manifest.deletion_policy == "retain":
            raise PermanentError(
                f"cannot delete {change.key}: its deletionPolicy is retain",
                hint="set deletionPolicy: delete and apply that; then remove the file",
            )
        if live.presence is Presence.ABSENT:
            # What an emptied state left would give the new cluster the old UID.
            await self._forget_state(change.key)
        summary = await made.plan(pin_of(change, live), destroy=destroy)
        if state is None or not state.applied:
            _refuse_losses(change.key, manifest, summary)
        if summary.fatal and manifest.deletion_policy == "retain":
            lost = ", ".join(map(str, summary.fatal))
            raise PermanentError(
                f"cannot change {change.key}: the cluster would not survive it: {lost}",
                hint="take the change back, or set deletionPolicy: delete first",
            )
        return summary

    async def _planned(
        self, change: Change, live: Live, state: State | None
    ) -> Summary:
        """The plan of ``change``, made a moment ago or now."""
        workspace, now = workspace_of(change.key), asyncio.get_running_loop().time()
        pin = pin_of(change, live)
        known = self._plans.get(workspace)
        if (
            known is not None
            and known.pin == pin
            and now < known.at + self.looks.every_s
        ):
            return known.summary
        summary = await self._plan(change, live, state)
        self._plans[workspace] = _Planned(pin, now, summary)
        return summary

    async def _run(
        self, change: Change, live: Live, state: State | None, progress: Progress
    ) -> None:
        made, _ = await self._open(change, state)
        if not made.holds(pin_of(change, live)):
            progress(change.key, "planning")
            summary = await self._plan(change, live, state)
            progress(change.key, f"applying: {summary}")
        self.looks.forget(made.workspace)
        self._plans.pop(made.workspace, None)
        await made.apply(lambda line: tell(change.key, line, progress))

    async def _open(
        self, change: Change, state: State | None
    ) -> tuple[Root, ModuleManifest]:
        content = change.unit.content if change.unit else b""
        if not content and state is not None:
            content = state.intended or state.applied or self._left(change.key)
        if not content:
            raise PermanentError(
                f"cannot delete {change.key}: its state does not say what made it",
                hint="declare it again and apply that; then remove it",
            )
        module, manifest = self._module(change.key, content), read_manifest(content)
        held = state.addresses if state is not None else frozenset()
        adopt = {a for a in manifest.adopt if f"{MODULE}{a}" not in held}
        if change.action is Action.DELETE:
            adopt.clear()  # what is not ours yet is not ours to destroy
        made = await self._root(change.key, "change", content, module, adopt)
        return made, manifest

    def _left(self, key: Key) -> bytes:
        """The unit that this machine worked on last: a stopped destroy has taken
        the state's own word for it with it."""
        folder = self.backend.folder.parent / workspace_of(key) / "change"
        try:
            variables = orjson.loads((folder / "terraform.tfvars.json").read_bytes())
            return str(variables[UNIT]).encode()
        except (OSError, ValueError, KeyError):
            return b""

    async def _root(
        self,
        key: Key,
        purpose: str,
        content: bytes,
        module: Module,
        adopt: Collection[str] = (),
    ) -> Root:
        manifest = read_manifest(content)
        secrets = await asyncio.to_thread(self._secrets, manifest.credentials)
        workspace = workspace_of(key)
        made = Root(
            command=self.backend.command,
            folder=self.backend.folder.parent / workspace / purpose,
            noun=str(key.ref),
            workspace=workspace,
            secrets=secrets,
        )
        await made.prepare(root(content, module, dict(self.backend.settings), adopt))
        return made

    def _secrets(self, credentials: Credential | None) -> dict[str, str]:
        if credentials is None:
            return dict(self.backend.secrets)
        # Its own and no others: a cluster never acts with what bud itself holds.
        return parse_credentials(self.credentials(credentials))

    def _module(self, key: Key, content: bytes) -> Module:
        """The module that a unit means, which only this version of bud may know."""
        manifest = read_manifest(content)
        module = self.modules(manifest.module)
        if unknown := sorted(manifest.variables.keys() - module.variables):
            raise PermanentError(
                f"cannot apply {key}: module {module.name} takes no {unknown[0]!r}"
            )
        if module.digest != manifest.module_digest:
            raise PermanentError(
                f"cannot apply {key}: module {module.name} is {module.digest[:12]} "
                f"here, and the unit was rendered with {manifest.module_digest[:12]}",
                hint="render it with the version of bud that applies it",
            )
        return module

    async def _forget(self, key: Key) -> None:
        await self._forget_state(key)
        folder = self.backend.folder.parent / workspace_of(key)
        await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)

    async def _forget_state(self, key: Key) -> None:
        workspace = workspace_of(key)
        if workspace in await self.backend.workspaces():
            await self.backend.remove(workspace)

    @asynccontextmanager
    async def _alone(self, key: Key) -> AsyncIterator[None]:
        async with self._locks.setdefault(workspace_of(key), asyncio.Lock()):
            yield


def _refuse_losses(key: Key, manifest: ModuleManifest, summary: Summary) -> None:
    """An adoption takes things as they are: it loses none of them."""
    adopted = {f"{MODULE}{address}" for address in manifest.adopt}
    lost = [
        str(change)
        for change in summary.changes
        if change.address in adopted and change.action in {"delete", "replace"}
    ]
    if lost:
        raise PermanentError(
            f"cannot adopt {key}: {'; '.join(lost)}",
            hint="write these attributes as they are, or leave the resource out of adopt",
        )
