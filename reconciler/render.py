"""Render: every object as the bytes each target shall hold for it (pure).

The pipeline calls it. It knows which renderer speaks for which object and which
object must be servable before which; how the bytes look is the renderers' own.
An object whose inputs are the same as last time is not rendered again.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TypeVar

from reconciler.values import Desired, Key, Rendered, Resolved, Unit
from renderers import addons, ansible, gateway, kubernetes, local, terraform
from schemas import naming
from schemas.access import ApiKey, Project
from schemas.catalog import Catalog
from schemas.cluster import CLOUDS, Cluster
from schemas.endpoint import Endpoint
from schemas.kinds import references
from schemas.model import Model
from schemas.objects import DEFAULT_PROJECT, FoundryObject, Ref
from schemas.resolution import Resolution
from schemas.route import Provider, Route

__all__ = ["MAKERS", "Renderer", "cluster_target", "maker_of", "render_made"]

MAKERS = frozenset({"ansible", "terraform"})
"""Targets that hold clusters; whatever runs on one comes after it."""

T = TypeVar("T", bound=FoundryObject)


@dataclass(slots=True)
class Renderer:
    """Renders, and remembers what it rendered from which values."""

    rendered: int = 0
    """Objects rendered so far; a second look at the same values adds none."""
    _memo: dict[Key, tuple[tuple[object, ...], Unit]] = field(default_factory=dict)

    def render(self, resolved: Resolved, catalog: Catalog) -> Rendered:
        """One unit for each object and target; raises nothing that a plan can heal."""
        units: dict[Key, Unit] = {}
        for key, inputs, make in _parts(resolved, catalog):
            known = self._memo.get(key)
            if known is None or not _same(known[0], inputs):
                content = make()
                digest = hashlib.sha256(content).hexdigest()
                unit = Unit(key=key, content=content, digest=digest)
                known = self._memo[key] = inputs, unit
                self.rendered += 1
            units[key] = known[1]
        self._memo = {key: self._memo[key] for key in units}
        by_ref: dict[Ref, list[Key]] = defaultdict(list)
        for key in units:
            by_ref[key.ref].append(key)
        installed = _installed_before(resolved)
        return Rendered(
            units={
                k: _placed(unit, resolved, by_ref, installed.get(k, ()))
                for k, unit in units.items()
            }
        )


def _same(one: tuple[object, ...], other: tuple[object, ...]) -> bool:
    return len(one) == len(other) and all(
        a is b or a == b for a, b in zip(one, other, strict=True)
    )


Part = tuple[Key, tuple[object, ...], Callable[[], bytes]]


def _parts(resolved: Resolved, catalog: Catalog) -> Iterator[Part]:
    """(key, everything its bytes depend on, how to make them)."""
    desired = resolved.desired
    environment = desired.environment
    where = Ref("Environment", DEFAULT_PROJECT, environment.metadata.name)
    yield (
        Key("gateway", where),
        (environment,),
        partial(gateway.render_environment, environment),
    )
    for ref, item in desired.objects.items():
        match item:
            case Cluster() if (maker := maker_of(item)) is not None:
                yield Key(maker, ref), (item,), partial(render_made, item, catalog)
            case Endpoint():
                yield from _endpoint(item, desired, resolved.resolutions[ref])
            case Cluster() if item.spec.provider != "local":
                for addon in item.spec.addons:
                    name = addons.addon_ref(item, addon.name)
                    make = partial(addons.render_addon, item, addon)
                    yield Key(addon_target(item), name), (item,), make
            case _:
                pass
    yield from _gateway(desired.objects)
    yield from _models(resolved)


def _gateway(objects: naming.Objects) -> Iterator[Part]:
    """What names mean is a part of what the bytes of a route or a key follow from."""
    routes = [item for item in objects.values() if isinstance(item, Route)]
    meant = [_named(item, objects) for item in routes]
    for ref, item in objects.items():
        key = Key("gateway", ref)
        match item:
            case Provider():
                yield key, (item,), partial(gateway.render_provider, item)
            case Project():
                yield key, (item,), partial(gateway.render_project, item)
            case ApiKey():
                make = partial(gateway.render_key, item, objects)
                yield key, (item, _named(item, objects)), make
            case Route():
                make = partial(gateway.render_route, item, objects)
                fallbacks = (routes, meant) if item.spec.fallbacks else ()
                yield key, (item, _named(item, objects), *fallbacks), make
            case _:
                pass


def _named(item: FoundryObject, objects: naming.Objects) -> list[Ref]:
    return [naming.resolve_ref(objects, ref) for _, ref in references(item)]


def _endpoint(
    item: Endpoint, desired: Desired, resolution: Resolution
) -> Iterator[Part]:
    model = find(desired, Ref("Model", item.metadata.project, item.spec.model), Model)
    cluster = cluster_of(desired, item, resolution)
    key = Key(cluster_target(cluster), item.ref)
    if cluster.spec.provider == "local":
        make = partial(local.render_endpoint, item, model, resolution)
    else:
        make = partial(kubernetes.render_endpoint, item, model, cluster, resolution)
    yield key, (item, model, cluster, resolution), make
    yield (
        Key("gateway", item.ref),
        (item, model, cluster),
        partial(gateway.render_endpoint, item, model, cluster),
    )


def _models(resolved: Resolved) -> Iterator[Part]:
    """Weights wherever an engine reads them, and where they are asked for ahead."""
    for key, (model, cluster) in sorted(_placed_models(resolved).items()):
        if cluster.spec.provider == "local":
            yield key, (model,), partial(local.render_model, model)
        else:
            make = partial(kubernetes.render_model, model, cluster)
            yield key, (model, cluster), make


def _placed_models(resolved: Resolved) -> Mapping[Key, tuple[Model, Cluster]]:
    desired = resolved.desired
    wanted: dict[Key, tuple[Model, Cluster]] = {}
    for ref, item in desired.objects.items():
        if isinstance(item, Endpoint) and item.spec.engine.name != "simulator":
            cluster = cluster_of(desired, item, resolved.resolutions[ref])
            name = Ref("Model", item.metadata.project, item.spec.model)
            model = find(desired, name, Model)
            wanted[Key(cluster_target(cluster), model.ref)] = model, cluster
        elif isinstance(item, Model):
            for place_name in item.spec.prefetch:
                place = Ref("Cluster", item.metadata.project, place_name)
                cluster = find(desired, place, Cluster)
                wanted[Key(cluster_target(cluster), ref)] = item, cluster
    return wanted


def _installed_before(resolved: Resolved) -> dict[Key, list[Key]]:
    """Add-ons that must be healthy before another, an endpoint, or weights."""
    desired = resolved.desired
    before: dict[Key, list[Key]] = {}
    for ref, item in desired.objects.items():
        if isinstance(item, Cluster):
            target = addon_target(item)
            for addon in item.spec.addons:
                key = Key(target, addons.addon_ref(item, addon.name))
                refs = addons.addons_before(item, addon)
                before[key] = [Key(target, other) for other in refs]
        elif isinstance(item, Endpoint):
            resolution = resolved.resolutions[ref]
            cluster = cluster_of(desired, item, resolution)
            if cluster.spec.provider != "local":
                needed = addons.addons_needed(item, cluster, resolution)
                target = addon_target(cluster)
                key = Key(cluster_target(cluster), ref)
                before[key] = [Key(target, other) for other in needed]
    for key, (model, cluster) in _placed_models(resolved).items():
        needed = addons.addons_for_weights(model, cluster)
        before[key] = [Key(addon_target(cluster), other) for other in needed]
    return before


def _placed(
    unit: Unit,
    resolved: Resolved,
    by_ref: Mapping[Ref, list[Key]],
    installed: Iterable[Key],
) -> Unit:
    """Add what must be servable first."""
    key, desired = unit.key, resolved.desired
    place, item = place_of(key), desired.objects.get(key.ref)
    after = [*installed]
    if place is not None:
        after += [k for k in by_ref.get(place, ()) if k.target in MAKERS]
    if item is None:
        return replace(unit, after=tuple(sorted(after)))
    if key.target == "gateway" and isinstance(item, Endpoint):
        # Its own processes, wherever they run.
        after += [other for other in by_ref[key.ref] if other != key]
    else:
        after += [
            other
            for ref in set(_named(item, desired.objects))
            for other in by_ref.get(ref, ())
            if other.target == key.target
        ]
    return replace(unit, after=tuple(sorted(after)))


def find(desired: Desired, ref: Ref, kind: type[T]) -> T:
    """The object a checked reference names."""
    found = naming.find(desired.objects, kind, ref.project, ref.name)
    assert found is not None, "overlay checked every reference"
    return found


def cluster_target(cluster: Cluster) -> str:
    """The name of the target that holds what runs on a cluster."""
    if cluster.spec.provider == "local":
        return "local"
    return f"kubernetes/{cluster.metadata.project}/{cluster.metadata.name}"


def addon_target(cluster: Cluster) -> str:
    """The name of the target that holds a cluster's add-ons."""
    return f"helm/{cluster.metadata.project}/{cluster.metadata.name}"


def maker_of(cluster: Cluster) -> str | None:
    """The target that makes a cluster; None where somebody else did."""
    if cluster.spec.provider == "onprem":
        return "ansible"
    return "terraform" if cluster.spec.provider in CLOUDS else None


def render_made(cluster: Cluster, catalog: Catalog) -> bytes:
    """What the maker of a cluster is asked to hold."""
    if maker_of(cluster) == "ansible":
        return ansible.render_cluster(cluster, catalog)
    return terraform.render_cluster(cluster, catalog)


def place_of(key: Key) -> Ref | None:
    """The Cluster that a key's target is; None where it is this machine."""
    kind, _, where = key.target.partition("/")
    return Ref("Cluster", *where.split("/")) if kind in ("kubernetes", "helm") else None


def cluster_of(desired: Desired, item: Endpoint, resolution: Resolution) -> Cluster:
    ref = Ref("Cluster", item.metadata.project, resolution.cluster)
    return find(desired, ref, Cluster)
