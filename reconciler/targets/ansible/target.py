"""Clusters of one's own machines as a target: plays, and what machines hold (I/O).

The machines say themselves which unit was begun on them and whether all of it is
there, so whatever bud looks next sees the same. A play is idempotent: one that was
killed is played again, and one in check mode says what strayed.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from secrets import token_hex
from typing import Any
from uuid import uuid4

import yaml

from reconciler import faults
from reconciler.secrets import Vault
from reconciler.targets.ansible.machines import Answer, Shell, shell
from reconciler.targets.ansible.play import Played, play
from reconciler.targets.ansible.view import Records, live_of, of_cluster, records_of
from reconciler.targets.base import Progress
from reconciler.targets.looks import Looks
from reconciler.targets.precondition import check_precondition
from reconciler.values import Action, Change, Health, Key, Live, Presence, Preview
from renderers.ansible import difference, project, read_manifest, roles_digest
from schemas.ansible import Machine, MachinesManifest
from schemas.cluster import Cluster
from schemas.errors import FoundryError, PermanentError, TemporaryError
from schemas.objects import Credential, Ref

__all__ = ["AnsibleTarget", "open_ansible"]

_RECORD = ("cat", "/var/lib/bud/cluster.json")
_OBSERVE_S = 900.0
_RELEASES = {
    "k3s": "https://github.com/k3s-io/k3s/releases/download",
    "rke2": "https://github.com/rancher/rke2/releases/download",
}


def open_ansible(
    root: Path,
    environment: Mapping[str, str],
    credentials: Callable[[Credential], str],
    vault: Vault,
) -> AnsibleTarget:
    """``root`` is the folder of the foundry's state; nothing is run yet."""
    return AnsibleTarget(
        folder=root / "ansible",
        credentials=credentials,
        vault=vault,
        releases=environment.get("BUD_ANSIBLE_RELEASES", ""),
    )


