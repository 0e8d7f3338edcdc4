"""What of a route is looked at or kept on its way, compiled from the config (pure).

Called by `snapshot`. A route without guardrails and cache has nothing of this,
and its requests take the straight path.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import schemas.gateway as config
from gateway.openai import STATELESS, Op
from schemas.units import Duration

__all__ = [
    "Caching",
    "Guard",
    "Shadow",
    "caching_of",
    "gated_of",
    "guard_of",
    "services_of",
    "shadow_of",
]

# A check must not take longer than whoever waits for it has patience.
_SERVICE_TOTAL, _SERVICE_HOLD = Duration("5s"), Duration("1s")
_LOOKED_AT: frozenset[Op] = frozenset(
    {
        "chat",
        "completions",
        "responses",
        "embeddings",
        "rerank",
        "score",
        "classify",
        "images",
        "speech",
    }
)
"""Where people's words go in or come out as JSON."""


class Guard(NamedTuple):
    """One check of a route, on what goes in or comes out."""

    name: str
    on_input: bool
    on_output: bool
    regex: str | None
    pii: tuple[str, ...]
    moderation: str | None
    """The upstream that judges."""
    action: str
    """block, redact or flag."""
    open: bool
    """What could not be checked may pass."""


class Shadow(NamedTuple):
    """Who else is asked."""

    service: str
    share: float


class Caching(NamedTuple):
    """How a route keeps answers."""

    ttl_s: float
    similarity: float
    embeddings: str | None
    """The upstream that embeds prompts; None: only the same question is the same."""


def gated_of(table: config.Route) -> frozenset[Op]:
    looked_at = _LOOKED_AT if table.guardrails else frozenset()
    return looked_at | (STATELESS if table.cache is not None else frozenset())


def guard_of(table: config.Guardrail) -> Guard:
    return Guard(
        table.name,
        table.on != "output",
        table.on != "input",
        table.regex,
        table.pii,
        table.moderation,
        table.action,
        table.failure == "open",
    )


def caching_of(table: config.Cache | None) -> Caching | None:
    if table is None:
        return None
    return Caching(table.ttl.seconds, table.similarity, table.embeddings)


def shadow_of(name: str, table: config.Route) -> Shadow | None:
    if table.shadow is None:
        return None
    return Shadow(f"{name}.shadow", table.shadow.percent / 100)


def services_of(given: config.GatewayConfig) -> Iterator[tuple[str, config.Route]]:
    """Give a route of our own to each upstream that judges, embeds or is a shadow."""
    for route_name, route in given.routes.items():
        for _, name, _ in route.services:
            yield (
                name,
                config.Route(
                    models=("any",),
                    targets=(config.Target(upstream=name),),
                    timeouts=config.Timeouts(total=_SERVICE_TOTAL),
                    hold=_SERVICE_HOLD,
                ),
            )
        shadow = shadow_of(route_name, route)
        if shadow is not None and route.shadow is not None:
            yield (
                shadow.service,
                config.Route(
                    models=("any",),
                    targets=(config.Target(upstream=route.shadow.upstream),),
                    timeouts=route.timeouts,
                    attempts=1,
                    hold=_SERVICE_HOLD,
                ),
            )
