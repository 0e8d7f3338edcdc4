"""Every kind by its name, what it refers to, and its JSON Schema."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, get_args

import orjson

from schemas.access import ApiKey, Policy, Project
from schemas.cluster import Cluster
from schemas.endpoint import Endpoint
from schemas.environment import Environment
from schemas.model import Model
from schemas.notification import Notification
from schemas.objects import FoundryObject, Ref, Refers, Strict
from schemas.route import Provider, Route

__all__ = ["KINDS", "json_schema", "parse", "references"]

KINDS: dict[str, type[FoundryObject]] = {
    model.__name__: model
    for model in (
        Project,
        Policy,
        ApiKey,
        Cluster,
        Model,
        Endpoint,
        Provider,
        Route,
        Notification,
        Environment,
    )
}
"""In the order in which a reader meets them; Environment is never below spec/."""


def parse(content: Mapping[str, Any]) -> FoundryObject:
    """Validate one object of a kind that exists.

    Goes through JSON, where a list is a tuple and everything else stays strict.

    Raises:
        pydantic.ValidationError: every wrong field at once.
        KeyError: the kind does not exist.
    """
    return KINDS[content["kind"]].model_validate_json(orjson.dumps(content))


def references(item: FoundryObject) -> Iterator[tuple[str, Ref]]:
    """Yield (field path, the object it names) for every reference of an object.

    References stay within a project, except that what projects share may live in
    the project ``default``; whoever resolves a reference looks there second.
    """
    yield from _references(item.spec, "spec", item.metadata.project)


def _references(value: object, path: str, project: str) -> Iterator[tuple[str, Ref]]:
    if isinstance(value, tuple):
        for i, item in enumerate(value):
            yield from _references(item, f"{path}[{i}]", project)
    elif isinstance(value, Strict):
        for name, alias, kind in _referring(type(value)):
            inner = getattr(value, name)
            inner_path = f"{path}.{alias}"
            if inner is None:
                continue
            if kind is None:
                yield from _references(inner, inner_path, project)
            elif isinstance(inner, tuple):
                for i, item in enumerate(inner):
                    yield f"{inner_path}[{i}]", Ref(kind, project, item)
            else:
                yield inner_path, Ref(kind, project, inner)


@cache
def _referring(model: type[Strict]) -> tuple[tuple[str, str, str | None], ...]:
    """(name, alias, kind it names) of each field that is a reference, and with no
    kind of each that holds one somewhere below."""
    found: list[tuple[str, str, str | None]] = []
    for name, field in model.model_fields.items():
        kinds = [m.kind for m in field.metadata if isinstance(m, Refers)]
        if kinds or any(_referring(below) for below in _models_in(field.annotation)):
            found.append((name, field.alias or name, kinds[0] if kinds else None))
    return tuple(found)


def _models_in(annotation: Any) -> Iterator[type[Strict]]:
    if isinstance(annotation, type) and issubclass(annotation, Strict):
        yield annotation
    for inner in get_args(annotation):
        yield from _models_in(inner)


def json_schema(kind: str) -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of one kind, for editors."""
    schema = KINDS[kind].model_json_schema(by_alias=True)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
