"""What the ansible target is asked to hold: machines, and the Kubernetes on them.

`renderers.ansible` writes these manifests as canonical JSON, the ansible target reads
them back; the bytes are the unit that a plan shows and a ledger digests. The roles are
named by their digest, so that a unit cannot mean code that nobody reviewed.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

from schemas.objects import Credential, Name, Sha256

__all__ = ["Machine", "MachinesManifest"]


class _Frozen(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Machine(_Frozen):
    name: str
    """Of the node; and of the host in an inventory."""
    address: str
    port: int
    user: str
    host_key: str | None
    server: bool
    """Whether it carries the control plane."""
    gpus: int
    """NVIDIA devices that it must have."""
    labels: tuple[str, ...]
    taints: tuple[str, ...]


class MachinesManifest(_Frozen):
    project: Name
    name: Name
    distribution: Literal["k3s", "rke2"]
    release: str
    """Of the distribution: ``v1.33.5+k3s1``."""
    roles: Sha256
    machines: tuple[Machine, ...]
    """Servers first; the first of them is where others join."""
    credentials: Credential | None
    deletion_policy: Literal["retain", "delete"]

    @property
    def servers(self) -> tuple[Machine, ...]:
        return tuple(m for m in self.machines if m.server)
