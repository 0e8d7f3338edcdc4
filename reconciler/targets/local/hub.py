"""A model repository of a hub, by plain HTTPS (I/O).

`weights.py` calls it for an ``hf`` source. A commit names its files for ever, so
a file that is whole is never asked for again, and one that was cut is continued.
``HF_ENDPOINT`` says which hub, as for every client of it.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path, PurePosixPath
from typing import Any

import aiohttp

from reconciler.faults import point
from reconciler.targets.local.digest import digest_file
from reconciler.targets.local.packages import Report, mebibytes, within
from schemas.errors import PermanentError, TemporaryError
from schemas.model import HfSource
from schemas.objects import Credential

__all__ = ["download_repository"]

_HUB = "https://huggingface.co"
_CHUNK = 1024**2
_STALL_S = 60.0
"""A hub that sends nothing for as long has lost us."""
_REPORT_EVERY = 16 * 1024**2
# Answers that a later try may not get: timed out, too many requests.
_PASSING = {HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS}
_SERVERS_FAULT = 500
# Older copies of the same weights, and pictures for people.
_SKIPPED = (".bin", ".h5", ".msgpack", ".ot", ".onnx", ".pth", ".png", ".jpg", ".gif")


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class _File:
    name: str
    size: int
    sha256: str | None
    """The hub's own digest of a large file; small ones are text, checked by size."""


async def download_repository(
    source: HfSource, target: Path, report: Report, require_room: Callable[[int], None]
) -> None:
    """Bring every file that an engine may read into ``target``, and verify it.

    Raises:
        PermanentError: the hub refuses, or sends something else.
        TemporaryError: the hub cannot be reached, or breaks off.
    """
    hub = os.environ.get("HF_ENDPOINT", _HUB).rstrip("/")
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=30, sock_read=_STALL_S)
    headers = _authorization(source.credentials)
    try:
        async with aiohttp.ClientSession(
            timeout=timeout, trust_env=True, headers=headers, raise_for_status=True
        ) as session:
            found = await _files(session, hub, source)
            require_room(sum(f.size for f in found if not (target / f.name).exists()))
            for number, file in enumerate(found, 1):
                url = f"{hub}/{source.repo}/resolve/{source.revision}/{file.name}"
                what = f"downloading file {number} of {len(found)}"
                await _download(session, url, file, target, within(report, what))
    except aiohttp.ClientResponseError as error:
        mended = error.status not in _PASSING and error.status < _SERVERS_FAULT
        raise (PermanentError if mended else TemporaryError)(
            f"cannot fetch {source.repo}: the hub answered {error.status} "
            f"{error.message}",
            hint="check the repository, the commit, and source.hf.credentials where "
            "its licence asks for a login",
        ) from error
    except (aiohttp.ClientError, TimeoutError) as error:
        raise TemporaryError(
            f"cannot fetch {source.repo}: {type(error).__name__}",
            hint="what is here already is kept; try again",
        ) from error


async def _files(
    session: aiohttp.ClientSession, hub: str, source: HfSource
) -> list[_File]:
    url = f"{hub}/api/models/{source.repo}/revision/{source.revision}"
    async with session.get(url, params={"blobs": "true"}) as response:
        answer: Mapping[str, Any] = await response.json()
    wanted = sorted(
        _File(
            name=str(entry["rfilename"]),
            size=int(entry["size"]),
            sha256=(entry.get("lfs") or {}).get("sha256"),
        )
        for entry in answer["siblings"]
        if not entry["rfilename"].endswith(_SKIPPED)
        and _stays_inside(entry["rfilename"])
    )
    if not any(file.name.endswith((".safetensors", ".gguf")) for file in wanted):
        raise PermanentError(
            f"cannot use {source.repo}: it holds no safetensors and no GGUF",
            hint="pickled weights run code when they are read: name another repository",
        )
    return wanted


async def _download(
    session: aiohttp.ClientSession,
    url: str,
    file: _File,
    folder: Path,
    report: Report,
) -> None:
    target = folder / file.name
    if target.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f"{target.name}.incomplete")
    have = partial.stat().st_size if partial.exists() else 0
    if have < file.size or not partial.exists():
        await _receive(session, url, partial, have, report)
    found = await asyncio.to_thread(digest_file, partial)
    if partial.stat().st_size != file.size or file.sha256 not in {None, found}:
        size = partial.stat().st_size
        partial.unlink()
        raise PermanentError(
            f"cannot use {file.name}: {size} bytes with SHA-256 {found} came, not "
            f"{file.size} with {file.sha256}",
            hint="something between the hub and here changes files",
        )
    point("before file is whole")
    partial.replace(target)
    point("after file is whole")


async def _receive(
    session: aiohttp.ClientSession, url: str, partial: Path, have: int, report: Report
) -> None:
    headers = {"Range": f"bytes={have}-"} if have else {}
    async with session.get(url, headers=headers) as response:
        resumed = response.status == HTTPStatus.PARTIAL_CONTENT
        size = have if resumed else 0
        with partial.open("ab" if resumed else "wb") as out:
            async for chunk in response.content.iter_chunked(_CHUNK):
                await asyncio.to_thread(out.write, chunk)
                before, size = size, size + len(chunk)
                if size // _REPORT_EVERY > before // _REPORT_EVERY:
                    report(mebibytes(size))
            out.flush()
            os.fsync(out.fileno())


def _authorization(credential: Credential | None) -> dict[str, str]:
    if credential is None:
        return {}
    if credential.env is not None:
        token = os.environ.get(credential.env, "")
    elif credential.file is not None:
        path = Path(credential.file)
        token = path.read_text(encoding="utf-8").strip() if path.is_file() else ""
    else:
        raise PermanentError(
            "cannot read the hub's token: this target takes it from env or file",
            hint="name credentials.env or credentials.file in the model's source",
        )
    if not token:
        raise PermanentError(
            f"cannot read the hub's token: {credential.env or credential.file} is empty",
            hint="set it where bud runs",
        )
    return {"Authorization": f"Bearer {token}"}


def _stays_inside(name: str) -> bool:
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts
