"""Compile the two files' contents into the data path's snapshot (pure).

Called by whoever holds the files' text: each worker, and the supervisor to check
them. Secrets come in as an argument; nothing here reads a file or a clock.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping

import schemas.gateway as config
from gateway.accounts import Price
from gateway.dialects.registry import DIALECTS
from gateway.dialects.sigv4 import is_key_pair, region_of
from gateway.gating import caching_of, gated_of, guard_of, services_of, shadow_of
from gateway.limits import NANO, Kind, Limiter
from gateway.openai import Op, models_body, upstream_path
from gateway.snapshot import (
    Address,
    Choice,
    Hedge,
    Key,
    Queue,
    Route,
    Snapshot,
    Target,
    Timeouts,
    Trust,
    Upstream,
)
from schemas.errors import PermanentError

__all__ = ["compile_snapshot", "credentials"]

_TLS_PARTS = ("ca", "certificate", "key")


def credentials(given: config.GatewayConfig) -> Iterator[tuple[str, config.Credential]]:
    """List (the field that needs it, where it is) for all secrets of a config."""
    for field, credential in _credentials(given):
        if credential is not None:
            yield field, credential


def _credentials(
    given: config.GatewayConfig,
) -> Iterator[tuple[str, config.Credential | None]]:
    listener = given.gateway
    yield "gateway.key_pepper", listener.key_pepper
    if listener.store is not None:
        yield "gateway.store.database", listener.store.database
    if listener.shared is not None:
        yield "gateway.shared.credential", listener.shared.credential
    if listener.telemetry is not None:
        yield "gateway.telemetry.authorization", listener.telemetry.authorization
    for name, key in given.keys.items():
        yield f'keys."{name}".hash_from', key.hash_from
    for name, upstream in given.upstreams.items():
        yield f'upstreams."{name}".credential', upstream.credential
        for part in _TLS_PARTS:
            yield f'upstreams."{name}".tls.{part}', getattr(upstream.tls, part)


def compile_snapshot(
    given: config.GatewayConfig,
    addresses: config.Addresses,
    secrets: Mapping[str, str],
) -> Snapshot:
    """Compile; ``secrets`` by the field that needs them, as `credentials` lists.

    Raises:
        PermanentError: a secret cannot stand in a header.
    """
    upstreams = {
        name: _upstream(name, table, addresses, secrets)
        for name, table in given.upstreams.items()
    }
    routes = {
        name: _route(name, table, upstreams, given.gateway)
        for name, table in given.routes.items()
    }
    services = {
        name: _route(name, table, upstreams, given.gateway)
        for name, table in services_of(given)
    }
    keys = {
        _hash(name, table, secrets): _key(name, table, given, routes)
        for name, table in given.keys.items()
        if not table.disabled
    }
    return Snapshot(
        listener=given.gateway,
        pepper=secrets.get("gateway.key_pepper", "").encode(),
        keys=keys,
        upstreams=upstreams,
        routes=routes,
        services=services,
        shared_password=secrets.get("gateway.shared.credential"),
        urls=frozenset(
            address.url
            for upstream in upstreams.values()
            for address in upstream.addresses
        ),
    )


def _upstream(
    name: str,
    table: config.Upstream,
    addresses: config.Addresses,
    secrets: Mapping[str, str],
) -> Upstream:
    urls = addresses.upstreams.get(name, ()) if table.discovered else table.urls
    dialect = DIALECTS.get(table.dialect)
    base = "/v1" if dialect is None else dialect.base
    pem = [secrets.get(f'upstreams."{name}".tls.{part}') for part in _TLS_PARTS]
    trust = Trust(table.tls.oldest, *pem)
    places = tuple(Address.parse(url, base, trust) for url in dict.fromkeys(urls))
    secret = secrets.get(f'upstreams."{name}".credential')
    if secret is not None and not (
        secret.isascii() and secret.isprintable() and secret
    ):
        raise PermanentError(
            f'cannot use the credential of upstreams."{name}": it is empty or holds '
            "characters that cannot stand in a header",
            hint="look for a line break or a quotation mark around it",
        )
    ops: frozenset[Op] = frozenset(table.capabilities)
    if dialect is not None:
        # A chat's tokens can be counted wherever it can be answered.
        counted: frozenset[Op] = frozenset({"tokenize"} if "chat" in ops else ())
        ops = (ops | counted) & dialect.ways.keys()
    signing = None
    if table.dialect == "bedrock" and secret is not None and is_key_pair(secret):
        signing, secret = (secret, _region(name, table, places)), None
    return Upstream(
        name=name,
        model=table.model,
        dialect=table.dialect,
        ops=ops,
        addresses=places,
        price=_price(table.price),
        heads={
            (place.url, op): _head(table, place, op, secret)
            for place in places
            for op in ops
        },
        signing=signing,
    )


def _region(name: str, table: config.Upstream, places: tuple[Address, ...]) -> str:
    """Raises: PermanentError: nothing says it."""
    found = table.region or next(
        filter(None, (region_of(p.host) for p in places)), None
    )
    if found is None:
        raise PermanentError(
            f'cannot sign requests of upstreams."{name}": its address names no region',
            hint="add region",
        )
    return found


def _head(
    table: config.Upstream, address: Address, op: Op, secret: str | None
) -> bytes:
    """Write what no request changes; without a first line where that differs."""
    dialect = DIALECTS.get(table.dialect)
    if dialect is not None:
        first, lines, name = b"", dialect.lines, dialect.credential
    else:
        azure = table.dialect == "azure"
        path, lines = upstream_path(address.prefix, op), b""
        name = "api-key:" if azure else "authorization: Bearer"
        if azure and table.api_version is not None:
            path += b"?api-version=" + table.api_version.encode()
        first = b"POST %b HTTP/1.1\r\n" % path
    if secret:
        lines += f"{name} {secret}\r\n".encode()
    return b"%bhost: %b\r\n%baccept-encoding: identity\r\n" % (
        first,
        address.authority,
        lines,
    )


def _price(table: config.Price | None) -> Price:
    if table is None:
        return Price(0, 0, 0)
    cached = table.input if table.cached is None else table.cached
    return Price(*(int(p.usd * NANO) for p in (table.input, table.output, cached)))


def _limiters(scope: str, table: config.Limits) -> tuple[Limiter, ...]:
    budget = None if table.budget is None else int(table.budget.usd * NANO)
    limits: tuple[tuple[Kind, int | None], ...] = (
        ("requests", table.requests_per_minute),
        ("tokens", table.tokens_per_minute),
        ("concurrent", table.concurrent),
        ("budget", budget),
    )
    return tuple(
        Limiter.of(scope, kind, limit, table.budget_per)
        for kind, limit in limits
        if limit is not None
    )


def _route(
    name: str,
    table: config.Route,
    upstreams: Mapping[str, Upstream],
    listener: config.Listener,
) -> Route:
    tiers: dict[int, list[Target]] = {}
    for target in table.targets:
        upstream = upstreams[target.upstream]
        lines = f"x-bud-route: {name}\r\nx-bud-upstream: {upstream.name}\r\n"
        tiers.setdefault(target.priority, []).append(
            Target(
                upstream=upstream,
                model=target.model or upstream.model,
                weight=target.weight,
                lines=lines.encode(),
            )
        )
    times = table.timeouts or listener.timeouts
    prices = [upstreams[target.upstream].price for target in table.targets]
    ops = frozenset[Op]().union(*(upstreams[t.upstream].ops for t in table.targets))
    if table.guardrails:
        ops -= {"realtime"}  # nothing looks into its messages
    ordered = [tiers[priority] for priority in sorted(tiers)]
    return Route(
        name=name,
        ops=ops,
        choices={op: tuple(_choices(ordered, op)) for op in ops},
        strategy=table.strategy,
        attempts=table.attempts,
        retry_percent=table.retry_percent,
        hold=(table.hold or listener.hold).seconds,
        limiters=_limiters(f"route {name}", table.limits),
        queue=_queue(name, table.queue),
        hedge=_hedge(table.hedge),
        guards=tuple(guard_of(rail) for rail in table.guardrails),
        caching=caching_of(table.cache),
        shadow=shadow_of(name, table),
        gated=ops & gated_of(table),
        price=Price(*(max(column) for column in zip(*prices, strict=True))),
        timeouts=Timeouts(
            connect=times.connect.seconds,
            first=times.first.seconds,
            stall=times.stall.seconds,
            attempt=math.inf if times.attempt is None else times.attempt.seconds,
            total=times.total.seconds,
        ),
    )


def _queue(name: str, table: config.Queue | None) -> Queue | None:
    if table is None:
        return None
    full = Limiter.of(f"route {name}", "concurrent", 0)
    return Queue(full.id, table.wait.seconds, table.length)


def _hedge(table: config.Hedge | None) -> Hedge | None:
    return None if table is None else Hedge(table.after.seconds, table.percentile)


def _choices(tiers: Iterable[Iterable[Target]], op: Op) -> Iterator[tuple[Choice, ...]]:
    for tier in tiers:
        places = tuple(
            Choice(
                target,
                address,
                target.upstream.heads[address.url, op],
                target.upstream.dialect not in DIALECTS,
            )
            for target in tier
            if op in target.upstream.ops
            for address in target.upstream.addresses
        )
        if places:
            yield places


def _hash(
    name: str, table: config.Key, secrets: Mapping[str, str]
) -> tuple[str, bytes]:
    """Raises: PermanentError: what was read is no hash."""
    text = table.hash or secrets[f'keys."{name}".hash_from']
    if config.HASH.fullmatch(text) is None:
        raise PermanentError(
            f'cannot use keys."{name}".hash_from: it does not hold a key\'s hash',
            hint="write sha256: and 64 hex digits there",
        )
    kind, _, digits = text.partition(":")
    return kind, bytes.fromhex(digits)


def _key(
    name: str,
    table: config.Key,
    given: config.GatewayConfig,
    routes: Mapping[str, Route],
) -> Key:
    project = name.partition("/")[0]
    shared = given.projects.get(project, config.Project())
    allowed = (
        table.routes
        if table.routes is not None
        else [other for other in routes if other.partition("/")[0] == project]
    )
    visible = {
        model: routes[route]
        for route in allowed
        for model in given.routes[route].models
    }
    owned = [
        (model, visible[model].name.partition("/")[0]) for model in sorted(visible)
    ]
    return Key(
        name=name,
        limiters=(
            *_limiters(f"key {name}", table.limits),
            *_limiters(f"project {project}", shared.limits),
        ),
        expires=table.expires.timestamp() if table.expires is not None else None,
        routes=visible,
        models=models_body(owned),
    )
