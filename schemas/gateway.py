"""The gateway's config: what the renderer writes and the gateway reads.

Two files. `GatewayConfig` is the TOML that a person may also write by hand, one
table for each declared object. `Addresses` is the small JSON beside it that
says where the replicas of an upstream listen right now. `schemas.gateway_toml`
reads and writes their text; this module never touches a file.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

import re2
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    model_validator,
)

from schemas.units import Bytes, Duration, Money

__all__ = [
    "HASH",
    "Addresses",
    "Cache",
    "Capability",
    "Credential",
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

_LABEL = r"[a-z0-9](?:[-a-z0-9.]{0,61}[a-z0-9])?"
Label = Annotated[str, StringConstraints(pattern=rf"^{_LABEL}$")]
Ref = Annotated[str, StringConstraints(pattern=rf"^{_LABEL}/{_LABEL}$")]
"""``<project>/<name>``: how every table of the config is called."""
PublicModel = Annotated[
    str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/@+-]{0,199}$")
]
"""What a client writes in ``model``."""
HASH = re.compile(r"^(sha256|hmac-sha256):[0-9a-f]{64}$")
KeyHash = Annotated[str, StringConstraints(pattern=HASH.pattern)]
# Plain strings, not an Enum: hashing a member runs Python code in 3.11, and the
# gateway looks these up several times for each request.
Capability = Literal[
    "chat",
    "completions",
    "embeddings",
    "responses",
    "moderations",
    "rerank",
    "score",
    "classify",
    "tokenize",
    "detokenize",
    "images",
    "image-edits",
    "image-variations",
    "speech",
    "transcriptions",
    "translations",
    "realtime",
]
Dialect = Literal["openai", "azure", "anthropic", "gemini", "bedrock", "cohere"]
Strategy = Literal[
    "weighted", "least-load", "least-latency", "prefix-affinity", "sticky", "cost"
]
HostPort = Annotated[str, StringConstraints(pattern=r"^[^\s/@]+:\d{1,5}$")]


def hash_key(key: str, *, pepper: bytes = b"") -> str:
    """Hash an API key the way the config stores it.

    A key is 128 random bits or more, so one SHA-256 cannot be guessed back. A
    pepper ties the hashes to one installation: a leaked config then says
    nothing even about a key that somebody chose by hand.
    """
    data = key.encode()
    if pepper:
        return "hmac-sha256:" + hmac.new(pepper, data, hashlib.sha256).hexdigest()
    return "sha256:" + hashlib.sha256(data).hexdigest()


def _base_url(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError(f"cannot use the address {url!r}: write http://host:port")
    if parts.query or parts.fragment or parts.username is not None:
        raise ValueError(
            f"cannot use the address of {parts.hostname!r}: it carries a user, a "
            "query or a fragment; a secret belongs in `credential`"
        )
    _ = parts.port  # raises ValueError when it is not a port
    return url.rstrip("/")


BaseUrl = Annotated[str, StringConstraints(max_length=2048), AfterValidator(_base_url)]
"""``http://host:port`` (then ``/v1`` is added) or a base that ends in its path."""


def _re2(pattern: str) -> str:
    options = re2.Options()
    options.log_errors = False
    try:
        re2.compile(pattern, options)
    except re2.error as error:
        raise ValueError(
            f"cannot read the pattern {pattern!r}: {error}; RE2's syntax has no "
            "look-around and no back-references"
        ) from error
    return pattern


Pattern = Annotated[str, StringConstraints(min_length=1), AfterValidator(_re2)]
"""A regular expression of RE2, which takes linear time whatever the text."""


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Credential(_Table):
    """Where a secret is, never what it is: one of the two."""

    env: str | None = Field(default=None, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")
    file: str | None = Field(default=None, min_length=1)

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.env is None) == (self.file is None):
            raise ValueError("cannot read a credential: give either env or file")
        return self


class Timeouts(_Table):
    """How long each part of a request may take.

    ``first`` is for streams: from sending a try to its first content event; an
    answer that is not streamed has no byte before its last token, so only
    ``attempt`` and ``total`` bound it. ``stall`` is the longest silence after the
    first byte.
    """

    connect: Duration = Duration("5s")
    first: Duration = Duration("60s")
    stall: Duration = Duration("60s")
    attempt: Duration | None = None
    """A try that has given the client nothing by then is left for another."""
    total: Duration = Duration("600s")  # what the OpenAI clients wait by default


