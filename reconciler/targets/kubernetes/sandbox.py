"""One run of the helm binary over one chart, shut in. (I/O: runs the helm binary)

``Renderer`` calls ``template``. Helm sees a copy of the chart and nothing else: a
private HOME, an environment without credentials or proxies, no plugins, regular
files only (Helm follows a chart's symlink out of the repository and renders what
it finds there; ``read_chart`` refuses one, and a Chart value cannot hold one). It
never talks to a cluster, resolves no name and has no dependency to fetch.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import orjson

from renderers.helm import Chart
from schemas.errors import PermanentError, TemporaryError

__all__ = ["find_helm", "read_chart", "template"]

_TIMEOUT_S = 60.0
_CPU_S = 120
_MEMORY_BYTES = 8 << 30  # of address space, of which Go reserves more than it uses


def find_helm() -> str:
    """Find the helm binary: BUD_HELM, PATH, or the one that ``make tools`` built.

    Raises:
        PermanentError: there is none.
    """
    built = Path(__file__).parents[3] / ".tools" / "bin" / "helm"
    for candidate in (os.environ.get("BUD_HELM"), shutil.which("helm"), str(built)):
        if candidate and os.access(candidate, os.X_OK):
            return candidate
    raise PermanentError(
        "cannot find helm: it is not on PATH",
        hint="install Helm 3.22, or run `make tools`",
    )


def read_chart(folder: Path) -> Chart:
    """Read a chart from a checkout.

    Raises:
        PermanentError: something in it is a symlink or no regular file.
    """
    files: dict[str, bytes] = {}
    for directory, subfolders, names in os.walk(folder):
        for name in sorted((*subfolders, *names)):
            path = Path(directory) / name
            inside = path.relative_to(folder)
            if path.is_symlink() or not (path.is_dir() or path.is_file()):
                raise PermanentError(
                    f"cannot read chart {folder.name}: {inside} is a link or a "
                    "special file",
                    hint="Helm would follow it out of the repository: copy the file",
                )
            if path.is_file():
                files[inside.as_posix()] = path.read_bytes()
    return Chart(name=folder.name, files=files)


async def template(
    helm: str, chart: Chart, values: Mapping[str, Any], *, kube_version: str
) -> bytes:
    """Render ``chart`` with ``values``.

    Raises:
        PermanentError: Helm refuses the chart or the values.
        TemporaryError: it did not come back in time.
    """
    with tempfile.TemporaryDirectory(prefix="bud-helm-") as folder:
        home = Path(folder)
        await asyncio.to_thread(_lay_out, home, chart, values)
        process = await asyncio.create_subprocess_exec(
            *(helm, "template", "release", "chart", "--values", "values.json"),
            *("--kube-version", kube_version, "--skip-tests"),
            cwd=home,
            # It lives for a second: a quarter of that went into collecting garbage.
            env={"HOME": folder, "HELM_PLUGINS": f"{folder}/none", "GOGC": "400"},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        with contextlib.suppress(ProcessLookupError):
            resource.prlimit(process.pid, resource.RLIMIT_CPU, (_CPU_S, _CPU_S))
            resource.prlimit(
                process.pid, resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES)
            )
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                output, errors = await process.communicate()
        except BaseException as error:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
            if isinstance(error, TimeoutError):
                raise TemporaryError(
                    f"cannot render chart {chart.name}: no answer in {_TIMEOUT_S:.0f} s"
                ) from error
            raise
    if process.returncode:
        said = errors.decode(errors="replace").strip()
        raise PermanentError(
            f"cannot render chart {chart.name}: {said.removeprefix('Error: ')[:2000]}"
        )
    return output


def _lay_out(home: Path, chart: Chart, values: Mapping[str, Any]) -> None:
    for path, content in chart.files.items():
        pure = PurePosixPath(path)
        if pure.is_absolute() or ".." in pure.parts:
            raise PermanentError(f"cannot render chart {chart.name}: path {path!r}")
        file = home / "chart" / pure
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    (home / "values.json").write_bytes(orjson.dumps(values))
