"""Rules that no object can break alone: what one says of another.

``overlay`` runs them over everything an environment wants, once every reference
was looked up. Each rule is a generator of its own; none stops another. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from reconciler.written import Written
from schemas.errors import Problem
from schemas.objects import FoundryObject, Ref
from schemas.route import Route

__all__ = ["check"]

Objects = Mapping[Ref, FoundryObject]
WrittenObjects = Mapping[Ref, Written]


def check(objects: Objects, written: WrittenObjects) -> Iterator[Problem]:
    """Yield everything wrong between the objects of one environment."""
    yield from _public_names(objects, written)


def _public_names(objects: Objects, written: WrittenObjects) -> Iterator[Problem]:
    first: dict[tuple[str, str], Ref] = {}
    for ref, item in objects.items():
        if isinstance(item, Route):
            for i, name in enumerate(item.spec.models):
                other = first.setdefault((ref.project, name), ref)
                if other != ref:
                    yield written[ref].problem(
                        f"spec.models[{i}]",
                        f"cannot use {name!r} twice: {other} answers to it already",
                        "one name means one route of a project",
                    )
