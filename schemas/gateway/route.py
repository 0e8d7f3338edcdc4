"""The tables `routes`: public model names, and what becomes of their requests."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Literal, Self

from pydantic import Field, model_validator

from schemas.gateway.values import (
    Capability,
    Label,
    Limits,
    Pattern,
    PublicModel,
    Ref,
    Strategy,
    Table,
    Timeouts,
)
from schemas.units import Duration

__all__ = ["Cache", "Guardrail", "Hedge", "Queue", "Route", "Shadow", "Target"]


class Cache(Table):
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


class Guardrail(Table):
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


class Target(Table):
    upstream: Ref
    model: str | None = Field(default=None, min_length=1)
    """The name this upstream knows the model by; absent: what the upstream says."""
    weight: int = Field(default=1, ge=0, le=1_000_000)
    priority: int = Field(default=0, ge=0, le=100)
    """Tier: 0 is tried first; a fallback chain is one tier after another."""


class Queue(Table):
    """Requests that come when a route is full wait for a place instead of failing."""

    wait: Duration = Duration("10s")
    """How long one waits; below the time that clients wait for a first byte."""
    length: int = Field(default=1000, ge=1, le=100_000)
    """How many may wait in one worker."""


class Hedge(Table):
    """A request without content by then is also asked of another address, once; the
    first content of the two is the answer, and the other is left."""

    after: Duration = Duration("1s")
    """With ``percentile``, only until 20 answers of an address are known."""
    percentile: int | None = Field(default=None, ge=50, le=99)
    """Of what the address took lately until content. 95 asks one of twenty twice, and
    takes most of the tail (Dean and Barroso, The Tail at Scale, 2013)."""


class Shadow(Table):
    """A share of a route's requests is also asked of somebody else, whose answer
    nobody sees; at the cost of its project, and limited by nothing else."""

    upstream: Ref
    percent: int = Field(default=10, ge=1, le=100)


class Route(Table):
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
