"""The connection to Valkey, or Redis, that gateways share (I/O).

Made once by each process that needs it; what is asked of it has a time limit of
its own, so that a server which hangs never holds a request for long.
"""

from __future__ import annotations

from redis.asyncio import Redis

from gateway.snapshot import Snapshot

__all__ = ["connect"]

_CONNECT_S = 1.0


def connect(snapshot: Snapshot) -> Redis | None:
    """Make a client, which connects with the first question; None: none is shared."""
    shared = snapshot.listener.shared
    if shared is None:
        return None
    host, _, port = shared.address.rpartition(":")
    return Redis(
        host=host.strip("[]"),
        port=int(port),
        username=shared.username,
        password=snapshot.shared_password,
        ssl=shared.tls,
        socket_connect_timeout=_CONNECT_S,
    )
