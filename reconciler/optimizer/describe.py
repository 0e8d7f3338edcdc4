"""A model that no catalog has, by its own config.json. (I/O: reads a folder or the hub)

`bud optimizer config` calls it once and a person commits what it prints, so that a
plan reads the shape from git and asks no hub.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import aiohttp
import orjson

from schemas.architecture import Architecture, architecture_from_config
from schemas.errors import PermanentError

__all__ = ["read_config", "shaping"]

HUB: Final = "https://huggingface.co"
# A commit names its file for ever; a branch would be another model tomorrow.
_PINNED: Final = re.compile(r"^([\w.-]+/[\w.-]+)@([0-9a-f]{40})$")
_TIMEOUT_S: Final = 30
_MOST_BYTES: Final = 4 * 1024**2


def read_config(source: str) -> dict[str, Any]:
    """The config.json of a folder, or of ``owner/name@commit`` on the hub.

    Raises:
        PermanentError: there is none, or the commit is not said in full.
    """
    folder, pinned = Path(source), _PINNED.match(source)
    if folder.is_dir():
        content = _local(folder / "config.json")
    elif pinned is not None:
        content = asyncio.run(_fetched(*pinned.groups()))
    else:
        raise PermanentError(
            f"cannot find a model at {source!r}",
            hint="name a folder with a config.json, or owner/name@<40 digits of a "
            "commit> on the hub",
        )
    try:
        found = orjson.loads(content)
    except orjson.JSONDecodeError as error:
        raise PermanentError(f"cannot read config.json of {source}: {error}") from error
    if not isinstance(found, dict):
        raise PermanentError(f"cannot read config.json of {source}: it is no object")
    return found


def shaping(config: Mapping[str, Any]) -> tuple[dict[str, Any], Architecture]:
    """The keys without which the architecture would be another, and what it is.

    Raises:
        SpecError: a key that is needed is missing, or says what nobody knows.
    """
    whole = architecture_from_config(config)
    kept = dict(config)
    for key in config:
        fewer = {name: value for name, value in kept.items() if name != key}
        if _same(fewer, whole):
            kept = fewer
    return kept, whole


def _same(config: Mapping[str, Any], whole: Architecture) -> bool:
    try:
        return architecture_from_config(config) == whole
    except Exception:  # noqa: BLE001 - whatever a missing key leads to
        return False


def _local(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise PermanentError(f"cannot read {file}: {error.strerror}") from error


async def _fetched(repo: str, commit: str) -> bytes:
    hub = os.environ.get("HF_ENDPOINT", HUB).rstrip("/")
    token = os.environ.get("HF_TOKEN", "")
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    timeout = aiohttp.ClientTimeout(total=_TIMEOUT_S)
    url = f"{hub}/{repo}/resolve/{commit}/config.json"
    try:
        async with (
            aiohttp.ClientSession(
                timeout=timeout, trust_env=True, headers=headers, raise_for_status=True
            ) as session,
            session.get(url) as response,
        ):
            return await response.content.read(_MOST_BYTES)
    except (aiohttp.ClientError, TimeoutError) as error:
        raise PermanentError(
            f"cannot fetch {repo}@{commit[:12]}: {str(error) or 'no answer'}",
            hint="check the repository, the commit, and HF_TOKEN where its licence "
            "asks for a login; or name a folder that holds its config.json",
        ) from error
