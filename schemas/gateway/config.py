"""All of the gateway's two files, with what refers from one table to another."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Literal, Self

from pydantic import model_validator

from schemas.gateway.listener import Listener
from schemas.gateway.route import Route
from schemas.gateway.upstream import Upstream
from schemas.gateway.values import (
    BaseUrl,
    Credential,
    KeyHash,
    Label,
    Limits,
    Ref,
    Table,
)

__all__ = ["Addresses", "GatewayConfig", "Key", "Project"]


class Project(Table):
    """What all keys of a project share."""

    limits: Limits = Limits()


class Key(Table):
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


class GatewayConfig(Table):
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


class Addresses(Table):
    """All of ``addresses.json``: where the discovered upstreams listen now."""

    version: Literal[1] = 1
    upstreams: dict[Ref, tuple[BaseUrl, ...]] = {}
