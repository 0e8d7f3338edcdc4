"""The table `gateway`: the process itself, where it listens and what it shares."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from schemas.gateway.values import BaseUrl, Credential, HostPort, Table, Timeouts
from schemas.units import Bytes, Duration

__all__ = ["Listener", "Shared", "Store", "Telemetry", "Tls"]


class Shared(Table):
    """Valkey, or Redis: what several gateways share, limits and cached answers."""

    address: HostPort
    username: str | None = None
    credential: Credential | None = None
    """Its password."""
    tls: bool = False
    failure: Literal["open", "closed"] = "open"
    """While it does not answer: each gateway keeps the limits alone, or none admits."""


class Telemetry(Table):
    """Where spans and metrics go, by OTLP over HTTP; made of the records."""

    endpoint: BaseUrl
    """The collector, such as ``http://127.0.0.1:4318``."""
    authorization: Credential | None = None
    """The whole value of that field."""
    sample: float = Field(default=0.01, ge=0, le=1)
    """Of requests without a trace of their own; those with one do as it says."""
    interval: Duration = Duration("30s")
    """Between two exports of the metrics."""


class Tls(Table):
    """TLS 1.3 towards clients. Paths are relative to the config file."""

    certificate: str
    """PEM, with the chain."""
    key: str
    client_ca: str | None = None
    """If set, a client must show a certificate that one of these signed."""


class Store(Table):
    """Where files, batches and responses are kept."""

    folder: str = "store"
    """Of the files' contents, relative to the config file. Gateways that share a
    database share this folder, too."""
    database: Credential | None = None
    """A URL, ``postgresql+psycopg://user:password@host/name``; absent: SQLite in the
    folder, for the gateways of one machine."""
    quota: Bytes = Bytes("10GiB")
    """Of one project's files."""
    keep: Duration = Duration("30d")
    """How long a response is kept."""
    batch_width: int = Field(default=16, ge=1, le=1000)
    """Requests of one batch that are in flight together."""


class Listener(Table):
    """The process itself: where it listens and what it bears."""

    listen: HostPort = "127.0.0.1:8080"
    tls: Tls | None = None
    """Absent: plain HTTP, for a listener that only a proxy or this machine reaches."""
    admin: HostPort = "127.0.0.1:9464"
    """Health, readiness, metrics and status; keep it on loopback."""
    workers: int = Field(default=1, ge=0, le=256)
    """Processes; 0 is one for each core."""
    discovery: str = "addresses.json"
    """The addresses file, relative to the config file."""
    key_pepper: Credential | None = None
    """Needed as soon as a key is stored as ``hmac-sha256:``."""
    hold: Duration = Duration("30s")
    """How long a request waits for an upstream without an address. Long enough
    for a restart or a rollout of a small engine, and below the 60 s after which
    load balancers in front of us (nginx, AWS ALB) give up themselves."""
    usage: str | None = None
    """Folder, relative to the config file, for a record of each request. Absent:
    no records, and no budgets, which are counted from them."""
    store: Store | None = None
    """Absent: no files, no batches, and no response is kept."""
    telemetry: Telemetry | None = None
    """Absent: no spans, and metrics only where the admin listener shows them."""
    shared: Shared | None = None
    """Absent: this gateway shares nothing with others."""
    cache_memory: Bytes = Bytes("64MiB")
    """Of one worker, for cached answers; with `shared` they are kept there instead."""
    drain: Duration = Duration("30s")
    """On SIGTERM: how long requests in flight may go on."""
    head_timeout: Duration = Duration("10s")
    """A client has this long to send the head, and then to keep a body flowing."""
    idle: Duration = Duration("75s")
    """Keep-alive of a client connection that is silent between two requests."""
    max_head: Bytes = Bytes("64KiB")
    max_body: Bytes = Bytes("32MiB")
    max_upload: Bytes = Bytes("512MiB")
    """Of a form with files in it; it is never held in memory."""
    max_connections: int = Field(default=10_000, ge=1)
    """Of one worker; further clients are refused at accept."""
    timeouts: Timeouts = Timeouts()