class Shared(_Table):
    """Valkey, or Redis: what several gateways share, limits and cached answers."""

    address: HostPort
    username: str | None = None
    credential: Credential | None = None
    """Its password."""
    tls: bool = False
    failure: Literal["open", "closed"] = "open"
    """While it does not answer: each gateway keeps the limits alone, or none admits."""


class Telemetry(_Table):
    """Where spans and metrics go, by OTLP over HTTP; made of the records."""

    endpoint: BaseUrl
    """The collector, such as ``http://127.0.0.1:4318``."""
    authorization: Credential | None = None
    """The whole value of that field."""
    sample: float = Field(default=0.01, ge=0, le=1)
    """Of requests without a trace of their own; those with one do as it says."""
    interval: Duration = Duration("30s")
    """Between two exports of the metrics."""


class Cache(_Table):
    """Answers that are given again to the same question of the same project."""

    mode: Literal["exact", "semantic"] = "exact"
    ttl: Duration = Duration("1h")
    similarity: float = Field(default=0.97, ge=0.5, le=1)
    """Cosine of two prompts' embeddings that are taken for the same question."""
    embeddings: Ref | None = None
    """The upstream that embeds prompts."""

    @model_validator(mode="after")
    def _embedded(self) -> Self:
        if (self.mode == "semantic") != (self.embeddings is not None):
            raise ValueError(
                "cannot compare prompts: semantic, and only it, needs embeddings"
            )
        return self


class Guardrail(_Table):
    """A check on what goes in or comes out; one of regex, pii, moderation."""

    name: Label
    on: Literal["input", "output", "both"] = "both"
    regex: Pattern | None = None
    pii: tuple[Literal["email", "phone", "card", "ssn", "iban"], ...] = ()
    moderation: Ref | None = None
    """The upstream whose ``/moderations`` judges."""
    action: Literal["block", "redact", "flag"] = "block"
    failure: Literal["open", "closed"] = "closed"
    """What nobody could check may pass, or not."""

    @model_validator(mode="after")
    def _one_check(self) -> Self:
        given = (self.regex is not None, bool(self.pii), self.moderation is not None)
        if sum(given) != 1:
            raise ValueError(
                "cannot tell what to look for: give one of regex, pii, moderation"
            )
        if self.moderation is not None and self.action == "redact":
            raise ValueError("cannot redact by moderation: it does not say where")
        return self


class Limits(_Table):
    """What one key, route or project may use; what is absent is not limited.

    A minute's worth of requests or tokens may come at once, and is refilled
    steadily. Tokens and money are reserved before a request runs and settled
    with what it used.
    """

    requests_per_minute: int | None = Field(default=None, ge=1)
    tokens_per_minute: int | None = Field(default=None, ge=1)
    concurrent: int | None = Field(default=None, ge=1)
    budget: Money | None = None
    budget_per: Literal["day", "month"] = "month"
    """Calendar days or months, in UTC."""


class Price(_Table):
    """Of a million tokens."""

    input: Money
    output: Money
    cached: Money | None = None
    """Of input that came from the prefix cache; absent: as other input."""


class Project(_Table):
    """What all keys of a project share."""

    limits: Limits = Limits()


class Tls(_Table):
    """TLS 1.3 towards clients. Paths are relative to the config file."""

    certificate: str
    """PEM, with the chain."""
    key: str
    client_ca: str | None = None
    """If set, a client must show a certificate that one of these signed."""


class Store(_Table):
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


class Listener(_Table):
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


class Key(_Table):
    """One API key, by its hash."""

    hash: KeyHash | None = None
    hash_from: Credential | None = None
    """Where the hash is, for a key that one machine made for itself."""
    routes: tuple[Ref, ...] | None = None
    """Routes it may use; absent: all of the project in its table's name."""
    limits: Limits = Limits()
    expires: datetime | None = None
    disabled: bool = False

    @model_validator(mode="after")
    def _one_hash(self) -> Self:
        if (self.hash is None) == (self.hash_from is None):
            raise ValueError("cannot know the key: give either hash or hash_from")
        return self

    @model_validator(mode="after")
    def _zoned(self) -> Self:
        if self.expires is not None and self.expires.tzinfo is None:
            raise ValueError(
                f"cannot place {self.expires.isoformat()} in time: add the offset, "
                "such as 2027-01-31T00:00:00Z"
            )
        return self


