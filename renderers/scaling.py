"""What may scale an endpoint, and on which measurements.

``renderers.kubernetes`` calls it. Pure. KEDA asks Prometheus; a plain
HorizontalPodAutoscaler reads gauges of pods, and can neither see a percentile nor
go to zero, so what needs that is refused by name instead of silently left out.
"""

from __future__ import annotations

from math import ceil

from schemas.catalog import catalog
from schemas.cluster import Cluster
from schemas.endpoint import Endpoint, Scaling
from schemas.errors import PermanentError
from schemas.kubernetes import ScalingValues, TriggerValues

__all__ = ["scaling_of"]

# The Service that the kube-prometheus-stack chart makes under its own name.
_PROMETHEUS = "http://kube-prometheus-stack-prometheus.monitoring.svc:9090"


def scaling_of(
    endpoint: Endpoint, cluster: Cluster, *, namespace: str, ttft: str
) -> ScalingValues | None:
    """Say what scales ``endpoint``; ``ttft`` is the engine's histogram, if any.

    Raises:
        PermanentError: this cluster, or this engine, cannot scale on what was asked.
    """
    scaling = endpoint.spec.scaling
    if scaling is None:
        return None
    keda = any(addon.name == "keda" for addon in cluster.spec.addons)
    if not keda:
        _check_plain(endpoint, scaling, cluster)
    return ScalingValues(
        by="keda" if keda else "hpa",
        min=scaling.min,
        max=scaling.max,
        cooldown_seconds=ceil(scaling.cooldown.seconds),
        prometheus=_PROMETHEUS,
        triggers=_triggers(endpoint, scaling, namespace, ttft),
    )


def _check_plain(endpoint: Endpoint, scaling: Scaling, cluster: Cluster) -> None:
    hint = f"add the addon keda to {cluster.ref}"
    if scaling.min == 0:
        raise _cannot(endpoint, "scaling.min 0 needs KEDA", f"{hint}, or keep one")
    if scaling.ttft is not None:
        raise _cannot(
            endpoint, "scaling.ttft needs KEDA", f"{hint}, or scale on queueDepth"
        )


def _triggers(
    endpoint: Endpoint, scaling: Scaling, namespace: str, ttft: str
) -> tuple[TriggerValues, ...]:
    engine = catalog().engines.find(endpoint.spec.engine.name)
    waiting, kv_cache = engine.metrics.waiting, engine.metrics.kv_cache_usage
    of = f'{{namespace="{namespace}",service="{endpoint.metadata.name}"}}'
    triggers: list[TriggerValues] = []
    if scaling.queue_depth is not None:
        triggers.append(
            TriggerValues(
                name="queue-depth",
                metric=waiting,
                query=f"sum({waiting}{of})",
                threshold=scaling.queue_depth,
                type="AverageValue",
            )
        )
    if scaling.kv_cache is not None:
        if kv_cache is None:
            raise _cannot(endpoint, f"{engine.key} does not publish its KV cache")
        triggers.append(
            TriggerValues(
                name="kv-cache",
                metric=kv_cache,
                query=f"100 * avg({kv_cache}{of})",
                threshold=scaling.kv_cache,
                type="Value",
            )
        )
    if scaling.ttft is not None:
        if not ttft:
            raise _cannot(endpoint, f"{engine.key} publishes no time to first token")
        p95 = f"histogram_quantile(0.95, sum by (le) (rate({ttft}{of}[2m])))"
        triggers.append(
            TriggerValues(
                name="ttft",
                metric=ttft,
                query=f"1000 * {p95}",
                threshold=max(1, round(scaling.ttft.ms)),
                type="Value",
            )
        )
    return tuple(triggers)


def _cannot(endpoint: Endpoint, found: str, hint: str = "") -> PermanentError:
    return PermanentError(f"cannot scale {endpoint.ref}: {found}", hint=hint)
