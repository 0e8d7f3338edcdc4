"""What the terraform target is asked to hold: a module of ours, and its variables.

`renderers.terraform` writes these manifests as canonical JSON, the terraform target
reads them back; the bytes are the unit that a plan shows and a ledger digests. A
module is named by its digest, so a unit cannot mean code that nobody reviewed, and
credentials are references, so no manifest holds a secret.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from schemas.objects import Credential, Name, Sha256

__all__ = ["ModuleManifest"]


class ModuleManifest(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    project: Name
    name: Name
    module: Annotated[str, Field(pattern=r"^[a-z0-9-]+$")]
    module_digest: Sha256
    variables: dict[str, object]
    adopt: dict[str, str] = {}
    """What exists and becomes the module's: address -> ID."""
    credentials: Credential | None
    deletion_policy: Literal["retain", "delete"]
