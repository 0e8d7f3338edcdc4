"""Routes and providers: one name one answer, no circle, no way inside.

Pure; ``check`` calls it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from ipaddress import IPv6Address, ip_address
from urllib.parse import urlsplit

from reconciler.checks.whole import Whole
from reconciler.written import did_you_mean
from schemas.endpoint import Endpoint
from schemas.errors import Problem
from schemas.objects import Ref
from schemas.route import Provider, Route

__all__ = ["check_routes"]

# Where clouds hand out the credentials of the machine that asks. AWS, Azure and
# Google use the link-local range, which is refused as a whole; these lie outside.
_METADATA = {
    "metadata.google.internal",
    "metadata.goog",
    "instance-data.ec2.internal",
    "100.100.100.200",  # Alibaba Cloud
    "168.63.129.16",  # Azure's WireServer
    "fd00:ec2::254",  # AWS, IPv6
    "fd20:ce::254",  # Google, IPv6
}


def check_routes(whole: Whole) -> Iterator[Problem]:
    yield from _public_names_differ(whole)
    yield from _fallbacks_end(whole)
    for route in whole.each(Route):
        yield from _targets_do_one_task(whole, route)
        yield from _cache_embeds(whole, route)
        yield from _models_are_adapters(whole, route)
        yield from _canary_is_new(whole, route)
    for provider in whole.each(Provider):
        yield from _provider_is_outside(whole, provider)
        yield from _secrets_are_within_reach(whole, provider)


def _public_names_differ(whole: Whole) -> Iterator[Problem]:
    first: dict[tuple[str, str], Route] = {}
    for route in whole.each(Route):
        for i, name in enumerate(route.spec.models):
            other = first.setdefault((route.metadata.project, name), route)
            if other is not route:
                yield whole.problem(
                    route,
                    f"spec.models[{i}]",
                    f"cannot use {name!r} twice: {other.ref} answers to it already",
                    "one name means one route of a project",
                )


def _fallbacks_end(whole: Whole) -> Iterator[Problem]:
    """Each circle of fallbacks is named once, at the first of its routes."""
    steps = {
        route.ref: {
            target.ref: i
            for i, fallback in enumerate(route.spec.fallbacks)
            if fallback.route is not None
            and (target := whole.find(route, Route, fallback.route)) is not None
        }
        for route in whole.each(Route)
    }
    for circle in _circles(steps):
        first = circle.index(min(circle))
        turned = [*circle[first:], *circle[: first + 1]]
        yield whole.problem(
            whole.objects[turned[0]],
            f"spec.fallbacks[{steps[turned[0]][turned[1]]}].route",
            f"cannot fall back in a circle: {' -> '.join(r.name for r in turned)}",
            "remove one of these fallbacks",
        )


def _circles(steps: Mapping[Ref, Mapping[Ref, int]]) -> Iterator[list[Ref]]:
    """Walk depth first, without recursion: each step back onto the path is one."""
    seen = set[Ref]()
    for start in sorted(steps):
        path: dict[Ref, None] = {}
        waiting = [(start, 0)]
        while waiting:
            ref, depth = waiting.pop()
            while len(path) > depth:
                path.popitem()
            if ref in path:
                walked = list(path)
                yield walked[walked.index(ref) :]
            elif ref not in seen:
                seen.add(ref)
                path[ref] = None
                waiting.extend((after, depth + 1) for after in steps[ref])


def _targets_do_one_task(whole: Whole, route: Route) -> Iterator[Problem]:
    spec = route.spec
    named = [
        *(
            (f"spec.targets[{i}].endpoint", t.endpoint)
            for i, t in enumerate(spec.targets)
        ),
        *(
            (f"spec.fallbacks[{i}].endpoint", f.endpoint)
            for i, f in enumerate(spec.fallbacks)
        ),
    ]
    if spec.canary is not None:
        named.append(("spec.canary.endpoint", spec.canary.endpoint))
    if spec.shadow is not None:
        named.append(("spec.shadow.endpoint", spec.shadow.endpoint))
    first: tuple[str, bool] | None = None
    for path, name in named:
        embeds = None if name is None else _embeds(whole, route, name)
        if name is None or embeds is None:
            continue
        first = first or (name, embeds)
        if embeds != first[1]:
            one, other = (name, first[0]) if embeds else (first[0], name)
            yield whole.problem(
                route,
                path,
                f"cannot mix tasks in a route: {one} embeds and {other} writes",
                "give each task a route of its own",
            )


def _cache_embeds(whole: Whole, route: Route) -> Iterator[Problem]:
    cache = route.spec.cache
    if cache is None or cache.embeddings is None:
        return
    if _embeds(whole, route, cache.embeddings) is False:
        yield whole.problem(
            route,
            "spec.cache.embeddings",
            f"cannot embed with {cache.embeddings}: its model does not",
            "name an endpoint whose model has task: embedding",
        )


def _embeds(whole: Whole, route: Route, name: str) -> bool | None:
    endpoint = whole.find(route, Endpoint, name)
    model = None if endpoint is None else whole.model_of(endpoint)
    return None if model is None else model.spec.task == "embedding"


def _models_are_adapters(whole: Whole, route: Route) -> Iterator[Problem]:
    for i, target in enumerate(route.spec.targets):
        if target.endpoint is None or target.model is None:
            continue
        endpoint = whole.find(route, Endpoint, target.endpoint)
        if endpoint is None:
            continue
        adapters = [adapter.name for adapter in endpoint.spec.adapters]
        if target.model not in adapters:
            yield whole.problem(
                route,
                f"spec.targets[{i}].model",
                f"cannot find adapter {target.model!r} of {endpoint.ref}",
                did_you_mean(
                    target.model,
                    adapters,
                    otherwise="an endpoint's own model goes without a name",
                ),
            )


def _canary_is_new(whole: Whole, route: Route) -> Iterator[Problem]:
    canary = route.spec.canary
    if canary is not None and any(
        target.endpoint == canary.endpoint and target.model is None
        for target in route.spec.targets
    ):
        yield whole.problem(
            route,
            "spec.canary.endpoint",
            f"cannot try {canary.endpoint}: it is a target of this route already",
            "a canary is judged against the targets: name the newcomer",
        )


def _provider_is_outside(whole: Whole, provider: Provider) -> Iterator[Problem]:
    """A name can still lead inside when it is looked up; the gateway's network
    policy is what stops that. This stops what can be seen."""
    reason = _inside(provider.spec.base_url)
    if reason:
        yield whole.problem(
            provider,
            "spec.baseUrl",
            f"cannot send requests there: {reason}",
            "name the public host of the API",
        )


def _secrets_are_within_reach(whole: Whole, provider: Provider) -> Iterator[Problem]:
    spec, tls = provider.spec, provider.spec.tls
    for field, credential in (
        ("credentials", spec.credentials),
        ("tls.ca", tls.ca),
        ("tls.certificate", tls.certificate),
        ("tls.key", tls.key),
    ):
        if credential is not None and credential.secret is not None:
            yield whole.problem(
                provider,
                f"spec.{field}.secret",
                "cannot give it to the gateway: it decrypts nothing",
                "put the secret where the gateway runs, and name it by env or file",
            )


def _inside(url: str) -> str:
    try:
        host = (urlsplit(url).hostname or "").rstrip(".")
    except ValueError:
        return "it is no URL"
    try:
        address = ip_address(host)
    except ValueError:
        # 2852039166 and 0xa9fea9fe are 169.254.169.254 to whoever connects.
        last = host.rpartition(".")[2]
        if last.isdecimal() or last.startswith("0x"):
            return "an address is written as four decimal numbers"
        return "it hands out the credentials of a machine" if host in _METADATA else ""
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    if str(address) in _METADATA or address.is_link_local:
        return "it hands out the credentials of a machine"
    if address.is_unspecified or address.is_multicast:
        return "nobody answers at this address"
    return ""
