"""The config as the data path reads it: one immutable value, swapped whole.

Made by `compilation`; requests in flight keep the one they began with.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple
from urllib.parse import urlsplit

from gateway.accounts import Price
from gateway.gating import Caching, Guard, Shadow
from gateway.limits import Limiter
from gateway.openai import Op
from schemas.gateway import Listener

__all__ = [
    "Address",
    "Choice",
    "Hedge",
    "Key",
    "Queue",
    "Route",
    "Snapshot",
    "Target",
    "Timeouts",
    "Trust",
    "Upstream",
]

PLAIN, PEPPERED = "sha256", "hmac-sha256"


class Trust(NamedTuple):
    """What TLS with an upstream needs: PEM texts, and the oldest version."""

    oldest: str = "1.3"
    ca: str | None = None
    certificate: str | None = None
    key: str | None = None


_USUAL = Trust()


@dataclass(frozen=True, slots=True)
class Address:
    """One place where an upstream listens."""

    url: str
    host: str
    port: int
    tls: bool
    authority: bytes
    prefix: bytes
    trust: Trust = _USUAL

    @classmethod
    def parse(cls, url: str, base: str = "/v1", trust: Trust = _USUAL) -> Address:
        parts = urlsplit(url)
        assert parts.hostname is not None  # the schema has checked
        tls = parts.scheme == "https"
        return cls(
            url=url,
            host=parts.hostname,
            port=parts.port or (443 if tls else 80),
            tls=tls,
            authority=parts.netloc.encode(
                "idna" if not parts.netloc.isascii() else "ascii"
            ),
            prefix=(parts.path.rstrip("/") or base).encode(),
            trust=trust,
        )


@dataclass(frozen=True, slots=True, eq=False)
class Upstream:
    name: str
    model: str | None
    dialect: str
    ops: frozenset[Op]
    addresses: tuple[Address, ...]
    price: Price
    heads: Mapping[tuple[str, Op], bytes]
    """The start of a request's head, by address and operation."""
    signing: tuple[str, str] | None = None
    """A key pair and the region it is good for, where requests are signed."""


@dataclass(frozen=True, slots=True, eq=False)
class Target:
    upstream: Upstream
    model: str | None
    """What the upstream calls it; None: what the client does."""
    weight: int
    lines: bytes
    """Fields that tell a client who answered."""


class Choice(NamedTuple):
    """One place where a request may go."""

    target: Target
    address: Address
    head: bytes
    """The start of the head of a request for what is asked."""
    plain: bool
    """It speaks OpenAI's API: what others answer is translated."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """In seconds."""

    connect: float
    first: float
    stall: float
    attempt: float
    total: float


class Queue(NamedTuple):
    """How requests wait for a place on a full route."""

    name: str
    """Of the limiter that says it is full."""
    wait_s: float
    length: int


class Hedge(NamedTuple):
    """When a request that has no content yet is asked a second time."""

    after_s: float
    percentile: int | None
    """Instead, of what its address took lately."""


@dataclass(frozen=True, slots=True, eq=False)
class Route:
    name: str
    ops: frozenset[Op]
    """What any of its targets can do, were it there."""
    choices: Mapping[Op, tuple[tuple[Choice, ...], ...]]
    """By operation: the places of each tier that has any."""
    strategy: str
    attempts: int
    retry_percent: int
    hold: float
    """Seconds to wait for an address."""
    timeouts: Timeouts
    limiters: tuple[Limiter, ...]
    price: Price
    """The highest of its targets: what is reserved."""
    queue: Queue | None = None
    hedge: Hedge | None = None
    guards: tuple[Guard, ...] = ()
    caching: Caching | None = None
    shadow: Shadow | None = None
    gated: frozenset[Op] = frozenset()
    """What is looked at, or kept, on its way."""


@dataclass(frozen=True, slots=True, eq=False)
class Key:
    """What one API key may see."""

    name: str
    expires: float | None
    """Seconds since the epoch."""
    limiters: tuple[Limiter, ...]
    """Its own and its project's."""
    routes: Mapping[str, Route]
    """By public model name."""
    models: bytes
    """The answer to ``GET /v1/models``."""

    def holds(self, now: float) -> bool:
        return self.expires is None or now < self.expires


@dataclass(frozen=True, slots=True, eq=False)
class Snapshot:
    listener: Listener
    pepper: bytes
    keys: Mapping[tuple[str, bytes], Key]
    """By kind of hash and its bytes."""
    upstreams: Mapping[str, Upstream]
    routes: Mapping[str, Route]
    urls: frozenset[str] = field(default_factory=frozenset)
    services: Mapping[str, Route] = field(default_factory=dict)
    """By upstream: routes of our own to what judges or embeds texts."""
    shared_password: str | None = None

    def key_for(self, secret: bytes, *, now: float) -> Key | None:
        """Find whose key this is; ``now`` in seconds since the epoch."""
        key = self.keys.get((PLAIN, hashlib.sha256(secret).digest()))
        if key is None and self.pepper:
            key = self.keys.get((PEPPERED, hmac.digest(self.pepper, secret, "sha256")))
        # A lookup by digest leaks, at most, how much of the digest of a wrong
        # key is like that of a right one, which brings nobody nearer to it.
        return key if key is not None and key.holds(now) else None

    def key_named(self, name: str | None, *, now: float) -> Key | None:
        """Find a key that work was begun with, if it is still good."""
        found = (key for key in self.keys.values() if key.name == name)
        return next((key for key in found if key.holds(now)), None)
