"""Charts and releases as bytes: what a Kubernetes target is handed for one object.

The content of a unit is a release: the chart's name and digest and the values of
one entry, as canonical JSON. It is a pure function of the resolved object, so its
digest says whether anything changed; the manifests follow from it (Helm renders
them at the target) and are never part of a digest. ``renderers.kubernetes`` writes
releases, ``reconciler.targets.kubernetes`` reads them. Nothing here runs Helm. (I/O:
``our_chart`` reads files of this package, once a process)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import orjson
import rfc8785

from renderers.bundle import TEMPLATES, Bundle, read_folder
from schemas.errors import PermanentError

__all__ = ["Chart", "Release", "our_chart", "read_release", "write_release"]


class Chart(Bundle):
    """The files of a chart."""

    __slots__ = ()


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
    return Chart(name=name, files=read_folder(TEMPLATES / "charts" / name))
