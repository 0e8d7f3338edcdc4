"""A stored object as a value: a file's description, a batch, a response.

Apart from `gateway.store`, so that a gateway without a store does not load a
database's library into every worker.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

__all__ = ["Document", "Kind"]

Kind: TypeAlias = Literal["file", "batch", "response"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """One row. Times are seconds since the epoch."""

    project: str
    kind: Kind
    id: str
    body: dict[str, Any]
    created_at: int
    expires_at: int | None = None
    bytes: int = 0
    """Of the file that it describes."""
    version: int = 0
    key: str | None = None
    """The API key that work is done for."""
    owner: str | None = None
    """The worker that is at it."""
    lease_until: float | None = None
    """Until when nobody else may take it up; None: there is nothing to do."""
