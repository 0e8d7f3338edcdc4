"""Graduation: a canary that was promoted, as a proposal (I/O: git).

The daemon calls it when a trial ends well, because git still declares the trial. Merged,
the route's targets are what stands in for it now.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import yaml

from reconciler.forge.base import Proposal
from reconciler.proposal import Grounds, draft, places_of
from schemas.objects import Ref

__all__ = ["graduate"]


async def graduate(
    grounds: Grounds, environment: str, ref: Ref, endpoint: str, reason: str
) -> Proposal:
    """Take the canary out of the Route's files, and put it in its targets' place.

    A file that changes is written anew, without its comments: the proposal shows it.

    Raises:
        PermanentError: no file of this revision says a canary.
        TemporaryError: git failed.
    """

    async def edit(tree: Path) -> str:
        _promote(tree, places_of(ref, environment), endpoint)
        return f"{reason}\n\nDecided by live traffic in {environment}."

    return await draft(
        grounds,
        branch=f"bud/canary/{ref.kind}-{ref.name}".lower(),
        title=f"Promote {endpoint} on {ref}",
        edit=edit,
    )


def _promote(tree: Path, places: Sequence[str], endpoint: str) -> None:
    for place in (tree / name for name in places):
        written = yaml.safe_load(place.read_text("utf-8")) if place.exists() else {}
        if (written.get("spec") or {}).pop("canary", None) is not None:
            written["spec"]["targets"] = [{"endpoint": endpoint}]
            place.write_text(yaml.safe_dump(written, sort_keys=False), "utf-8")
