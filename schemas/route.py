"""Route: the model names a developer calls, and who answers them."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from schemas.gateway import Pattern
from schemas.objects import Credential, FoundryObject, Name, Refers, Strict
from schemas.units import Duration, Money

__all__ = ["Limits", "Provider", "ProviderSpec", "Route", "RouteSpec", "RouteTarget"]

PublicName = Annotated[str, StringConstraints(pattern=r"^[\w][\w./:@-]{0,127}$")]
Positive = Annotated[int, Field(ge=1)]
EndpointName = Annotated[Name | None, Refers("Endpoint")]
ProviderName = Annotated[Name | None, Refers("Provider")]


class Limits(Strict):
    """What one caller may use; reserved when a request starts, settled at its end."""

    requests_per_minute: Positive | None = None
    tokens_per_minute: Positive | None = None
    concurrency: Positive | None = None


class RouteTarget(Strict):
    endpoint: EndpointName = None
    provider: ProviderName = None
    model: PublicName | None = Field(
        default=None, description="the name this provider knows, or an adapter's name"
    )
    weight: Annotated[int, Field(ge=0, le=1000)] = 1

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        if (self.endpoint is None) == (self.provider is None):
            raise ValueError("name exactly one of endpoint, provider")
        if self.provider is not None and self.model is None:
            raise ValueError("a provider serves many models: name one with model")
        return self


class Fallback(Strict):
    """Tried in order when the targets cannot answer."""

    endpoint: EndpointName = None
    provider: ProviderName = None
    route: Annotated[Name | None, Refers("Route")] = None
    model: PublicName | None = None

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        if sum(v is not None for v in (self.endpoint, self.provider, self.route)) != 1:
            raise ValueError("name exactly one of endpoint, provider, route")
        if self.provider is not None and self.model is None:
            raise ValueError("a provider serves many models: name one with model")
        return self


class Retries(Strict):
    attempts: Annotated[int, Field(ge=0, le=10)] = 2
    budget_percent: Annotated[int, Field(ge=0, le=100)] = Field(
        default=20,
        description="retries may be this share of requests, so that they "
        "never double the load of an outage",
    )


class Timeouts(Strict):
    connect: Duration = Duration("2s")
    first_token: Duration = Duration("60s")
    inter_token: Duration = Duration("30s")
    attempt: Duration | None = Field(
        default=None,
        description="how long a target may take until its caller has something, "
        "which of an answer that is not streamed is all of it; then the next is asked",
    )
    total: Duration = Duration("10m")
    hold: Duration = Field(
        default=Duration("30s"),
        description="how long a request waits while no replica is ready",
    )


class Queue(Strict):
    """Requests beyond ``limits.concurrency`` wait for a place, in fair shares."""

    wait: Duration = Field(
        default=Duration("10s"), description="how long one waits before it is refused"
    )
    length: Annotated[int, Field(ge=1, le=100_000)] = Field(
        default=1000, description="how many may wait in one worker"
    )


class Hedge(Strict):
    """A request that is late is also asked of another address; the first wins."""

    after: Duration = Field(
        default=Duration("1s"), description="how long the first may have no content"
    )
    percentile: Annotated[int, Field(ge=50, le=99)] | None = Field(
        default=None,
        description="late is instead what this share of its latest answers took",
    )


class Cache(Strict):
    mode: Literal["exact", "semantic"] = "exact"
    ttl: Duration = Duration("1h")
    similarity_percent: Annotated[int, Field(ge=50, le=100)] = 97
    embeddings: EndpointName = Field(
        default=None, description="semantic only: the endpoint that embeds prompts"
    )

    @model_validator(mode="after")
    def _semantic_needs_embeddings(self) -> Self:
        if (self.mode == "semantic") != (self.embeddings is not None):
            raise ValueError("embeddings belongs to mode semantic, which needs it")
        return self


class Guardrail(Strict):
    """A check on what goes in or comes out."""

    name: Name
    on: Literal["input", "output", "both"] = "both"
    regex: Pattern | None = None
    pii: tuple[Literal["email", "phone", "card", "ssn", "iban"], ...] = ()
    moderation: ProviderName = Field(
        default=None, description="a provider with a moderations endpoint"
    )
    action: Literal["block", "redact", "flag"] = "block"
    failure: Literal["open", "closed"] = Field(
        default="closed", description="what nobody could check may pass, or not"
    )

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        if self.moderation is not None and self.action == "redact":
            raise ValueError("moderation does not say where: block or flag")
        if (
            sum((self.regex is not None, bool(self.pii), self.moderation is not None))
            != 1
        ):
            raise ValueError("name exactly one of regex, pii, moderation")
        return self


class Canary(Strict):
    """A share of the traffic for a newcomer, judged on live answers."""

    endpoint: Annotated[Name, Refers("Endpoint")]
    percent: Annotated[int, Field(ge=1, le=50)] = 5
    max_ttft_increase_percent: Annotated[int, Field(ge=0, le=1000)] = 10
    max_error_percent: Annotated[float, Field(ge=0, le=100)] = 1.0


class Shadow(Strict):
    """A share of the traffic is also asked of somebody whose answer nobody sees."""

    endpoint: Annotated[Name, Refers("Endpoint")]
    percent: Annotated[int, Field(ge=1, le=100)] = 10


class RouteSpec(Strict):
    models: Annotated[tuple[PublicName, ...], Field(min_length=1)]
    targets: Annotated[tuple[RouteTarget, ...], Field(min_length=1)]
    fallbacks: tuple[Fallback, ...] = ()
    strategy: Literal[
        "weighted", "least-latency", "least-load", "prefix-affinity", "sticky", "cost"
    ] = "weighted"
    retries: Retries = Retries()
    timeouts: Timeouts = Timeouts()
    limits: Limits = Limits()
    queue: Queue | None = None
    hedge: Hedge | None = None
    cache: Cache | None = None
    guardrails: tuple[Guardrail, ...] = ()
    canary: Canary | None = None
    shadow: Shadow | None = None

    @model_validator(mode="after")
    def _sane_weights(self) -> Self:
        if not any(target.weight for target in self.targets):
            raise ValueError("every target has weight 0: nobody would answer")
        if len(set(self.models)) != len(self.models):
            raise ValueError(f"models must differ: {', '.join(self.models)}")
        seen = [(t.endpoint, t.provider, t.model) for t in self.targets]
        if len(set(seen)) != len(seen):
            raise ValueError("a target is named twice: give it one weight instead")
        return self

    @model_validator(mode="after")
    def _room_for_more(self) -> Self:
        if self.queue is not None and self.limits.concurrency is None:
            raise ValueError("queue needs limits.concurrency: it says when it is full")
        retries = self.retries
        if self.hedge is not None and not (retries.attempts and retries.budget_percent):
            raise ValueError("hedge needs retries: they allow no second try")
        return self


class Route(FoundryObject):
    kind: Literal["Route"]
    spec: RouteSpec


class ProviderTls(Strict):
    """How a provider by ``https`` is spoken to, where it is not as everywhere."""

    ca: Credential | None = Field(
        default=None, description="PEM of who may have signed its certificate"
    )
    certificate: Credential | None = Field(
        default=None, description="PEM, with the chain, that the gateway shows"
    )
    key: Credential | None = None
    oldest: Literal["1.2", "1.3"] = "1.3"

    @model_validator(mode="after")
    def _pair(self) -> Self:
        if (self.certificate is None) != (self.key is None):
            raise ValueError("certificate and key belong together")
        return self


class ProviderPrice(Strict):
    """Of a million tokens. Models with other prices are another provider."""

    input: Money
    output: Money
    cached: Money | None = Field(
        default=None, description="input from its prefix cache, if that costs less"
    )


class ProviderSpec(Strict):
    """An LLM API that somebody else runs."""

    dialect: Literal[
        "openai", "azure-openai", "anthropic", "gemini", "bedrock", "cohere"
    ]
    base_url: Annotated[str, StringConstraints(pattern=r"^https?://[^\s@]+$")]
    credentials: Credential | None = None
    region: str | None = None
    api_version: str | None = None
    tls: ProviderTls = ProviderTls()
    price: ProviderPrice | None = Field(
        default=None, description="what budgets and the strategy cost count with"
    )

    @model_validator(mode="after")
    def _tls_is_spoken(self) -> Self:
        if self.tls != ProviderTls() and not self.base_url.startswith("https:"):
            raise ValueError("tls belongs to a baseUrl by https")
        return self


class Provider(FoundryObject):
    kind: Literal["Provider"]
    spec: ProviderSpec
