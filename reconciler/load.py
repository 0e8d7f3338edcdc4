"""Read what a checkout says, all of it or every reason why not. (I/O)

The rule it guards: what cannot be read is a problem, never an absence. A folder
without permission, a dangling link and a torn file stop the load, because the
plan of a tree with a hole in it would delete what fell into the hole.

A file's place is its identity: ``spec/<kind>/<name>.yaml`` in the project
``default``, ``spec/<project>/<kind>/<name>.yaml`` in any other; the overlays of an
environment lie below ``environments/<env>/`` in the same way. ``pipeline`` calls
``load``; it only ever reads.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping, MutableMapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from reconciler.document import read_object
from reconciler.values import Commit, Document, Documents
from reconciler.written import did_you_mean
from reconciler.yaml_reader import OBJECT, Budget, read_yaml
from schemas.environment import Environment
from schemas.errors import Problem, SpecError
from schemas.kinds import KINDS
from schemas.objects import DEFAULT_PROJECT, Ref

__all__ = ["Cache", "Reading", "load", "read_tree"]

Cache = MutableMapping[str, tuple[bytes, Document]]
"""File -> its bytes and what they said; a load leaves exactly its own files."""

FOLDERS = {kind.lower(): kind for kind in KINDS if kind != "Environment"}
LOCK = "resolved.lock.yaml"
# A lock has an entry of about 60 values for every endpoint.
_LOCK_BUDGET = Budget(bytes=64 << 20, depth=32, nodes=5_000_000)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What could be read, and what was wrong with the rest."""

    documents: Documents
    problems: tuple[Problem, ...]
    broken: frozenset[Ref]
    """Objects that are written but wrong: to miss them would be a second error."""


def load(root: Path, commit: Commit, *, cache: Cache | None = None) -> Documents:
    """Read every object below ``spec/`` and ``environments/``.

    Raises:
        SpecError: every problem of the tree.
    """
    reading = read_tree(root, commit, cache=cache)
    if reading.problems:
        raise SpecError(reading.problems)
    return reading.documents


def read_tree(root: Path, commit: Commit, *, cache: Cache | None = None) -> Reading:
    """Read what can be read, for whoever wants to look further in spite of it."""
    tree = _Tree(root=root.resolve(), cache={} if cache is None else cache)
    for top in ("spec", "environments"):
        for file in tree.files(top):
            tree.take(file)
    tree.check_environments()
    tree.cache.clear()
    tree.cache.update(tree.fresh)
    documents = Documents(
        commit=commit,
        spec=dict(sorted(tree.spec.items())),
        environments={
            name: document.item
            for name, document in sorted(tree.environments.items())
            if isinstance(document.item, Environment)
        },
        environment_documents=dict(sorted(tree.environments.items())),
        overlays={
            name: dict(sorted(tree.overlays.get(name, {}).items()))
            for name in sorted(tree.environments)
        },
        locks=dict(sorted(tree.locks.items())),
    )
    return Reading(
        documents=documents,
        problems=tuple(sorted(set(tree.problems))),
        broken=frozenset(tree.broken),
    )


