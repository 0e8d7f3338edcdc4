"""Environment: which objects of ``spec/`` live here, and how the engine behaves."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from schemas.objects import FoundryObject, Name, Strict
from schemas.review import Review
from schemas.units import Duration

__all__ = ["Environment", "EnvironmentSpec", "GatewaySettings", "Reconcile"]

Pattern = Annotated[
    str,
    StringConstraints(pattern=r"^[A-Z][A-Za-z]*/[a-z0-9*?\[\]-]+(/[a-z0-9*?\[\]-]+)?$"),
]


class GatewaySettings(Strict):
    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=1, le=65535)] = 8000
    admin_port: Annotated[int, Field(ge=1, le=65535)] = Field(
        default=8001, description="health and metrics, on loopback only"
    )
    workers: Annotated[int, Field(ge=1, le=256)] = 1
    local_key: bool = Field(
        default=False,
        description="accept the key that `bud up` makes for this machine, in the "
        "project default",
    )


class Reconcile(Strict):
    interval: Duration = Field(
        default=Duration("60s"),
        description="between two looks at the world, with jitter",
    )
    poll: Duration = Field(default=Duration("30s"), description="of a remote branch")
    heal: Literal["off", "warn", "heal"] = "heal"
    require_signed_commits: bool = False


class Deletions(Strict):
    """More than max(1, percent) deletes of one kind need ``confirm``: the token that
    the refusal prints, which names exactly those objects and no others."""

    percent: Annotated[int, Field(ge=0, le=100)] = 20
    confirm: tuple[
        Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{16}$")], ...
    ] = ()


class ReservedPrice(Strict):
    """What a contract makes of a node pool's list price."""

    cluster: Name
    node_pool: Name
    percent: Annotated[int, Field(ge=1, le=100)] = Field(
        description="of the list price on demand"
    )
    source: str = Field(description="the contract that says so, with its date")


class EnvironmentSpec(Strict):
    take: Annotated[tuple[Pattern, ...], Field(min_length=1)] = Field(
        description="Kind/name or Kind/project/name, with * and ?"
    )
    leave: tuple[Pattern, ...] = ()
    gateway: GatewaySettings = GatewaySettings()
    reconcile: Reconcile = Reconcile()
    deletions: Deletions = Deletions()
    prices: tuple[ReservedPrice, ...] = ()
    review: Review | None = Field(
        default=None,
        description="changes come by pull request alone, and are applied as approved",
    )


class Environment(FoundryObject):
    kind: Literal["Environment"]
    spec: EnvironmentSpec
