"""Routes, providers, keys and endpoints as tables of the gateway's TOML (pure).

Called by `reconciler.render`, one object at a time: each object is one table, so
that each is planned, applied and recorded on its own. The target joins them into
one file. Secrets never pass here, only where they are.
"""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import BaseModel

from renderers.kubernetes import namespace_of
from schemas import gateway as config
from schemas.access import ApiKey, Project
from schemas.cluster import Cluster
from schemas.endpoint import Endpoint
from schemas.environment import Environment
from schemas.gateway_toml import dump_table
from schemas.model import Model
from schemas.naming import Objects, find, resolve_ref
from schemas.objects import DEFAULT_PROJECT, Credential, Ref
from schemas.route import Fallback, Limits, Provider, Route, RouteTarget
from schemas.units import Money

__all__ = [
    "canary_of",
    "render_endpoint",
    "render_environment",
    "render_key",
    "render_project",
    "render_provider",
    "render_route",
    "upstream_of",
]

ADDRESSES = "../local/addresses.json"
"""Where the local target publishes replicas, seen from the gateway's folder."""

USAGE = "usage"
"""A record of each request, in the gateway's folder: budgets are counted from it."""

LOCAL_KEY_HASH = "local.sha256"
"""Of the key that this machine made for itself, in the gateway's folder."""

_DIALECTS: dict[str, config.Dialect] = {
    "openai": "openai",
    "azure-openai": "azure",
    "anthropic": "anthropic",
    "gemini": "gemini",
    "bedrock": "bedrock",
    "cohere": "cohere",
}

_CAPABILITIES: dict[str, tuple[config.Capability, ...]] = {
    "chat": ("chat", "completions"),
    "completion": ("completions",),
    "embedding": ("embeddings",),
}


_PROVIDED: tuple[config.Capability, ...] = (
    "chat",
    "completions",
    "embeddings",
    "moderations",
    "rerank",
)
"""Of a provider; the gateway drops what a dialect has no words for."""


def render_environment(environment: Environment) -> bytes:
    settings = environment.spec.gateway
    listener = config.Listener(
        listen=f"{settings.host}:{settings.port}",
        admin=f"127.0.0.1:{settings.admin_port}",
        workers=settings.workers,
        discovery=ADDRESSES,
        usage=USAGE,
        store=config.Store(),
    )
    content = dump_table("gateway", listener).encode()
    if settings.local_key:
        key = config.Key(hash_from=config.Credential(file=LOCAL_KEY_HASH))
        content += _table("keys", f"{DEFAULT_PROJECT}/local.key", key)
    return content


def render_endpoint(endpoint: Endpoint, model: Model, cluster: Cluster) -> bytes:
    """An upstream: processes of this machine publish their addresses, a cluster's
    pods stand behind one name."""
    near = cluster.spec.provider == "local"
    upstream = config.Upstream(
        discovered=near,
        urls=() if near else (_url(endpoint, cluster),),
        model=endpoint.metadata.name,
        capabilities=_CAPABILITIES[model.spec.task],
    )
    return _table("upstreams", upstream_of(endpoint.ref), upstream)


def _url(endpoint: Endpoint, cluster: Cluster) -> str:
    """Through the cluster's ingress where it has a host, else from inside of it."""
    project, name = endpoint.metadata.project, endpoint.metadata.name
    ingress = cluster.spec.ingress
    if ingress is not None and ingress.host is not None:
        return f"http://{ingress.host}/{project}/{name}/v1"
    return f"http://{name}.{namespace_of(project)}.svc"


def render_provider(provider: Provider) -> bytes:
    tls, price = provider.spec.tls, provider.spec.price
    upstream = config.Upstream(
        dialect=_DIALECTS[provider.spec.dialect],
        capabilities=_PROVIDED,
        urls=(provider.spec.base_url,),
        credential=_credential(provider.spec.credentials),
        region=provider.spec.region,
        api_version=provider.spec.api_version,
        tls=config.UpstreamTls(
            ca=_credential(tls.ca),
            certificate=_credential(tls.certificate),
            key=_credential(tls.key),
            oldest=tls.oldest,
        ),
        price=price and config.Price(**dict(price)),
    )
    return _table("upstreams", upstream_of(provider.ref), upstream)


def render_key(key: ApiKey, objects: Objects) -> bytes:
    project, spec = key.metadata.project, key.spec
    routes = [resolve_ref(objects, Ref("Route", project, name)) for name in spec.routes]
    table = config.Key(
        hash=spec.hash,
        routes=tuple(f"{route.project}/{route.name}" for route in routes) or None,
        limits=_limits(spec.limits, spec.budget_per_month),
        expires=spec.expires,
        disabled=spec.disabled,
    )
    return _table("keys", f"{project}/{key.metadata.name}", table)


def render_project(project: Project) -> bytes:
    limits = _limits(project.spec.limits, project.spec.budget_per_month)
    return dump_table(
        f"projects.{project.metadata.name}", config.Project(limits=limits)
    ).encode()


