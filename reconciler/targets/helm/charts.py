"""Archives of charts: fetched once, kept under their digest. (I/O: network, files)

The Helm target asks for the archive of a release. It comes from a registry, a repository
or the checkout, and is a chart only if its SHA-256 is the one that is pinned; where
nobody pinned one, the first that is pulled is trusted and every later pull of that
version is held to it. A link out of the checkout is refused.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import tempfile
from pathlib import Path
from urllib.parse import urlsplit

from reconciler.targets.helm.command import HelmCommand
from renderers.addons import AddonRelease
from schemas.errors import PermanentError

__all__ = ["Charts"]

_PULL_S = 120.0
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


class Charts:
    """``folder`` keeps the archives; ``checkout`` is where vendored ones lie."""

    def __init__(self, helm: HelmCommand, *, folder: Path, checkout: Path) -> None:
        self._helm, self._folder, self._checkout = helm, folder, checkout
        self._pulling = asyncio.Lock()
        self.pulls = 0

    async def archive(self, release: AddonRelease) -> Path:
        """Give the archive of a release: the same digest, the same bytes.

        Raises:
            PermanentError: it is not what was pinned, or there is none.
            TemporaryError: its place does not answer.
        """
        pinned = release.digest or self._trusted().get(_name(release), "")
        kept = self._folder / f"{pinned}.tgz"
        if pinned and kept.is_file() and _digest(kept) == pinned:
            return kept
        async with self._pulling:
            content = await self._fetch(release)
        found = hashlib.sha256(content).hexdigest()
        if pinned and found != pinned:
            raise PermanentError(
                f"cannot install {release.name} {release.version}: its archive is "
                f"{found}, and {pinned} is pinned",
                hint="somebody replaced a published version: find out who before you "
                "pin another digest",
            )
        return self._keep(release, found, content)

    async def _fetch(self, release: AddonRelease) -> bytes:
        if (inside := release.source.get("archive")) is not None:
            return await asyncio.to_thread(self._vendored, inside)
        self.pulls += 1
        with tempfile.TemporaryDirectory(prefix="bud-chart-") as folder:
            await self._helm.run(
                *("pull", *_place(release), "--version", release.version),
                *("--destination", folder),
                what=f"pull the chart {release.name} {release.version}",
                timeout_s=_PULL_S,
            )
            (archive,) = Path(folder).iterdir()
            return await asyncio.to_thread(archive.read_bytes)

    def _vendored(self, inside: str) -> bytes:
        root = self._checkout.resolve()
        try:
            file = (root / inside).resolve(strict=True)
            if not file.is_relative_to(root) or not file.is_file():
                raise PermanentError(
                    f"cannot read chart {inside}: it leads out of the checkout"
                )
            return file.read_bytes()
        except OSError as error:
            raise PermanentError(
                f"cannot read chart {inside}: {error.strerror}"
            ) from error

    def _keep(self, release: AddonRelease, digest: str, content: bytes) -> Path:
        self._folder.mkdir(parents=True, exist_ok=True)
        kept = self._folder / f"{digest}.tgz"
        _replace(kept, content)
        if not release.digest:
            trusted = {**self._trusted(), _name(release): digest}
            _replace(self._folder / "trusted.json", json.dumps(trusted).encode())
        return kept

    def _trusted(self) -> dict[str, str]:
        """Chart and version -> the digest of the first pull."""
        try:
            found: dict[str, str] = json.loads(
                (self._folder / "trusted.json").read_text()
            )
        except FileNotFoundError:
            return {}
        return found


def _name(release: AddonRelease) -> str:
    places = " ".join(f"{kind} {at}" for kind, at in sorted(release.source.items()))
    return f"{release.name} {release.version} from {places}"


def _place(release: AddonRelease) -> tuple[str, ...]:
    if (registry := release.source.get("oci")) is not None:
        # Nothing that is sent to this machine itself can be read on the way.
        plain = urlsplit(registry).hostname in _LOOPBACK
        return (registry, *(("--plain-http",) if plain else ()))
    if (repository := release.source.get("repository")) is not None:
        return (release.name, "--repo", repository)
    raise PermanentError(f"cannot pull the chart {release.name}: it has no source")


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _replace(file: Path, content: bytes) -> None:
    part = file.with_name(f"{file.name}.part")
    part.write_bytes(content)
    part.replace(file)
