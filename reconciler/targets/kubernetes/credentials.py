"""Secrets are filled in at the last moment. (I/O: whatever the caller's reader does)

A rendered Secret says where its value is, never the value (law 14). The target calls
``fill`` right before a dry run or a write; what comes out is sent and never kept in a
unit, a record, a diff or a log.
"""

from __future__ import annotations

import base64
from collections.abc import Awaitable, Callable

from reconciler.targets.kubernetes.manifests import Json
from schemas.objects import Credential

__all__ = ["CREDENTIAL_ANNOTATION", "Credentials", "fill"]

CREDENTIAL_ANNOTATION = "foundry.bud/credential"

Credentials = Callable[[Credential], Awaitable[str]]
"""Read one secret; raise PermanentError when it is not there."""


async def fill(manifest: Json, credentials: Credentials) -> Json:
    """Give a Secret of ours its value; any other object is returned as it is."""
    annotations = manifest["metadata"].get("annotations") or {}
    where = annotations.get(CREDENTIAL_ANNOTATION)
    if manifest["kind"] != "Secret" or where is None:
        return manifest
    value = await credentials(Credential.model_validate_json(where))
    return {**manifest, "data": {"value": base64.b64encode(value.encode()).decode()}}