@dataclass(slots=True)
class AnsibleTarget:
    """``credentials`` turns a reference into its text: an SSH key."""

    folder: Path
    credentials: Callable[[Credential], str]
    vault: Vault
    releases: str = ""
    """Where the distributions' files are, in place of where they are published."""
    looks: Looks = field(default_factory=Looks)
    name: str = "ansible"
    _locks: dict[Key, asyncio.Lock] = field(default_factory=dict)
    _checked: dict[Key, tuple[str, float]] = field(default_factory=dict)
    """What preflight passed for, and when."""

    @property
    def observe_s(self) -> float:
        return _OBSERVE_S

    async def observe(self, keys: Collection[Key]) -> Mapping[Key, Live]:
        lives = await asyncio.gather(*(self.health(key) for key in sorted({*keys})))
        return {live.key: live for live in lives}

    async def health(self, key: Key) -> Live:
        return await self._health(key)

    async def watch(self, moved: Callable[[], None], stop: asyncio.Event) -> None:
        """Compare clusters with what was applied, so that no look waits for that."""
        await self.looks.watch(self._compare_all, moved, stop)

    async def dry_run(self, change: Change) -> None:
        """Refuse machines that cannot carry what is asked, before any is changed."""
        await self.preview(change)

    async def preview(self, change: Change) -> Preview:
        async with self._at(change) as (manifest, way):
            records, live = await self._look(change.key, manifest, way)
            check_precondition(change, live)
            if change.action is Action.DELETE and live.presence is Presence.ABSENT:
                return Preview(summary="no changes")
            old = read_manifest(records.unit) if records.units else None
            _check(change, old or manifest)
            if change.unit is not None and not self._is_checked(change, records):
                played = await self._play(
                    change.unit.content, records, way, _silent, "--tags=preflight"
                )
                played.check("prepare", str(change.key.ref))
                now = asyncio.get_running_loop().time()
                self._checked[change.key] = _pin(change, records), now
            new = manifest if change.unit is not None else None
            changes, notes = difference(old, new)
            counts = Counter(change.partition(" ")[0] for change in changes)
            said = ", ".join(f"{n} to {verb}" for verb, n in sorted(counts.items()))
            return Preview(
                summary=said or "no changes", changes=changes, disruption=notes
            )

    async def apply(self, change: Change, progress: Progress) -> Live:
        assert change.unit is not None, "only a delete has none"
        async with self._at(change) as (manifest, way):
            records, live = await self._look(change.key, manifest, way)
            check_precondition(change, live)
            if live.digest == change.unit.digest:
                return live
            _check(change, manifest)
            _all_answer(change.key, records, manifest)
            await self._give_token(change.key, manifest, way)
            faults.point("ansible before play")
            say = partial(progress, change.key)
            # What the dry run found a moment ago is not asked again.
            skip = ("--skip-tags=checked",) if self._is_checked(change, records) else ()
            self._checked.pop(change.key, None)
            played = await self._play(change.unit.content, records, way, say, *skip)
            self.looks.forget(str(change.key))
            gone = records.silent.keys() - {m.name for m in manifest.machines}
            played.check("apply", str(change.key.ref), gone)
            faults.point("ansible after play")
            self._known(change.key).write_bytes(change.unit.content)
            return (await self._look(change.key, manifest, way))[1]

    async def delete(self, change: Change, progress: Progress) -> None:
        async with self._at(change) as (manifest, way):
            records, live = await self._look(change.key, manifest, way)
            check_precondition(change, live)
            if live.presence is Presence.PRESENT:
                held = read_manifest(records.unit)
                _check(change, held)
                _all_answer(change.key, records, held)
                say = partial(progress, change.key)
                played = await self._play(
                    records.unit, records, way, say, book="destroy.yml"
                )
                played.check("delete", str(change.key.ref))
        self.vault.remove(_token(change.key))
        self._known(change.key).unlink(missing_ok=True)

    async def rotate(self, cluster: Cluster, line: Callable[[str], None]) -> None:
        """New certificates for every machine, one after the other; pods keep running.

        Raises:
            TemporaryError: the cluster is not whole, or a machine does not answer.
        """
        key = Key(self.name, cluster.ref)
        if not self._known(key).exists():
            raise TemporaryError(f"cannot rotate {key}: it is not made yet")
        manifest = read_manifest(self._known(key).read_bytes())
        async with (
            self._locks.setdefault(key, asyncio.Lock()),
            self._way(key, manifest) as way,
        ):
            records, live = await self._look(key, manifest, way)
            if live.health is not Health.SERVABLE:
                raise TemporaryError(
                    f"cannot rotate {key}: {live.detail or live.presence}",
                    hint="apply it first: a rotation restarts every machine",
                )
            played = await self._play(
                records.unit, records, way, line, book="rotate.yml"
            )
            played.check("rotate", str(key.ref))

    def _is_checked(self, change: Change, records: Records) -> bool:
        pin, at = self._checked.get(change.key, ("", 0.0))
        fresh = asyncio.get_running_loop().time() < at + self.looks.every_s
        return fresh and pin == _pin(change, records)

    # How the cluster is reached.

    async def kubeconfig(self, cluster: Cluster) -> Mapping[str, Any] | None:
        """As the first server holds it; None while that has none."""
        key = Key(self.name, cluster.ref)
        if not self._known(key).exists():
            return None
        manifest = read_manifest(self._known(key).read_bytes())
        first, kind = manifest.servers[0], manifest.distribution
        async with self._way(key, manifest) as way:
            said = await way.run(first, ("cat", f"/etc/rancher/{kind}/{kind}.yaml"))
        if not said.reached:
            raise TemporaryError(f"cannot reach {cluster.ref}: {said.why}")
        if said.code:
            return None
        found: dict[str, Any] = yaml.safe_load(said.out)
        for each in found["clusters"]:
            # It is written for the machine itself.
            each["cluster"]["server"] = f"https://{first.address}:6443"
        return found

    async def token(self, cluster: Cluster) -> None:
        """None: the kubeconfig holds a certificate, and lies sealed."""
        del cluster

    # Looking.

    async def _compare_all(self) -> None:
        for file in sorted(self.folder.glob("*.unit")):
            project_name, name = file.stem.split(".")
            await self._health(
                Key(self.name, Ref("Cluster", project_name, name)), again=True
            )

    async def _health(self, key: Key, *, again: bool = False) -> Live:
        known = self._known(key)
        if not known.exists():  # nobody here ever asked for it
            return Live(key=key, presence=Presence.ABSENT)
        manifest = read_manifest(known.read_bytes())
        try:
            async with self._way(key, manifest) as way:
                return (await self._look(key, manifest, way, again=again))[1]
        except FoundryError as error:
            return Live(key=key, presence=Presence.UNKNOWN, detail=error.args[0])

    async def _look(
        self, key: Key, manifest: MachinesManifest, way: Shell, *, again: bool = False
    ) -> tuple[Records, Live]:
        # Also those of the unit before: no machine that holds something is forgotten.
        before = read_manifest(self._known(key).read_bytes()).machines
        asked = {m.name: m for m in (*before, *manifest.machines)}
        answers = await _ask(asked, way)
        records = records_of(answers)
        if records.units:
            held = {m.name: m for m in read_manifest(records.unit).machines}
            more = {name: m for name, m in held.items() if name not in asked}
            answers |= await _ask(more, way)
            records = records_of(of_cluster(answers, held))
        drift: tuple[str, ...] = ()
        if records.whole and not records.silent:
            drift = await self.looks.drift(
                str(key),
                records.version,
                partial(self._compare, records, way),
                again=again,
            )
        return records, live_of(key, records, drift)

    async def _compare(self, records: Records, way: Shell) -> tuple[str, ...]:
        if read_manifest(records.unit).roles != roles_digest():
            return ()  # other roles made it; its unit differs from ours anyway
        played = await self._play(records.unit, records, way, _silent, "--check")
        played.check("compare", "machines")
        return tuple(sorted(played.changed))

    # Changing.

    async def _play(
        self,
        unit: bytes,
        records: Records,
        way: Shell,
        line: Callable[[str], None],
        *options: str,
        book: str = "site.yml",
    ) -> Played:
        manifest = read_manifest(unit)
        old = read_manifest(records.unit).machines if records.units else ()
        names = {m.name for m in manifest.machines}
        files = project(
            unit,
            uid=records.uid or str(uuid4()),
            gone=tuple(m for m in old if m.name not in names),
            releases=self.releases or _RELEASES[manifest.distribution],
            trust=way.trust,
        )
        return await play(book, files, way, line, *options)

    async def _give_token(
        self, key: Key, manifest: MachinesManifest, way: Shell
    ) -> None:
        """Bring the secret by which machines join; it passes through nothing else."""
        kind, first = manifest.distribution, manifest.servers[0]
        token = await asyncio.to_thread(self._sealed_token, key)
        if token is None:
            # A cluster that somebody else made keeps the secret that it has.
            made = await way.run(
                first, ("cat", f"/var/lib/rancher/{kind}/server/token")
            )
            token = (
                made.out.strip() if made.reached and not made.code else token_hex(32)
            )
            await asyncio.to_thread(self._seal, _token(key), token)
        place = f"/etc/rancher/{kind}/token"
        command = ("install", "-D", "-m", "600", "/dev/stdin", place)
        for machine in manifest.machines:
            told = await way.run(machine, command, given=token.encode())
            if not told.reached or told.code:
                raise TemporaryError(f"cannot write to {machine.name}: {told.why}")

    def _sealed_token(self, key: Key) -> str | None:
        if _token(key) not in self.vault.names():
            return None
        return self.vault.get(_token(key)).decode()

    def _seal(self, name: str, content: str) -> None:
        self.vault.keys.ensure()
        self.vault.put(name, content.encode())

    @asynccontextmanager
    async def _at(
        self, change: Change
    ) -> AsyncIterator[tuple[MachinesManifest, Shell]]:
        """The machines of a change, one change of a cluster at a time."""
        key, known = change.key, self._known(change.key)
        async with self._locks.setdefault(key, asyncio.Lock()):
            if change.unit is not None:
                content = change.unit.content
                manifest = read_manifest(content)
                if not known.exists():
                    self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
                    known.write_bytes(content)
            elif known.exists():
                manifest = read_manifest(known.read_bytes())
            else:
                raise PermanentError(
                    f"cannot delete {key}: nobody here knows its machines",
                    hint="declare it again and apply that; then remove it",
                )
            async with self._way(key, manifest) as way:
                yield manifest, way

    def _way(self, key: Key, manifest: MachinesManifest) -> Any:
        if manifest.credentials is None:
            raise PermanentError(
                f"cannot reach the machines of {key.ref}: it has no credentials",
                hint="name an SSH key under spec.credentials",
            )
        ssh_key = self.credentials(manifest.credentials)
        return shell(self.folder / "ssh", ssh_key, manifest.machines)

    def _known(self, key: Key) -> Path:
        """The last unit that is whole, or the first that was asked for: where to look."""
        return self.folder / f"{key.ref.project}.{key.ref.name}.unit"


