"""An Endpoint or a Model on a Kubernetes cluster -> the values of our charts.

The pipeline's render step calls ``render_endpoint`` and ``render_model`` and puts the
bytes into units. Pure: no clock, no network, no Helm. What is decided here: how many
pods a replica has, which resources they ask for, and how long a start may take.
Law 7 lives here: under an autoscaler the number of replicas is not said.
"""

from __future__ import annotations

from math import ceil

from renderers.engine_arguments import ADAPTERS, WEIGHTS, serve
from renderers.helm import Release, our_chart, write_release
from renderers.scaling import scaling_of
from renderers.transfer import claim_of, gguf_pattern, transfer
from schemas.architecture import Precision
from schemas.catalog import catalog
from schemas.cluster import Cluster, NodePool
from schemas.endpoint import Endpoint
from schemas.errors import PermanentError
from schemas.kubernetes import (
    AdapterValues,
    EndpointValues,
    IngressValues,
    ModelValues,
    ProbeValues,
    RolloutValues,
    TolerationValues,
)
from schemas.model import Model, ModelSource
from schemas.objects import DEFAULT_PROJECT, FoundryObject
from schemas.resolution import Resolution

__all__ = [
    "NODE_POOL_LABEL",
    "SYSTEM",
    "namespace_of",
    "render_endpoint",
    "render_model",
]

NODE_POOL_LABEL = "foundry.bud/node-pool"
"""On the nodes of every pool that we make ourselves."""

SYSTEM = "bud-system"
"""The namespace of what belongs to the cluster and to no project."""
WORKLOADS = "bud-workloads"
_MADE_BY_US = ("aws-eks", "azure-aks", "onprem")
# What the vendors' device plugins call one GPU.
_DEVICES = {
    "nvidia": "nvidia.com/gpu",
    "amd": "amd.com/gpu",
    "intel": "gpu.intel.com/xe",
}
_GAUDI = "habana.ai/gaudi"
# Weights come from network storage: 0.2 GiB/s is about what one volume of the
# clouds' general-purpose file storage gives. A guess on the fast side would be a
# restart loop, so this is one on the slow side.
_LOAD_GIB_PER_S = 0.2
# CUDA initialisation, compilation and graph capture of vLLM and SGLang.
_ENGINE_START_S = 300
# A transfer from the internet: 50 MiB/s, after an hour of grace.
_TRANSFER_GIB_PER_S = 0.05
_TRANSFER_GRACE_S = 3600


def namespace_of(project: str) -> str:
    """Name the namespace of a project's workloads."""
    return WORKLOADS if project == DEFAULT_PROJECT else f"{WORKLOADS}-{project}"


def render_endpoint(
    endpoint: Endpoint, model: Model, cluster: Cluster, resolution: Resolution
) -> bytes:
    """Render what ``cluster`` shall hold for ``endpoint``.

    Raises:
        PermanentError: the cluster cannot hold what was resolved.
    """
    spec, metadata = endpoint.spec, endpoint.metadata
    pool = _pool(endpoint, cluster, resolution)
    nodes = _nodes(endpoint, resolution, _gpus_per_node(pool))
    weights_gib = _weights_gib(model, resolution.precision)
    load_s = ceil(_ENGINE_START_S + weights_gib / _LOAD_GIB_PER_S)
    served = serve(endpoint, model, resolution, nodes=nodes)
    requests, limits = _resources(endpoint, resolution, nodes, weights_gib)
    namespace = namespace_of(metadata.project)
    values = EndpointValues(
        name=metadata.name,
        namespace=namespace,
        project=metadata.project,
        engine=spec.engine.name,
        model=spec.model,
        image=served.image,
        command=served.command,
        worker_command=served.worker,
        env=dict(served.env),
        port=served.port,
        metrics_path="/metrics",
        monitored=any(a.name == "kube-prometheus-stack" for a in cluster.spec.addons),
        nodes=nodes,
        replicas=None if spec.scaling is not None else resolution.replicas,
        requests=requests,
        limits=limits,
        shm=f"{max(1, 2 * ceil(resolution.gpus / nodes))}Gi",
        weights=claim_of(model),
        adapters=tuple(_adapter(endpoint, a.name, a.source) for a in spec.adapters),
        node_selector=_selector(cluster, pool),
        tolerations=tuple(
            TolerationValues(key=t.key, value=t.value, effect=t.effect)
            for t in pool.taints
        ),
        probe=ProbeValues(path="/health", startup_seconds=load_s),
        rollout=_rollout(endpoint, load_s),
        scaling=scaling_of(endpoint, cluster, namespace=namespace, ttft=served.ttft),
        ingress=_ingress(endpoint, cluster),
    )
    return _release("endpoint", endpoint, values)


def render_model(model: Model, cluster: Cluster) -> bytes:
    """Render the volume that holds ``model``'s weights and the job that fills it.

    Raises:
        PermanentError: the weights cannot be fetched from inside a cluster.
    """
    weights_gib = _weights_gib(model, model.spec.precision)
    gguf = model.spec.format == "gguf"
    fetched = transfer(
        model,
        model.spec.source,
        WEIGHTS,
        file="model.gguf" if gguf else "",
        pattern=gguf_pattern(model.spec.precision),
    )
    claim = claim_of(model)
    values = ModelValues(
        name=model.metadata.name,
        namespace=namespace_of(model.metadata.project),
        project=model.metadata.project,
        claim=claim,
        storage_class=cluster.spec.storage_class,
        # Room for a download next to what it replaces while it is moved in place.
        size=f"{ceil(weights_gib * 1.2) + 1}Gi",
        # A Job never changes: another transfer is another Job, under another name.
        job=f"{claim[:54]}-{fetched.digest[:8]}",
        image=fetched.image,
        command=fetched.command,
        env={"HOME": "/tmp", "HF_HUB_DISABLE_TELEMETRY": "1"},  # noqa: S108 - a volume
        secret=fetched.secret,
        secret_env=fetched.secret_env,
        deadline_seconds=_TRANSFER_GRACE_S + ceil(weights_gib / _TRANSFER_GIB_PER_S),
    )
    return _release("model", model, values)


