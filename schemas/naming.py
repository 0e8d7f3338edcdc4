"""What a name in a spec means: an object of one's own project, else a shared one (pure).

The checks, the optimizer and the renderers ask here, so that all mean the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from schemas.cluster import Cluster
from schemas.endpoint import Endpoint
from schemas.objects import DEFAULT_PROJECT, FoundryObject, Ref

__all__ = ["Objects", "clusters_of", "find", "resolve_ref"]

T = TypeVar("T", bound=FoundryObject)
Objects = Mapping[Ref, FoundryObject]


def resolve_ref(objects: Objects, ref: Ref) -> Ref:
    """The object that a name means; the name itself where nothing has it."""
    shared = Ref(ref.kind, DEFAULT_PROJECT, ref.name)
    return ref if ref in objects or shared not in objects else shared


def find(objects: Objects, kind: type[T], project: str, name: str) -> T | None:
    """The object of a kind that a name means to whoever belongs to ``project``."""
    found = objects.get(resolve_ref(objects, Ref(kind.__name__, project, name)))
    return found if isinstance(found, kind) else None


def clusters_of(objects: Objects, endpoint: Endpoint) -> tuple[Cluster, ...]:
    """The cluster that is named, or those whose labels match the placement."""
    spec, project = endpoint.spec, endpoint.metadata.project
    if spec.cluster is not None:
        named = find(objects, Cluster, project, spec.cluster)
        return () if named is None else (named,)
    wanted = (spec.placement or {}).items()
    return tuple(
        item
        for _, item in sorted(objects.items())
        if isinstance(item, Cluster)
        and item.metadata.project in (project, DEFAULT_PROJECT)
        and wanted <= item.metadata.labels.items()
    )
