"""The add-ons that a Cluster may have: where each chart is, and in which order. (I/O:
reads a file of this package)

``renderers.addons`` reads it, and whoever asks what an add-on brings. It fetches
nothing: a chart's bytes are the Helm target's business.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Annotated, Any

from pydantic import Field

from schemas.catalog.entries import Entry
from schemas.catalog.load import read_data
from schemas.objects import Name, Sha256

__all__ = ["AddonEntry", "addon_entry"]


class AddonEntry(Entry):
    name: Name
    rank: Annotated[int, Field(ge=0)]
    """Those of a lower one are healthy first."""
    repository: str | None = None
    oci: str | None = None
    namespace: Name
    device: Annotated[str, Field(pattern=r"^[0-9a-f]{4}$")] | None = None
    """PCI vendor without which it is not installed."""
    values: Mapping[str, Any] = {}
    digests: Mapping[str, Sha256] = {}
    """Version -> SHA-256 of the chart's archive."""


def addon_entry(name: str) -> AddonEntry:
    return _entries()[name]


@cache
def _entries() -> Mapping[str, AddonEntry]:
    read = [AddonEntry.model_validate(entry) for entry in read_data("addons.yaml")]
    return {entry.name: entry for entry in read}