@dataclass(slots=True, kw_only=True)
class _Tree:
    root: Path
    cache: Cache
    fresh: dict[str, tuple[bytes, Document]] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    broken: set[Ref] = field(default_factory=set)
    spec: dict[Ref, Document] = field(default_factory=dict)
    environments: dict[str, Document] = field(default_factory=dict)
    overlays: dict[str, dict[Ref, Document]] = field(default_factory=dict)
    locks: dict[str, Mapping[str, Any]] = field(default_factory=dict)

    def files(self, folder: str) -> Iterator[str]:
        """Every file below a folder of the root, sorted, links followed inside."""
        try:
            with os.scandir(self.root / folder) as entries:
                found = sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            self._fail(folder, f"cannot read the folder: {_reason(error)}")
            return
        for entry in found:
            file = f"{folder}/{entry.name}"
            if entry.name.startswith(".") or entry.name.endswith(".md"):
                continue
            try:
                if entry.is_dir(follow_symlinks=False):
                    if not _is_secrets(file):
                        yield from self.files(file)
                elif entry.is_symlink() and not self._stays_inside(file):
                    continue
                elif not stat.S_ISREG(entry.stat().st_mode):
                    self._fail(file, "cannot read it: it is no regular file")
                else:
                    yield file
            except OSError as error:
                self._fail(file, f"cannot read the file: {_reason(error)}")

    def take(self, file: str) -> None:
        """Read one file into the place that its path gives it."""
        top, *inner = file.split("/")
        if top == "spec":
            self._take_object(file, self.spec, inner, partial=False)
            return
        environment, *inner = inner
        if inner == ["environment.yaml"]:
            ref = Ref("Environment", DEFAULT_PROJECT, environment)
            if (document := self._object(file, ref, partial=False)) is not None:
                self.environments[environment] = document
        elif inner == [LOCK]:
            self._take_lock(file, environment)
        else:
            overlays = self.overlays.setdefault(environment, {})
            self._take_object(file, overlays, inner, partial=True)

    def check_environments(self) -> None:
        """An overlay or a lock without its environment would be read by nobody."""
        for name in sorted(self.overlays.keys() | self.locks.keys()):
            ref = Ref("Environment", DEFAULT_PROJECT, name)
            if name not in self.environments and ref not in self.broken:
                self._fail(
                    f"environments/{name}",
                    "cannot read the environment: it has no environment.yaml",
                )

    def _take_object(
        self,
        file: str,
        found: dict[Ref, Document],
        inner: list[str],
        *,
        partial: bool,
    ) -> None:
        ref = self._identity(file, inner)
        if ref is None:
            return
        document = self._object(file, ref, partial=partial)
        if document is not None:
            found[ref] = document

    def _identity(self, file: str, inner: list[str]) -> Ref | None:
        """Which object a path is the place of."""
        match inner:
            case [folder, last]:
                project = DEFAULT_PROJECT
            case [project, folder, last]:
                pass
            case _:
                above = file.removesuffix("/".join(["", *inner]))
                self._fail(
                    file,
                    "cannot tell which object this is by its place",
                    f"an object lies in {above}/<kind>/<name>.yaml, or in "
                    f"{above}/<project>/<kind>/<name>.yaml",
                )
                return None
        name, dot, suffix = last.rpartition(".")
        if suffix != "yaml":
            self._fail(
                file,
                f"cannot read a file that ends in {dot + suffix if dot else 'nothing'}",
                f"rename it to {name or last}.yaml, or keep it outside of {file.partition('/')[0]}/",
            )
        elif folder not in FOLDERS:
            self._fail(
                file,
                f"cannot read an object from the folder {folder}: no kind is called so",
                did_you_mean(folder, FOLDERS, otherwise=f"kinds: {', '.join(FOLDERS)}"),
            )
        else:
            return Ref(FOLDERS[folder], project, name)
        return None

    def _object(self, file: str, ref: Ref, *, partial: bool) -> Document | None:
        try:
            data = self._bytes(file, OBJECT)
            known = self.cache.get(file)
            if known is None or known[0] != data:
                known = (data, read_object(data, file, ref, partial=partial))
        except SpecError as error:
            self.problems.extend(error.problems)
            self.broken.add(ref)
            return None
        self.fresh[file] = known
        return known[1]

    def _take_lock(self, file: str, environment: str) -> None:
        try:
            data = self._bytes(file, _LOCK_BUDGET)
            known = self.cache.get(file)
            if known is None or known[0] != data:
                content, places = read_yaml(data, file, _LOCK_BUDGET)
                known = (data, Document(file=file, content=content, places=places))
        except SpecError as error:
            self.problems.extend(error.problems)
            return
        self.fresh[file] = known
        self.locks[environment] = known[1].content

    def _bytes(self, file: str, budget: Budget) -> bytes:
        try:
            # Nonblocking: a file that became a pipe since it was listed ends here.
            handle = os.open(f"{self.root}/{file}", os.O_RDONLY | os.O_NONBLOCK)
            with os.fdopen(handle, "rb") as stream:
                return stream.read(budget.bytes + 1)
        except OSError as error:
            message = f"cannot read the file: {_reason(error)}"
            raise SpecError([Problem(file=file, message=message)]) from error

    def _stays_inside(self, file: str) -> bool:
        """A link may lead to another file of the spec, and nowhere else: what it
        leads to is quoted in messages."""
        # Path.resolve turns a loop of links into a RuntimeError; this is an OSError.
        target = Path(os.path.realpath(self.root / file, strict=True))
        inside = any(
            target.is_relative_to(self.root / top) for top in ("spec", "environments")
        )
        if inside and target.is_file():
            return True
        self._fail(
            file,
            "cannot follow the link: it leaves spec/ and environments/"
            if not inside
            else "cannot follow the link: it leads to no file",
            "copy the file here, or link to another file of the spec",
        )
        return False

    def _fail(self, file: str, message: str, hint: str = "") -> None:
        self.problems.append(Problem(file=file, message=message, hint=hint))


def _is_secrets(folder: str) -> bool:
    """``environments/<env>/secrets``: encrypted with SOPS, opened by whoever may."""
    match folder.split("/"):
        case ["environments", _, "secrets"]:
            return True
    return False


def _reason(error: OSError) -> str:
    return (error.strerror or type(error).__name__).lower()
