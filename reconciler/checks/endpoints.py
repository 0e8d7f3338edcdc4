"""Endpoints: the model fits the engine, and both fit the machines.

Pure; ``check`` calls it. What it lets pass the optimizer may still find
infeasible: that takes a memory model, this takes a look.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

from reconciler.checks.whole import Whole
from reconciler.optimizer.layouts import splits
from reconciler.written import did_you_mean
from schemas.cluster import Cluster, NodePool
from schemas.endpoint import Endpoint
from schemas.errors import Problem

__all__ = ["check_endpoints"]

FORMATS = {
    "vllm": ("safetensors",),
    "sglang": ("safetensors",),
    "llamacpp": ("gguf",),
    "simulator": ("safetensors", "gguf"),
}
# No replica spans more: NVIDIA's NVL72 is the largest domain of the catalog, and
# tensor ranks meet twice a layer.
_WIDEST = 72


def check_endpoints(whole: Whole) -> Iterator[Problem]:
    for endpoint in whole.each(Endpoint):
        yield from _runs_somewhere(whole, endpoint)
        yield from _engine_reads_the_weights(whole, endpoint)
        yield from _simulator_plays_a_part(whole, endpoint)
        yield from _constraints_exist(whole, endpoint)
        yield from _tensor_divides_heads(whole, endpoint)
        yield from _replica_fits_a_pool(whole, endpoint)
        yield from _share_needs_hami(whole, endpoint)


def _runs_somewhere(whole: Whole, endpoint: Endpoint) -> Iterator[Problem]:
    if endpoint.spec.placement is not None and not whole.clusters_of(endpoint):
        wanted = ", ".join(f"{k}={v}" for k, v in endpoint.spec.placement.items())
        labels = sorted(
            f"{name}={value}"
            for cluster in whole.each(Cluster)
            for name, value in cluster.metadata.labels.items()
        )
        yield whole.problem(
            endpoint,
            "spec.placement",
            f"cannot place it: no cluster has the labels {wanted}",
            f"clusters here have: {', '.join(dict.fromkeys(labels)) or 'no labels'}",
        )


def _engine_reads_the_weights(whole: Whole, endpoint: Endpoint) -> Iterator[Problem]:
    engine, model = endpoint.spec.engine.name, whole.model_of(endpoint)
    if model is None or model.spec.format in FORMATS[engine]:
        return
    if engine == "llamacpp" and model.spec.task == "embedding":
        return  # an encoder is converted when its weights are fetched
    takers = [name for name, formats in FORMATS.items() if model.spec.format in formats]
    yield whole.problem(
        endpoint,
        "spec.engine.name",
        f"cannot serve {model.ref} with {engine}: its weights are {model.spec.format}",
        f"{model.spec.format} is for {', '.join(takers)}",
    )


def _simulator_plays_a_part(whole: Whole, endpoint: Endpoint) -> Iterator[Problem]:
    engine = endpoint.spec.engine
    if engine.name == "simulator" and engine.rehearses is None:
        yield whole.problem(
            endpoint,
            "spec.engine.rehearses",
            "cannot simulate: it is not said which engine is played",
            "write rehearses: vllm or rehearses: sglang",
        )


def _constraints_exist(whole: Whole, endpoint: Endpoint) -> Iterator[Problem]:
    limits = endpoint.spec.optimizer.constraints
    for i, name in enumerate(limits.gpus):
        if name not in whole.catalog.gpus:
            yield whole.problem(
                endpoint,
                f"spec.optimizer.constraints.gpus[{i}]",
                f"cannot find GPU {name!r} in the catalog",
                did_you_mean(name, (gpu.key for gpu in whole.catalog.gpus)),
            )
    clusters = whole.clusters_of(endpoint)
    pools = [pool.name for cluster in clusters for pool in cluster.spec.node_pools]
    for i, name in enumerate(limits.node_pools):
        if clusters and name not in pools:
            yield whole.problem(
                endpoint,
                f"spec.optimizer.constraints.nodePools[{i}]",
                f"cannot find node pool {name!r} where this may run",
                did_you_mean(name, pools, otherwise=f"there are: {', '.join(pools)}"),
            )


def _tensor_divides_heads(whole: Whole, endpoint: Endpoint) -> Iterator[Problem]:
    tensor, model = endpoint.spec.parallelism.tensor, whole.model_of(endpoint)
    if tensor is None or model is None:
        return
    known = whole.catalog.models.get(model.spec.architecture_id)
    if known is None or splits(known.architecture, tensor):
        return
    shape = known.architecture
    valid = [str(n) for n in range(1, _WIDEST + 1) if splits(shape, n)]
    yield whole.problem(
        endpoint,
        "spec.parallelism.tensor",
        f"cannot split {model.ref} over {tensor} GPUs: it has {shape.heads} attention "
        f"heads and {shape.kv_heads} key-value heads",
        f"tensor can be {', '.join(valid)}",
    )


def _replica_fits_a_pool(whole: Whole, endpoint: Endpoint) -> Iterator[Problem]:
    spec, clusters = endpoint.spec, whole.clusters_of(endpoint)
    set_by_hand = spec.parallelism
    needed = prod(
        n or 1 for n in (set_by_hand.tensor, set_by_hand.pipeline, set_by_hand.data)
    )
    wanted = spec.optimizer.constraints.node_pools
    pools = [
        (cluster, pool, _gpus(whole, pool))
        for cluster in clusters
        for pool in cluster.spec.node_pools
        if not wanted or pool.name in wanted
    ]
    if needed == 1 or not pools or any(gpus is None for _, _, gpus in pools):
        return
    cluster, pool, most = max(pools, key=lambda found: found[2] or 0)
    if needed > (most or 0):
        yield whole.problem(
            endpoint,
            "spec.parallelism",
            f"cannot run a replica of {needed} GPUs: the largest pool has {most or 0}",
            f"that is {pool.name} of {cluster.ref}; leave the parallelism out and "
            "the optimizer finds what fits",
        )


def _gpus(whole: Whole, pool: NodePool) -> int | None:
    """GPUs of a pool at its largest; None where its machine is unknown."""
    if pool.instance_type is None:
        per_node = (pool.gpus_per_node or 1) if pool.gpu is not None else 0
        return per_node * pool.capacity
    machine = whole.catalog.instances.get(pool.instance_type)
    return None if machine is None else (machine.gpus or 0) * pool.capacity


def _share_needs_hami(whole: Whole, endpoint: Endpoint) -> Iterator[Problem]:
    if endpoint.spec.gpu_share is None:
        return
    for cluster in whole.clusters_of(endpoint):
        ours = cluster.spec.provider not in ("existing", "local")
        if ours and not any(addon.name == "hami" for addon in cluster.spec.addons):
            yield whole.problem(
                endpoint,
                "spec.gpuShare",
                f"cannot share a GPU of {cluster.ref}: it has no addon hami",
                "add hami to its addons, or leave gpuShare out",
            )