async def _ask(machines: Mapping[str, Machine], way: Shell) -> dict[str, Answer]:
    said = await asyncio.gather(*(way.run(m, _RECORD) for m in machines.values()))
    return dict(zip(machines, said, strict=True))


def _pin(change: Change, records: Records) -> str:
    """What a preflight was made for: other bytes or other machines need another."""
    digest = change.unit.digest if change.unit else ""
    return f"{digest} {records.uid} {records.version}"


def _silent(_: str) -> None:
    """Nobody asked."""


def _token(key: Key) -> str:
    return f"join-token.{key.ref.project}.{key.ref.name}"


def _check(change: Change, manifest: MachinesManifest) -> None:
    """Refuse what the unit itself forbids."""
    if change.action is Action.DELETE and manifest.deletion_policy == "retain":
        raise PermanentError(
            f"cannot delete {change.key}: its deletionPolicy is retain",
            hint="set deletionPolicy: delete and apply that; then remove the file",
        )
    if change.unit is None:
        return
    wanted = read_manifest(change.unit.content).roles
    if wanted != roles_digest():
        raise PermanentError(
            f"cannot apply {change.key}: the roles are {roles_digest()[:12]} here, and "
            f"the unit was rendered with {wanted[:12]}",
            hint="render it with the version of bud that applies it",
        )


def _all_answer(key: Key, records: Records, manifest: MachinesManifest) -> None:
    """A machine that died is taken out of the spec; one that is in it has to answer."""
    silent = {
        m.name: records.silent[m.name]
        for m in manifest.machines
        if m.name in records.silent
    }
    if silent:
        names = ", ".join(f"{name} ({why})" for name, why in sorted(silent.items()))
        raise TemporaryError(
            f"cannot change {key}: {names} does not answer",
            hint="mend it, or take it out of spec.hosts",
            retry_after_s=30,
        )
