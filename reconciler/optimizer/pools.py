"""Node pools of a cluster as the machines a replica could run on.

Called by ``posing``. Prices are the catalog's list prices; a machine that is one's
own has none. It never asks a cloud or a cluster anything.
"""

from __future__ import annotations

from typing import Final

from reconciler.optimizer.device import Device
from reconciler.optimizer.task import Pool
from schemas.catalog import Catalog, Gpu
from schemas.cluster import Cluster, NodePool
from schemas.endpoint import EndpointSpec

__all__ = ["NODE_CPUS", "NODE_MEMORY_GIB", "SPOT_SHARE", "pools_of"]

# A node that nobody described is taken for a small workstation.
NODE_CPUS: Final = 4
NODE_MEMORY_GIB: Final = 8.0
# Of a node's memory, what the operating system and its daemons leave.
NODE_SHARE: Final = 0.8
# What a spot machine costs of the list price. Clouds advertise savings of up to 90
# and 70 %; GPU machines are scarce, and half of that is what a plan can count on.
SPOT_SHARE: Final = 0.5


def pools_of(
    cluster: Cluster, spec: EndpointSpec, catalog: Catalog
) -> tuple[Pool, ...]:
    """The pools that the endpoint may use, in the order they are written.

    llama.cpp runs on the nodes' CPUs here; every other engine on their GPUs, and
    on CPUs only where a cluster has no GPU at all.
    """
    limits = spec.optimizer.constraints
    wanted = {catalog.gpus.find(name).key for name in limits.gpus}
    written = cluster.spec.node_pools or (NodePool(name="machine", count=1),)
    found = []
    for pool in written:
        if limits.node_pools and pool.name not in limits.node_pools:
            continue
        if pool.spot and not limits.spot:
            continue
        gpu, made = _pool(cluster.metadata.name, pool, spec, catalog)
        if wanted and (gpu is None or gpu.key not in wanted):
            continue
        found.append(made)
    cpu_only = spec.engine.name == "llamacpp"
    matching = [pool for pool in found if (pool.gpu is None) == cpu_only]
    return tuple(matching or (found if not cpu_only else ()))


def _pool(
    cluster: str, pool: NodePool, spec: EndpointSpec, catalog: Catalog
) -> tuple[Gpu | None, Pool]:
    cpus, memory = pool.cpus, pool.memory.gib if pool.memory else None
    name, per_node, price = pool.gpu, pool.gpus_per_node or 1, None
    if pool.instance_type is not None:
        machine = catalog.instances.find(pool.instance_type)
        name, per_node = machine.gpu, machine.gpus or 1
        cpus, memory = cpus or machine.vcpus, memory or machine.memory_gib
        price = machine.price_usd_per_h
    if price is not None and pool.spot:
        price *= SPOT_SHARE
    if name is None or spec.engine.name == "llamacpp":
        made = _cpu_pool(cluster, pool, spec, catalog, cpus=cpus, memory=memory)
        return None, made
    gpu = catalog.gpus.find(name)
    share = spec.gpu_share / 100 if spec.gpu_share is not None else 1.0
    slices = int(1 / share)
    devices = per_node * slices
    return gpu, Pool(
        cluster=cluster,
        name=pool.name,
        device=Device.of_gpu(gpu, share=share),
        gpu=gpu.key,
        gpus_per_node=devices,
        nodes=pool.capacity,
        price_usd_per_h=None if price is None else price / devices,
        shared=spec.gpu_share is not None,
    )


def _cpu_pool(
    cluster: str,
    pool: NodePool,
    spec: EndpointSpec,
    catalog: Catalog,
    *,
    cpus: int | None,
    memory: float | None,
) -> Pool:
    """Processes share a node's threads and memory evenly.

    Replicas that are asked for run even where they must share a thread: what is
    set is never changed.
    """
    cpus = cpus or NODE_CPUS
    replicas = -(-(spec.replicas or 1) // max(pool.capacity, 1))
    threads = min(spec.cpus or max(1, cpus // replicas), cpus)
    slots = max(cpus // threads, replicas)
    usable = (memory or NODE_MEMORY_GIB) * NODE_SHARE
    return Pool(
        cluster=cluster,
        name=pool.name,
        device=Device.of_cpu(catalog.cpu, threads=threads, memory_gib=usable / slots),
        gpu=None,
        gpus_per_node=slots,
        nodes=pool.capacity,
        price_usd_per_h=None,
    )