def _release(
    chart: str, owner: FoundryObject, values: EndpointValues | ModelValues
) -> bytes:
    return write_release(
        Release(
            chart=chart,
            chart_digest=our_chart(chart).digest,
            entry=f"{owner.metadata.project}.{owner.metadata.name}",
            values=values.model_dump(mode="json", by_alias=True),
        )
    )


def _pool(endpoint: Endpoint, cluster: Cluster, resolution: Resolution) -> NodePool:
    for pool in cluster.spec.node_pools:
        if pool.name == resolution.node_pool:
            return pool
    raise _cannot(endpoint, f"{cluster.ref} has no node pool {resolution.node_pool!r}")


def _gpus_per_node(pool: NodePool) -> int:
    if pool.instance_type is not None:
        return catalog().instances.find(pool.instance_type).gpus
    return pool.gpus_per_node or 1


def _weights_gib(model: Model, precision: str) -> float:
    architecture = model.spec.shape(catalog())
    return architecture.weight_bytes(Precision(precision)) / 2**30


def _nodes(endpoint: Endpoint, resolution: Resolution, per_node: int) -> int:
    """Pods of one replica: one, unless its GPUs span machines."""
    gpus = resolution.gpus
    if gpus <= per_node:
        return 1
    if gpus % per_node:
        raise _cannot(
            endpoint, f"{gpus} GPUs of one replica do not fill nodes of {per_node} GPUs"
        )
    return gpus // per_node


def _resources(
    endpoint: Endpoint, resolution: Resolution, nodes: int, weights_gib: float
) -> tuple[dict[str, str], dict[str, str]]:
    """What one pod asks for, and what it may not exceed."""
    share = endpoint.spec.gpu_share
    if resolution.gpu is None:
        cpus = str(endpoint.spec.cpus or 4)
        needed = resolution.prediction.get("memory_gib", 1.5 * weights_gib)
        both = {"cpu": cpus, "memory": f"{ceil(needed) + 4}Gi"}
        return both, both
    vendor = catalog().gpus.find(resolution.gpu).vendor
    if share is None:
        gpus = resolution.gpus // nodes
        # A process a GPU, each with busy threads; weights pass through the page
        # cache, so memory is asked for and not limited.
        requests = {"cpu": str(4 * gpus), "memory": f"{16 * gpus}Gi"}
        gaudi = resolution.gpu.startswith("gaudi")
        return requests, {_GAUDI if gaudi else _DEVICES[vendor]: str(gpus)}
    if vendor != "nvidia":
        raise _cannot(endpoint, f"gpuShare needs an NVIDIA GPU, not {resolution.gpu}")
    # HAMi's own resources: a slice of the memory and of the compute of one GPU.
    hami = {
        "nvidia.com/gpu": "1",
        "nvidia.com/gpumem-percentage": str(share),
        "nvidia.com/gpucores": str(share),
    }
    return {"cpu": "2", "memory": "8Gi"}, hami


def _selector(cluster: Cluster, pool: NodePool) -> dict[str, str]:
    made = {NODE_POOL_LABEL: pool.name}
    return {**pool.labels, **(made if cluster.spec.provider in _MADE_BY_US else {})}


def _rollout(endpoint: Endpoint, load_s: int) -> RolloutValues:
    rollout = endpoint.spec.rollout
    ready_s = ceil(rollout.ready_timeout.seconds)
    if "ready_timeout" not in rollout.model_fields_set:
        ready_s = max(ready_s, load_s)
    recreate = rollout.strategy == "recreate"
    return RolloutValues(
        strategy="Recreate" if recreate else "RollingUpdate",
        max_surge=rollout.max_surge,
        floor=rollout.floor,
        drain_seconds=ceil(rollout.drain_timeout.seconds),
        ready_seconds=ready_s,
    )


def _ingress(endpoint: Endpoint, cluster: Cluster) -> IngressValues | None:
    ingress = cluster.spec.ingress
    if ingress is None:
        return None
    metadata = endpoint.metadata
    return IngressValues(
        kind=ingress.kind,
        class_name=ingress.class_name,
        host=ingress.host,
        path=f"/{metadata.project}/{metadata.name}",
    )


def _adapter(endpoint: Endpoint, name: str, source: ModelSource) -> AdapterValues:
    gguf = endpoint.spec.engine.name == "llamacpp"
    fetched = transfer(
        endpoint, source, f"{ADAPTERS}/{name}", file="adapter.gguf" if gguf else ""
    )
    return AdapterValues(
        name=name,
        image=fetched.image,
        command=fetched.command,
        secret=fetched.secret,
        secret_env=fetched.secret_env,
    )


def _cannot(owner: FoundryObject, found: str) -> PermanentError:
    return PermanentError(f"cannot render {owner.ref} for Kubernetes: {found}")
