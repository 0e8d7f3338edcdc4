"""What an endpoint costs: list prices with source and date, or a range (pure).

`facts` asks it for each endpoint. What nobody publishes a price for is a range of
what the same GPU costs elsewhere, or unknown; it is never 0.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from schemas.catalog import Catalog, Instance
from schemas.cluster import Cluster, NodePool
from schemas.endpoint import Endpoint
from schemas.environment import ReservedPrice
from schemas.resolution import Resolution

__all__ = ["HOURS_PER_MONTH", "Price", "price_of", "total"]

HOURS_PER_MONTH = 730.0
"""365 days of 24 hours, by twelve: what clouds' own calculators use."""
_TOKENS = 1e6


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """Of one device (a GPU, or a machine without), in USD an hour."""

    low: float | None
    high: float | None
    """None: nobody knows."""
    source: str

    def times(self, low: float, high: float) -> tuple[float | None, float | None]:
        if self.low is None or self.high is None:
            return None, None
        return self.low * low, self.high * high


def price_of(
    endpoint: Endpoint,
    cluster: Cluster,
    resolution: Resolution,
    *,
    catalog: Catalog,
    reserved: Iterable[ReservedPrice],
) -> dict[str, Any]:
    """USD a month and USD a million output tokens at the declared load."""
    pool = next(
        (p for p in cluster.spec.node_pools if p.name == resolution.node_pool), None
    )
    price = _device(pool, cluster, resolution, catalog, reserved)
    fewest, most = _replicas(endpoint, resolution)
    share = endpoint.spec.gpu_share / 100 if endpoint.spec.gpu_share else 1.0
    devices = (resolution.gpus or 1) * share
    low, high = price.times(fewest * devices, most * devices)
    return {
        "monthLow": None if low is None else round(low * HOURS_PER_MONTH, 2),
        "monthHigh": None if high is None else round(high * HOURS_PER_MONTH, 2),
        **_per_tokens(resolution, price, devices),
        "source": price.source,
    }


def total(prices: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Their sum; ``unknown`` counts those that nobody can say."""
    known = [p for p in prices if p["monthLow"] is not None]
    return {
        "monthLow": round(sum(p["monthLow"] for p in known), 2),
        "monthHigh": round(sum(p["monthHigh"] for p in known), 2),
        "unknown": sum(1 for p in prices if p["monthLow"] is None),
    }


def _replicas(endpoint: Endpoint, resolution: Resolution) -> tuple[int, int]:
    scaling = endpoint.spec.scaling
    if scaling is not None:
        return scaling.min, scaling.max
    replicas = 1 if resolution.replicas is None else resolution.replicas
    return replicas, replicas


def _per_tokens(
    resolution: Resolution, price: Price, devices: float
) -> dict[str, float | None]:
    rate = resolution.prediction.get("tokens_per_s")
    replicas = resolution.replicas or 1
    low, high = price.times(devices * replicas, devices * replicas)
    if not rate or low is None or high is None:
        return {"millionLow": None, "millionHigh": None}
    slow = resolution.prediction.get("tokens_per_s_lo") or rate
    return {
        "millionLow": round(low / (rate * 3600) * _TOKENS, 4),
        "millionHigh": round(high / (slow * 3600) * _TOKENS, 4),
    }


def _device(
    pool: NodePool | None,
    cluster: Cluster,
    resolution: Resolution,
    catalog: Catalog,
    reserved: Iterable[ReservedPrice],
) -> Price:
    if pool is not None and pool.instance_type is not None:
        machine = catalog.instances.find(pool.instance_type)
        if machine.price is not None:
            return _listed(machine, pool, cluster, reserved)
    if resolution.gpu is None:
        return Price(low=None, high=None, source="no list price: one's own machines")
    return _elsewhere(resolution.gpu, catalog)


def _listed(
    machine: Instance,
    pool: NodePool,
    cluster: Cluster,
    reserved: Iterable[ReservedPrice],
) -> Price:
    assert machine.price is not None, "the caller looked"
    # Of a machine without GPUs nobody knows the share that one replica takes.
    listed = machine.price.usd_per_h / (machine.gpus or 1)
    source = (
        f"{machine.key} {machine.price.usd_per_h:g} USD/h on demand in "
        f"{machine.price.region}, {machine.price.as_of}: {machine.price.source}"
    )
    for contract in reserved:
        if (contract.cluster, contract.node_pool) == (cluster.metadata.name, pool.name):
            cost = listed * contract.percent / 100
            said = f"{source}; reserved at {contract.percent} %: {contract.source}"
            return Price(low=cost, high=cost, source=said)
    low, high = listed, listed
    if pool.spot and machine.spot_share is not None:
        low, high = listed * machine.spot_share.low, listed * machine.spot_share.high
        source += f"; spot {machine.spot_share.low:.0%}-{machine.spot_share.high:.0%}"
    if machine.gpus == 0:
        low /= machine.vcpus
    return Price(low=low, high=high, source=source)


def _elsewhere(gpu: str, catalog: Catalog) -> Price:
    """What clouds ask for the same GPU, spot to list: a range, not a bill."""
    sold = [m for m in catalog.instances if m.gpu == gpu and m.price is not None]
    asked = [m.price.usd_per_h / m.gpus for m in sold if m.price is not None]
    if not asked:
        return Price(low=None, high=None, source=f"no list price for {gpu}")
    spot = min((m.spot_share.low for m in sold if m.spot_share), default=1.0)
    names = ", ".join(sorted(m.key for m in sold))
    return Price(
        low=min(asked) * spot,
        high=max(asked),
        source=f"one's own {gpu} has no price; the range is what {names} cost, "
        "spot to list",
    )
