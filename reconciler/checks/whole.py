"""Everything one environment wants, as the rules look at it. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TypeVar

from reconciler.written import Written
from schemas import naming
from schemas.catalog import Catalog
from schemas.cluster import Cluster
from schemas.endpoint import Endpoint
from schemas.errors import Problem
from schemas.model import Model
from schemas.objects import FoundryObject, Ref

__all__ = ["Whole"]

Kind = TypeVar("Kind", bound=FoundryObject)


@dataclass(frozen=True, slots=True, kw_only=True)
class Whole:
    objects: Mapping[Ref, FoundryObject]
    written: Mapping[Ref, Written]
    catalog: Catalog
    environments: frozenset[str]
    """Every environment of the checkout, by name."""

    def each(self, kind: type[Kind]) -> Iterator[Kind]:
        for item in self.objects.values():
            if isinstance(item, kind):
                yield item

    def find(self, user: FoundryObject, kind: type[Kind], name: str) -> Kind | None:
        """What a name means to an object: one of its project, or a shared one."""
        return naming.find(self.objects, kind, user.metadata.project, name)

    def model_of(self, endpoint: Endpoint) -> Model | None:
        return self.find(endpoint, Model, endpoint.spec.model)

    def clusters_of(self, endpoint: Endpoint) -> tuple[Cluster, ...]:
        """The cluster it names, or all whose labels its placement selects."""
        return naming.clusters_of(self.objects, endpoint)

    def problem(
        self, item: FoundryObject, path: str, message: str, hint: str = ""
    ) -> Problem:
        return self.written[item.ref].problem(path, message, hint)
