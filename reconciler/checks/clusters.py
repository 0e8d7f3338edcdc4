"""Clusters: what they are made of exists. Pure; ``check`` calls it."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_network

from reconciler.checks.whole import Whole
from reconciler.written import did_you_mean
from schemas.cluster import Cluster
from schemas.errors import Problem

__all__ = ["check_clusters"]


def check_clusters(whole: Whole) -> Iterator[Problem]:
    for cluster in whole.each(Cluster):
        yield from _machines_exist(whole, cluster)
        yield from _hosts_have_a_pool(whole, cluster)
        yield from _network_is_one(whole, cluster)


def _machines_exist(whole: Whole, cluster: Cluster) -> Iterator[Problem]:
    catalog = whole.catalog
    for i, pool in enumerate(cluster.spec.node_pools):
        path = f"spec.nodePools[{i}]"
        if pool.gpu is not None and pool.gpu not in catalog.gpus:
            yield whole.problem(
                cluster,
                f"{path}.gpu",
                f"cannot find GPU {pool.gpu!r} in the catalog",
                did_you_mean(pool.gpu, (gpu.key for gpu in catalog.gpus)),
            )
        if pool.instance_type is None:
            continue
        machine = catalog.instances.get(pool.instance_type)
        provider = cluster.spec.provider
        if machine is None:
            sold = [m.key for m in catalog.instances if provider.startswith(m.cloud)]
            yield whole.problem(
                cluster,
                f"{path}.instanceType",
                f"cannot find instance type {pool.instance_type!r} in the catalog",
                did_you_mean(pool.instance_type, sold),
            )
        elif not provider.startswith(machine.cloud):
            yield whole.problem(
                cluster,
                f"{path}.instanceType",
                f"cannot use {machine.key} in {provider}: {machine.cloud} sells it",
            )


def _hosts_have_a_pool(whole: Whole, cluster: Cluster) -> Iterator[Problem]:
    pools = [pool.name for pool in cluster.spec.node_pools]
    for i, host in enumerate(cluster.spec.hosts):
        if host.node_pool is not None and host.node_pool not in pools:
            yield whole.problem(
                cluster,
                f"spec.hosts[{i}].nodePool",
                f"cannot find node pool {host.node_pool!r} in this cluster",
                did_you_mean(host.node_pool, pools),
            )


def _network_is_one(whole: Whole, cluster: Cluster) -> Iterator[Problem]:
    if cluster.spec.network is None:
        return
    try:
        ip_network(cluster.spec.network.cidr)
    except ValueError as error:
        yield whole.problem(
            cluster,
            "spec.network.cidr",
            f"cannot use this network: {error}",
            "write the network's own address and its length, such as 10.0.0.0/16",
        )