def render_route(route: Route, objects: Objects) -> bytes:
    """``objects`` are what names may mean; cycles of fallbacks were refused before."""
    spec = route.spec
    table = config.Route(
        models=spec.models,
        strategy=spec.strategy,
        targets=tuple(_targets(route, objects)),
        attempts=spec.retries.attempts + 1,
        retry_percent=spec.retries.budget_percent,
        hold=spec.timeouts.hold,
        limits=_limits(spec.limits),
        queue=spec.queue and config.Queue(**dict(spec.queue)),
        hedge=spec.hedge and config.Hedge(**dict(spec.hedge)),
        cache=_cache(route, objects),
        guardrails=tuple(_guardrails(route, objects)),
        shadow=_shadow(route, objects),
        timeouts=config.Timeouts(
            connect=spec.timeouts.connect,
            first=spec.timeouts.first_token,
            stall=spec.timeouts.inter_token,
            attempt=spec.timeouts.attempt,
            total=spec.timeouts.total,
        ),
    )
    return _table("routes", f"{route.metadata.project}/{route.metadata.name}", table)


def upstream_of(ref: Ref) -> str:
    """An upstream's name. A dot cannot be in an object's name, so none collide."""
    prefix = "provider." if ref.kind == "Provider" else ""
    return f"{ref.project}/{prefix}{ref.name}"


def _upstream(objects: Objects, user: Route, kind: str, name: str) -> str:
    """The upstream that a name in ``user`` means: its project's, or a shared one."""
    return upstream_of(resolve_ref(objects, Ref(kind, user.metadata.project, name)))


def _targets(route: Route, objects: Objects) -> list[config.Target]:
    """The targets are the first tier, each fallback is one more."""
    first = _tier(route, 0, route.spec.targets, objects)
    tiers = [_with_canary(route, first, objects)]
    for fallback in route.spec.fallbacks:
        if fallback.route is not None:
            other = find(objects, Route, route.metadata.project, fallback.route)
            assert other is not None, "the overlay has checked every reference"
            chain = _targets(other, objects)
            base = len(tiers)
            depth = max(target.priority for target in chain) + 1
            tiers += [
                [
                    target.model_copy(update={"priority": base + level})
                    for target in chain
                    if target.priority == level
                ]
                for level in range(depth)
            ]
        else:
            tiers.append(_tier(route, len(tiers), [fallback], objects))
    seen: dict[tuple[str, str | None], config.Target] = {}
    for target in (target for tier in tiers for target in tier):
        # A target that a fallback names again would only be tried again.
        seen.setdefault((target.upstream, target.model), target)
    return list(seen.values())


def _with_canary(
    route: Route, tier: list[config.Target], objects: Objects
) -> list[config.Target]:
    """Give the newcomer its share, in whole weights."""
    canary = route.spec.canary
    if canary is None:
        return tier
    total = sum(target.weight for target in tier)
    name = canary_of(route, objects)
    rest = 100 - canary.percent
    return [
        *(t.model_copy(update={"weight": t.weight * rest}) for t in tier),
        config.Target(upstream=name, weight=total * canary.percent),
    ]


def canary_of(route: Route, objects: Objects) -> str:
    """The newcomer's upstream; empty without one."""
    canary = route.spec.canary
    return _upstream(objects, route, "Endpoint", canary.endpoint) if canary else ""


def _tier(
    route: Route,
    priority: int,
    targets: tuple[RouteTarget, ...] | list[Fallback],
    objects: Objects,
) -> list[config.Target]:
    return [
        config.Target(
            upstream=_upstream(objects, route, "Endpoint", target.endpoint)
            if target.endpoint is not None
            else _upstream(objects, route, "Provider", str(target.provider)),
            model=target.model,
            weight=target.weight if isinstance(target, RouteTarget) else 1,
            priority=priority,
        )
        for target in targets
    ]


def _cache(route: Route, objects: Objects) -> config.Cache | None:
    cache = route.spec.cache
    if cache is None:
        return None
    embeddings = None
    if cache.embeddings is not None:
        embeddings = _upstream(objects, route, "Endpoint", cache.embeddings)
    return config.Cache(
        mode=cache.mode,
        ttl=cache.ttl,
        similarity=cache.similarity_percent / 100,
        embeddings=embeddings,
    )


def _shadow(route: Route, objects: Objects) -> config.Shadow | None:
    shadow = route.spec.shadow
    if shadow is None:
        return None
    upstream = _upstream(objects, route, "Endpoint", shadow.endpoint)
    return config.Shadow(upstream=upstream, percent=shadow.percent)


def _guardrails(route: Route, objects: Objects) -> Iterator[config.Guardrail]:
    for rail in route.spec.guardrails:
        judge = None
        if rail.moderation is not None:
            judge = _upstream(objects, route, "Provider", rail.moderation)
        yield config.Guardrail(
            name=rail.name,
            on=rail.on,
            regex=rail.regex,
            pii=rail.pii,
            moderation=judge,
            action=rail.action,
            failure=rail.failure,
        )


def _limits(limits: Limits, budget: Money | None = None) -> config.Limits:
    return config.Limits(
        requests_per_minute=limits.requests_per_minute,
        tokens_per_minute=limits.tokens_per_minute,
        concurrent=limits.concurrency,
        budget=budget,
    )


def _credential(credential: Credential | None) -> config.Credential | None:
    if credential is None:
        return None
    return config.Credential(env=credential.env, file=credential.file)


def _table(family: str, name: str, table: BaseModel) -> bytes:
    return dump_table(f'{family}."{name}"', table).encode()