class UpstreamTls(_Table):
    """How an upstream by ``https`` is spoken to; what is absent is as everywhere."""

    ca: Credential | None = None
    """PEM of who may have signed its certificate; absent: the system's authorities."""
    certificate: Credential | None = None
    """PEM, with the chain, that we show it, and ``key``, its key."""
    key: Credential | None = None
    oldest: Literal["1.2", "1.3"] = "1.3"

    @model_validator(mode="after")
    def _pair(self) -> Self:
        if (self.certificate is None) != (self.key is None):
            raise ValueError("cannot show a certificate: give certificate and key")
        return self


class Upstream(_Table):
    """Something that answers: an endpoint of ours or a provider's API."""

    dialect: Dialect = "openai"
    """``azure`` is OpenAI's with Azure's way to name a key, for addresses that end
    in ``/openai/v1`` or, with ``api_version``, in ``/openai/deployments/<name>``. The
    others are translated."""
    region: str | None = Field(default=None, pattern=r"^[a-z0-9-]+$")
    """Of Bedrock, where the address does not say it."""
    api_version: str | None = Field(default=None, pattern=r"^[a-z0-9.-]+$")
    """Of Azure's older addresses."""
    model: str | None = Field(default=None, min_length=1)
    """The name it knows the model by; absent: the name the client wrote."""
    urls: tuple[BaseUrl, ...] = ()
    discovered: bool = False
    """Its addresses are in the discovery file, under this table's name."""
    credential: Credential | None = None
    tls: UpstreamTls = UpstreamTls()
    price: Price | None = None
    capabilities: tuple[Capability, ...] = ("chat", "completions", "embeddings")

    @model_validator(mode="after")
    def _reachable(self) -> Self:
        if self.discovered == bool(self.urls):
            raise ValueError("cannot reach it: give either urls or discovered = true")
        return self


class Target(_Table):
    upstream: Ref
    model: str | None = Field(default=None, min_length=1)
    """The name this upstream knows the model by; absent: what the upstream says."""
    weight: int = Field(default=1, ge=0, le=1_000_000)
    priority: int = Field(default=0, ge=0, le=100)
    """Tier: 0 is tried first; a fallback chain is one tier after another."""


class Queue(_Table):
    """Requests that come when a route is full wait for a place instead of failing."""

    wait: Duration = Duration("10s")
    """How long one waits; below the time that clients wait for a first byte."""
    length: int = Field(default=1000, ge=1, le=100_000)
    """How many may wait in one worker."""


class Hedge(_Table):
    """A request without content by then is also asked of another address, once; the
    first content of the two is the answer, and the other is left."""

    after: Duration = Duration("1s")
    """With ``percentile``, only until 20 answers of an address are known."""
    percentile: int | None = Field(default=None, ge=50, le=99)
    """Of what the address took lately until content. 95 asks one of twenty twice, and
    takes most of the tail (Dean and Barroso, The Tail at Scale, 2013)."""


class Shadow(_Table):
    """A share of a route's requests is also asked of somebody else, whose answer
    nobody sees; at the cost of its project, and limited by nothing else."""

    upstream: Ref
    percent: int = Field(default=10, ge=1, le=100)


class Route(_Table):
    """Public model names, and what may answer for them."""

    models: tuple[PublicModel, ...] = Field(min_length=1)
    strategy: Strategy = "weighted"
    """How one is chosen among the sound targets of a tier and their addresses."""
    targets: tuple[Target, ...] = Field(min_length=1)
    attempts: int = Field(default=3, ge=1, le=20)
    """Tries in all, over every tier."""
    retry_percent: int = Field(default=20, ge=0, le=100)
    """Retries may be this share of the route's requests (50 in reserve), so that
    they never pile up when everything behind it fails."""
    hold: Duration | None = None
    """How long a request waits while no address is there; absent: the listener's."""
    limits: Limits = Limits()
    queue: Queue | None = None
    """For when `limits.concurrent` is reached; projects, and keys in each, get fair
    shares of the places."""
    hedge: Hedge | None = None
    """Its second tries are among `attempts` and paid from `retry_percent`."""
    cache: Cache | None = None
    guardrails: tuple[Guardrail, ...] = ()
    shadow: Shadow | None = None
    timeouts: Timeouts | None = None
    """Absent: those of the listener."""

    @property
    def services(self) -> Iterator[tuple[str, str, Capability]]:
        """List (the field, the upstream, what is asked of it)."""
        for rail in self.guardrails:
            if rail.moderation is not None:
                yield f"guardrails.{rail.name}", rail.moderation, "moderations"
        if self.cache is not None and self.cache.embeddings is not None:
            yield "cache.embeddings", self.cache.embeddings, "embeddings"

    @model_validator(mode="after")
    def _sane(self) -> Self:
        for what, names in (
            ("guardrail", tuple(rail.name for rail in self.guardrails)),
            ("model", self.models),
            ("target", tuple((t.upstream, t.model) for t in self.targets)),
        ):
            twice = [n for n, count in Counter[object](names).items() if count > 1]
            if twice:
                raise ValueError(f"cannot use the {what} {twice[0]!r} twice in a route")
        if self.queue is not None and self.limits.concurrent is None:
            raise ValueError(
                "cannot queue: limits.concurrent says when a route is full"
            )
        if self.hedge is not None and (self.attempts == 1 or not self.retry_percent):
            raise ValueError(
                "cannot hedge: attempts and retry_percent allow no second try"
            )
        if not any(target.weight for target in self.targets):
            raise ValueError("cannot choose a target: every weight is 0")
        return self


