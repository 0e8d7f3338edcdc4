"""The gateway's config: what the renderer writes and the gateway reads.

Two files. `GatewayConfig` is the TOML that a person may also write by hand, one
table for each declared object. `Addresses` is the small JSON beside it that
says where the replicas of an upstream listen right now. `schemas.gateway_toml`
reads and writes their text; nothing here touches a file.
"""

from schemas.gateway.config import Addresses, GatewayConfig, Key, Project
from schemas.gateway.listener import Listener, Shared, Store, Telemetry, Tls
from schemas.gateway.route import Cache, Guardrail, Hedge, Queue, Route, Shadow, Target
from schemas.gateway.upstream import Upstream, UpstreamTls
from schemas.gateway.values import (
    HASH,
    Capability,
    Credential,
    Dialect,
    Limits,
    Pattern,
    Price,
    Ref,
    Timeouts,
    hash_key,
)

__all__ = [
    "HASH",
    "Addresses",
    "Cache",
    "Capability",
    "Credential",
    "Dialect",
    "GatewayConfig",
    "Guardrail",
    "Hedge",
    "Key",
    "Limits",
    "Listener",
    "Pattern",
    "Price",
    "Project",
    "Queue",
    "Ref",
    "Route",
    "Shadow",
    "Shared",
    "Store",
    "Target",
    "Telemetry",
    "Timeouts",
    "Tls",
    "Upstream",
    "UpstreamTls",
    "hash_key",
]
