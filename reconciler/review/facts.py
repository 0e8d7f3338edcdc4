"""Facts: everything a reviewer asks about one commit, as plain data (pure).

The sandboxed child makes them of a pull request, and the planner of the protected
branch in the same form; `document` sets the two side by side. Policies read the
plan document and so never an object of the branch itself.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

from reconciler.lock import parse
from reconciler.optimizer.posing import model_of
from reconciler.promotion import Served, claim_of
from reconciler.render import cluster_of
from reconciler.review.prices import price_of, total
from reconciler.values import Desired, Resolved
from schemas.access import ApiKey, Policy, Project, ProjectSpec
from schemas.catalog import Catalog
from schemas.cluster import Cluster, NodePool
from schemas.endpoint import Endpoint, EndpointSpec
from schemas.kinds import references
from schemas.model import Model
from schemas.naming import resolve_ref
from schemas.objects import FoundryObject, Ref
from schemas.resolution import Resolution
from schemas.route import Provider, Route

__all__ = ["facts_of", "guards_of"]

Data = dict[str, Any]
T = TypeVar("T", bound=FoundryObject)

AT_RISK, FAILS, MEETS, UNKNOWN = "at risk", "FAILS", "meets", "unknown"


def facts_of(resolved: Resolved, catalog: Catalog) -> Data:
    """Plain JSON data; the same commit gives the same."""
    desired = resolved.desired
    endpoints = dict(_endpoints(resolved, catalog))
    return guards_of(desired) | {
        "endpoints": endpoints,
        "models": {str(m.ref): _model(m) for m in _each(desired, Model)},
        "clusters": {str(c.ref): _cluster(c, catalog) for c in _each(desired, Cluster)},
        "routes": {str(r.ref): _route(desired, r) for r in _each(desired, Route)},
        "projects": _projects(desired, endpoints),
        "cost": total([e["cost"] for e in endpoints.values()]),
        "gpus": sum(e["gpusMost"] for e in endpoints.values()),
    }


def guards_of(desired: Desired) -> Data:
    """What a tree says of its rules, and nothing of what would run."""
    return {
        "environment": desired.environment.metadata.name,
        "settings": desired.environment.spec.model_dump(mode="json", by_alias=True),
        "files": {str(ref): file for ref, file in sorted(desired.files.items())},
        "policies": {
            str(p.ref): p.model_dump(mode="json", by_alias=True)
            for p in _each(desired, Policy)
        },
        "access": _access(desired),
        "endpoints": {},
        "models": {},
        "clusters": {},
        "routes": {},
        "projects": _projects(desired, {}),
        "cost": total([]),
        "gpus": 0,
    }


def _each(desired: Desired, kind: type[T]) -> Iterator[T]:
    for _, item in sorted(desired.objects.items()):
        if isinstance(item, kind):
            yield item


def _endpoints(resolved: Resolved, catalog: Catalog) -> Iterator[tuple[str, Data]]:
    desired = resolved.desired
    entries = parse(desired.lock).entries
    reserved = desired.environment.spec.prices
    for ref, item in sorted(desired.objects.items()):
        if not isinstance(item, Endpoint):
            continue
        chosen = resolved.resolutions[ref]
        cluster = cluster_of(desired, item, chosen)
        scaling = item.spec.scaling
        most = scaling.max if scaling else chosen.replicas or 0
        data, model = entries[ref].data, model_of(desired, item)
        yield (
            str(ref),
            {
                "model": str(model.ref),
                "project": ref.project,
                "engine": item.spec.engine.name,
                "cluster": chosen.cluster,
                "nodePool": chosen.node_pool,
                "provider": cluster.spec.provider,
                "region": cluster.spec.region,
                "gpu": chosen.gpu,
                "layout": _layout(chosen),
                "precision": chosen.precision,
                "replicasFewest": scaling.min if scaling else chosen.replicas or 0,
                "replicasMost": most,
                "gpusPerReplica": chosen.gpus,
                "gpusMost": chosen.gpus * most,
                "surge": item.spec.rollout.max_surge,
                "strategy": item.spec.rollout.strategy,
                "prediction": dict(chosen.prediction),
                "memoryAvailable": data.get("memory", {}).get("available"),
                "slo": _slo(item.spec, chosen.prediction),
                "promoted": claim_of(
                    Served(endpoint=item, model=model, resolution=chosen)
                ),
                "workload": item.spec.workload.model_dump(mode="json", by_alias=True),
                "cost": price_of(
                    item, cluster, chosen, catalog=catalog, reserved=reserved
                ),
            },
        )


def _layout(chosen: Resolution) -> str:
    """Every kind of parallelism that is used; tensor, if none is."""
    parts = (("TP", chosen.tensor), ("PP", chosen.pipeline), ("DP", chosen.data),
             ("EP", chosen.expert))  # fmt: skip
    return " ".join(f"{name}{n}" for name, n in parts if n > 1) or "TP1"


def _slo(spec: EndpointSpec, prediction: Mapping[str, float]) -> Data:
    """Each target that is set, with what the interval says about it."""
    found: Data = {}
    latencies = (("ttft", "ttft_ms", "ttft_hi"), ("tpot", "tpot_ms", "tpot_hi"),
                 ("e2e", "e2e_ms", "e2e_ms"))  # fmt: skip
    for name, mean, high in latencies:
        target = getattr(spec.slo, name)
        if target is not None:
            value, worst = prediction.get(mean), prediction.get(high)
            found[name] = {
                "target": target.target.ms,
                "percentile": target.percentile,
                "hard": target.enforcement == "hard",
                "verdict": _verdict(value, worst, target.target.ms),
            }
    if spec.slo.throughput is not None:
        wanted = spec.slo.throughput.target.tokens_per_s
        value = prediction.get("tokens_per_s")
        least = prediction.get("tokens_per_s_lo", value)
        found["throughput"] = {
            "target": wanted,
            "hard": spec.slo.throughput.enforcement == "hard",
            "verdict": UNKNOWN
            if value is None or least is None
            else _verdict(-value, -least, -wanted),
        }
    order = (FAILS, UNKNOWN, AT_RISK, MEETS)
    verdicts = [one["verdict"] for one in found.values()]
    worst_of = min(verdicts, key=order.index) if verdicts else "none set"
    return {"targets": found, "verdict": worst_of}


def _verdict(value: float | None, worst: float | None, target: float) -> str:
    if value is None or worst is None:
        return UNKNOWN
    if worst <= target:
        return MEETS
    return AT_RISK if value <= target else FAILS


def _model(item: Model) -> Data:
    source = item.spec.source
    if source.hf is not None:
        where, pinned = f"hf:{source.hf.repo}", source.hf.revision
    elif source.s3 is not None:
        where, pinned = source.s3.uri, source.s3.sha256
    elif source.path is not None:
        where, pinned = f"path:{source.path.path}", source.path.sha256 or ""
    else:
        assert source.package is not None, "the schema asks for one of four"
        where, pinned = f"package:{source.package.name}", source.package.sha256
    return {
        "source": where,
        "pinned": pinned,
        "licence": item.spec.licence.id,
        "remoteCode": item.spec.trust_remote_code,
        "scan": item.spec.scan,
    }


def _cluster(item: Cluster, catalog: Catalog) -> Data:
    return {
        "provider": item.spec.provider,
        "region": item.spec.region,
        "pools": {
            pool.name: {
                "nodes": pool.capacity,
                "gpus": pool.capacity * _gpus_of(pool, catalog),
                "machine": pool.instance_type or pool.gpu or "cpu",
            }
            for pool in item.spec.node_pools
        },
    }


def _gpus_of(pool: NodePool, catalog: Catalog) -> int:
    if pool.instance_type is not None:
        return catalog.instances.find(pool.instance_type).gpus
    return (pool.gpus_per_node or 1) if pool.gpu else 0


def _route(desired: Desired, item: Route) -> Data:
    needs = {str(resolve_ref(desired.objects, named)) for _, named in references(item)}
    return {
        "project": item.metadata.project,
        "models": list(item.spec.models),
        "needs": sorted(needs),
    }


def _projects(desired: Desired, endpoints: Mapping[str, Data]) -> Data:
    costs: dict[str, list[Data]] = defaultdict(list)
    gpus: dict[str, int] = defaultdict(int)
    for endpoint in endpoints.values():
        costs[endpoint["project"]].append(endpoint["cost"])
        gpus[endpoint["project"]] += endpoint["gpusMost"]
    written = {
        item.metadata.name: item.spec
        for item in desired.objects.values()
        if isinstance(item, Project)
    }
    found: Data = {}
    for name in sorted({*costs, *written}):
        spec = written.get(name, ProjectSpec())
        money = spec.quota.cost_per_month
        found[name] = {
            "cost": total(costs[name]),
            "gpus": gpus[name],
            "quotaGpus": spec.quota.gpus,
            "quotaCost": None if money is None else float(money.usd),
            "owners": list(spec.owners),
        }
    return found


def _access(desired: Desired) -> Data:
    """Who gets in, by which object; more of it is wider access."""
    found: Data = {}
    for ref, item in sorted(desired.objects.items()):
        grants = _grants(ref, item)
        if grants:
            found[str(ref)] = sorted(grants)
    return found


def _grants(ref: Ref, item: FoundryObject) -> set[str]:
    if isinstance(item, ApiKey) and not item.spec.disabled:
        routes = item.spec.routes or ("every route",)
        return {f"{item.spec.hash[-8:]} may call {route}" for route in routes}
    if isinstance(item, Project):
        return {f"{owner} owns {ref.project}/{ref.name}" for owner in item.spec.owners}
    if isinstance(item, Provider):
        return {f"prompts may go to {item.spec.base_url}"}
    return set()
