"""A Cluster's add-ons -> releases of charts, in the order they need each other.

The pipeline's render step calls ``render_addon``; ``reconciler.targets.helm`` reads what
it wrote. Pure: no chart is fetched here, so the bytes say which archive is wanted (where
from, which version, which digest) and with which values, and a plan needs no network.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import orjson
import rfc8785

from schemas.catalog.addons import addon_entry
from schemas.cluster import Addon, Cluster
from schemas.endpoint import Endpoint
from schemas.errors import PermanentError
from schemas.model import Model, ModelSource
from schemas.objects import Ref
from schemas.resolution import Resolution

__all__ = [
    "AddonRelease",
    "addon_ref",
    "addons_before",
    "addons_for_weights",
    "addons_needed",
    "read_addon",
    "render_addon",
]

_OPERATOR = "external-secrets"


@dataclass(frozen=True, slots=True, kw_only=True)
class AddonRelease:
    """One release of one chart, as it is to be installed."""

    name: str
    namespace: str
    version: str
    digest: str
    """SHA-256 of the archive; empty where nobody pinned it."""
    source: Mapping[str, str]
    """``oci``, ``repository`` or ``archive`` -> where."""
    device: str
    """PCI vendor without which it is not installed; empty where it always is."""
    values: Mapping[str, Any]


def addon_ref(cluster: Cluster, name: str) -> Ref:
    """Name an add-on as an object of the line: one of each in a cluster."""
    return Ref("Addon", cluster.metadata.project, f"{cluster.metadata.name}-{name}")


def addons_before(cluster: Cluster, addon: Addon) -> Iterator[Ref]:
    """Name what must be healthy first: the declared ones of the next lower rank."""
    mine = addon_entry(addon.name).rank
    ranks = {a.name: addon_entry(a.name).rank for a in cluster.spec.addons}
    below = max((rank for rank in ranks.values() if rank < mine), default=None)
    for name, rank in sorted(ranks.items()):
        if rank == below:
            yield addon_ref(cluster, name)


def addons_needed(
    endpoint: Endpoint, cluster: Cluster, resolution: Resolution
) -> Iterator[Ref]:
    """Name the add-ons of ``cluster`` without which ``endpoint`` cannot be applied."""
    wanted = {
        "gpu-operator": resolution.gpu is not None,
        "hami": endpoint.spec.gpu_share is not None,
        # Its monitor is of a kind that only this brings.
        "kube-prometheus-stack": True,
        "keda": endpoint.spec.scaling is not None,
        # Whether a replica spans nodes is decided while rendering; its kind is there
        # or the step waits.
        "lws": resolution.gpus > 1,
        "ingress-nginx": cluster.spec.ingress is not None,
        _OPERATOR: any(_elsewhere(a.source) for a in endpoint.spec.adapters),
    }
    for addon in cluster.spec.addons:
        if wanted.get(addon.name):
            yield addon_ref(cluster, addon.name)


def addons_for_weights(model: Model, cluster: Cluster) -> Iterator[Ref]:
    """Name the add-ons of ``cluster`` without which ``model`` cannot be fetched."""
    if _elsewhere(model.spec.source):
        for addon in cluster.spec.addons:
            if addon.name == _OPERATOR:
                yield addon_ref(cluster, addon.name)


def _elsewhere(source: ModelSource) -> bool:
    """Whether the cluster's operator fetches what the source's credential names."""
    said = source.credentials
    return said is not None and said.external_secret is not None


def render_addon(cluster: Cluster, addon: Addon) -> bytes:
    """Write the release as RFC 8785 JSON: the same declaration, the same bytes."""
    entry = addon_entry(addon.name)
    declared = addon.source or entry
    source = {
        kind: where
        for kind in ("oci", "repository", "archive")
        if (where := getattr(declared, kind, None)) is not None
    }
    values = _merged(_ours(cluster, addon, entry.values), addon.values)
    return rfc8785.dumps(
        {
            "name": addon.name,
            "namespace": entry.namespace,
            "version": addon.version,
            "digest": addon.digest or entry.digests.get(addon.version, ""),
            "source": source,
            "device": entry.device or "",
            "values": values,
        }
    )


def read_addon(content: bytes) -> AddonRelease:
    """Read what ``render_addon`` wrote.

    Raises:
        PermanentError: these bytes are no such release.
    """
    try:
        return AddonRelease(**orjson.loads(content))
    except (orjson.JSONDecodeError, TypeError) as error:
        raise PermanentError(
            f"cannot read an add-on: {content[:60]!r}",
            hint="render the commit again; a Helm target takes add-ons",
        ) from error


def _ours(
    cluster: Cluster, addon: Addon, values: Mapping[str, Any]
) -> Mapping[str, Any]:
    """What follows from the other add-ons of the cluster."""
    shared = any(other.name == "hami" for other in cluster.spec.addons)
    if addon.name == "gpu-operator" and shared:
        # Two device plugins would both offer nvidia.com/gpu: HAMi brings its own.
        return _merged(values, {"devicePlugin": {"enabled": False}})
    return values


def _merged(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Lay values over values as Helm does: mappings merge, anything else replaces."""
    merged = dict(under)
    for name, value in over.items():
        below = merged.get(name)
        if isinstance(below, Mapping) and isinstance(value, Mapping):
            merged[name] = _merged(below, value)
        else:
            merged[name] = value
    return merged
