"""What this repository ships, on its way down the line: once for all who look."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from reconciler.load import load
from reconciler.overlay import overlay
from reconciler.render import Rendered, Renderer
from reconciler.resolve import resolve
from reconciler.values import Commit
from schemas.catalog import catalog

__all__ = ["rendered"]

_ROOT = Path(__file__).resolve().parents[1]
_COMMIT = Commit(sha="0" * 40)


@cache
def rendered(environment: str) -> Rendered:
    desired = overlay(load(_ROOT, _COMMIT), environment)
    return Renderer().render(resolve(desired, catalog()), catalog())
