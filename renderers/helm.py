"""Charts and releases as bytes: what a Kubernetes target is handed for one object.

The content of a unit is a release: the chart's name and digest and the values of
one entry, as canonical JSON. It is a pure function of the resolved object, so its
digest says whether anything changed; the manifests follow from it (Helm renders
them at the target) and are never part of a digest. ``renderers.kubernetes`` writes
releases, ``reconciler.targets.kubernetes`` reads them. Nothing here runs Helm. (I/O:
``our_chart`` reads files of this package, once a process)
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import orjson
import rfc8785

from schemas.errors import PermanentError

__all__ = ["Chart", "Release", "our_chart", "read_release", "write_release"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """A chart's files by path, and one SHA-256 over all of them."""

    name: str
    files: Mapping[str, bytes] = field(repr=False)

    @property
    def digest(self) -> str:
        whole = hashlib.sha256()
        for path, content in sorted(self.files.items()):
            whole.update(f"{path}\0{len(content)}\0".encode() + content)
        return whole.hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """One entry of one chart."""

    chart: str
    chart_digest: str
    entry: str
    values: Mapping[str, Any]


def write_release(release: Release) -> bytes:
    """Write a release as RFC 8785 JSON: the same release, the same bytes."""
    return rfc8785.dumps(
        {
            "chart": {"name": release.chart, "digest": release.chart_digest},
            "entry": release.entry,
            "values": dict(release.values),
        }
    )


def read_release(content: bytes) -> Release:
    """Read what ``write_release`` wrote.

    Raises:
        PermanentError: these bytes are no release.
    """
    try:
        data = orjson.loads(content)
        return Release(
            chart=data["chart"]["name"],
            chart_digest=data["chart"]["digest"],
            entry=data["entry"],
            values=data["values"],
        )
    except (orjson.JSONDecodeError, KeyError, TypeError) as error:
        raise PermanentError(
            f"cannot read a release: {content[:60]!r}",
            hint="render the commit again; a Kubernetes target takes Helm releases",
        ) from error


@cache
def our_chart(name: str) -> Chart:
    """Read one of the charts that this package carries."""
    folder = Path(__file__).parents[1] / "templates" / "charts" / name
    return Chart(
        name=name,
        files={
            path.relative_to(folder).as_posix(): path.read_bytes()
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        },
    )