class GatewayConfig(_Table):
    """All of ``gateway.toml``, its cross references checked."""

    gateway: Listener = Listener()
    projects: dict[Label, Project] = {}
    keys: dict[Ref, Key] = {}
    upstreams: dict[Ref, Upstream] = {}
    routes: dict[Ref, Route] = {}

    @model_validator(mode="after")
    def _references(self) -> Self:
        found = [*self._broken_routes(), *self._broken_keys(), *self._uncounted()]
        if found:
            raise ValueError("; ".join(found))
        return self

    def _uncounted(self) -> Iterator[str]:
        if self.gateway.usage is not None:
            return
        if self.gateway.telemetry is not None:
            yield "gateway.telemetry: cannot make spans: gateway.usage is not set"
        for family in ("projects", "keys", "routes"):
            tables: dict[str, Project | Key | Route] = getattr(self, family)
            for name, table in tables.items():
                if table.limits.budget is not None:
                    yield (
                        f'{family}."{name}".limits.budget: cannot count what is '
                        "spent: gateway.usage is not set"
                    )

    def _broken_routes(self) -> Iterator[str]:
        owner: dict[tuple[str, str], str] = {}
        for name, route in self.routes.items():
            for target in route.targets:
                if target.upstream not in self.upstreams:
                    yield (
                        f'routes."{name}".targets: cannot find the upstream '
                        f"{target.upstream!r}"
                    )
            if route.shadow and route.shadow.upstream not in self.upstreams:
                yield (
                    f'routes."{name}".shadow: cannot find the upstream '
                    f"{route.shadow.upstream!r}"
                )
            for field, service, capability in route.services:
                if service not in self.upstreams:
                    yield (
                        f'routes."{name}".{field}: cannot find the upstream {service!r}'
                    )
                elif capability not in self.upstreams[service].capabilities:
                    yield (
                        f'routes."{name}".{field}: cannot ask {service!r}: '
                        f"{capability!r} is not among its capabilities"
                    )
            for model in route.models:
                first = owner.setdefault((name.partition("/")[0], model), name)
                if first != name:
                    yield (
                        f'routes."{name}".models: cannot offer {model!r}: '
                        f'routes."{first}" of the same project does'
                    )

    def _broken_keys(self) -> Iterator[str]:
        owner: dict[str, str] = {}
        for name, key in self.keys.items():
            offered: dict[str, str] = {}
            for route in key.routes or ():
                if route not in self.routes:
                    yield f'keys."{name}".routes: cannot find the route {route!r}'
                    continue
                for model in self.routes[route].models:
                    first = offered.setdefault(model, route)
                    if first != route:
                        yield (
                            f'keys."{name}".routes: cannot tell who answers for '
                            f"{model!r}: {first!r} and {route!r} both do"
                        )
            if key.hash is None:
                continue
            twin = owner.setdefault(key.hash, name)
            if twin != name:
                yield f'keys."{name}".hash: cannot tell it from keys."{twin}"'
            if key.hash.startswith("hmac-") and self.gateway.key_pepper is None:
                yield (
                    f'keys."{name}".hash: cannot check an hmac-sha256 hash: '
                    "gateway.key_pepper is not set"
                )


class Addresses(_Table):
    """All of ``addresses.json``: where the discovered upstreams listen now."""

    version: Literal[1] = 1
    upstreams: dict[Ref, tuple[BaseUrl, ...]] = {}
