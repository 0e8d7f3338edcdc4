"""Nodes as node pools: what a cluster's machines really have (pure).

``bud cluster inventory`` calls it with the node and pod objects of a cluster, and
prints the pools in the words of a spec. It reads the labels of Node Feature Discovery
and NVIDIA's feature discovery, the resources of device plugins, and HAMi's register;
what a node does not say stays unknown. It never asks a cluster anything, and what it
finds reaches the optimizer by the file that somebody commits: a lock is decided by git
alone.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from schemas.catalog import Catalog
from schemas.units import Bytes

__all__ = ["Machines", "hardware"]

Json = Mapping[str, Any]

# Where a node says which pool it is of: ours first, then each cloud's own.
_POOLS = (
    "foundry.bud/pool",
    "eks.amazonaws.com/nodegroup",
    "kubernetes.azure.com/agentpool",
    "cloud.google.com/gke-nodepool",
)
_DEVICES = ("nvidia.com/gpu", "amd.com/gpu", "gpu.intel.com/i915")
_MIG = re.compile(r"nvidia\.com/mig-(.+)")
# What feature discovery appends to a product that is cut or shared.
_CUT = re.compile(r"(-SHARED|-MIG-[0-9a-z.]+)+$")
# Class 03 is a display controller; NFD may be told to name the vendor alone.
_PCI = re.compile(
    r"feature\.node\.kubernetes\.io/pci-(?:03[0-9a-f]{2}_)?(10de|1002)\.present"
)
_VENDORS = {"10de": "NVIDIA", "1002": "AMD"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Machines:
    """Nodes of one pool that are alike."""

    pool: str
    nodes: tuple[str, ...]
    gpu: str | None
    """The catalog's key; None of a CPU node, and of a product the catalog lacks."""
    product: str
    """As the node says it."""
    gpus_per_node: int
    gpu_memory_mib: int | None
    slices: Mapping[str, int]
    """MIG profile, or ``hami`` and ``shared``, to how many of it a node offers."""
    cpus: int
    memory_gib: int
    fabrics: tuple[str, ...]
    """NVLink domains, and the words ``rdma`` and ``efa``."""
    free: Mapping[str, int]
    """Resource -> how much of it nobody has asked for, over all nodes."""
    trouble: str
    """Why its GPUs cannot be used as they are."""

    def spec(self) -> dict[str, object]:
        """The pool as a Cluster's file says it."""
        made: dict[str, object] = {"name": self.pool, "count": len(self.nodes)}
        if self.gpu is not None:
            made |= {"gpu": self.gpu, "gpusPerNode": self.gpus_per_node}
        return made | {"cpus": self.cpus, "memory": f"{self.memory_gib}GiB"}


def hardware(
    nodes: Iterable[Json], pods: Iterable[Json], catalog: Catalog
) -> tuple[Machines, ...]:
    """Group what nodes say by pool and shape, with what is free of it."""
    asked = _asked(pods)
    groups: dict[tuple[object, ...], list[Json]] = defaultdict(list)
    for node in nodes:
        groups[_shape(node)].append(node)
    found = [_machines(alike, asked, catalog) for alike in groups.values()]
    return tuple(sorted(found, key=lambda m: (m.pool, m.product, m.nodes)))


def _shape(node: Json) -> tuple[object, ...]:
    capacity = node["status"].get("capacity", {})
    counted = tuple(sorted((n, v) for n, v in capacity.items() if "/" in n))
    return _pool(node), _product(node), counted, _cpus(node), _gib(node)


def _machines(
    alike: list[Json], asked: Mapping[str, Mapping[str, int]], catalog: Catalog
) -> Machines:
    node = min(alike, key=_name)
    labels, capacity = _labels(node), node["status"].get("capacity", {})
    product = _product(node)
    known = catalog.gpus.get(_CUT.sub("", product)) if product else None
    memory = labels.get("nvidia.com/gpu.memory", "")
    devices = _devices(node)
    return Machines(
        pool=_pool(node),
        nodes=tuple(sorted(_name(n) for n in alike)),
        gpu=known.key if known is not None else None,
        product=product,
        gpus_per_node=devices,
        gpu_memory_mib=int(memory) if memory.isdigit() else None,
        slices=_slices(node, devices),
        cpus=_cpus(node),
        memory_gib=_gib(node),
        fabrics=tuple(sorted({f for each in alike for f in _fabrics(each)})),
        free={
            name: sum(_free(each, name, asked) for each in alike)
            for name in sorted(capacity)
            if name in _DEVICES or _MIG.fullmatch(name)
        },
        trouble=_trouble(node, product, devices, known=known is not None),
    )


def _devices(node: Json) -> int:
    """Physical devices: a node that shares or cuts them offers more than it has."""
    labels, capacity = _labels(node), node["status"].get("capacity", {})
    if (count := labels.get("nvidia.com/gpu.count", "")).isdigit():
        return int(count)
    if register := _hami(node):
        return len(register)
    return sum(int(capacity.get(name, "0")) for name in _DEVICES)


def _slices(node: Json, devices: int) -> dict[str, int]:
    capacity = node["status"].get("capacity", {})
    found = {
        match[1]: int(count)
        for name, count in capacity.items()
        if (match := _MIG.fullmatch(name)) and int(count)
    }
    offered = int(capacity.get("nvidia.com/gpu", "0"))
    if register := _hami(node):
        found["hami"] = sum(register)
    elif offered > devices > 0:
        found["shared"] = offered
    return found


def _hami(node: Json) -> list[int]:
    """How many tasks HAMi lets on each device: ``uuid,count,memory,cores,type,..:``"""
    text = (
        node["metadata"].get("annotations", {}).get("hami.io/node-nvidia-register", "")
    )
    fields = [entry.split(",") for entry in text.split(":") if entry.count(",") > 1]
    return [int(entry[1]) for entry in fields if entry[1].isdigit()]


def _fabrics(node: Json) -> Iterable[str]:
    labels, capacity = _labels(node), node["status"].get("capacity", {})
    if clique := labels.get("nvidia.com/gpu.clique"):
        yield f"nvlink {clique}"
    if labels.get("feature.node.kubernetes.io/rdma.capable") == "true":
        yield "rdma"
    if int(capacity.get("vpc.amazonaws.com/efa", "0")):
        yield "efa"


def _trouble(node: Json, product: str, devices: int, *, known: bool) -> str:
    labels = _labels(node)
    if not devices:
        seen = {found[1] for name in labels if (found := _PCI.fullmatch(name))}
        names = " and ".join(sorted(_VENDORS[pci] for pci in seen))
        return f"has {names} devices that no device plugin offers yet" if seen else ""
    if product and not known:
        return f"{product} is not in the catalog"
    if not product:
        return "no feature discovery says which GPU it is"
    return ""


def _asked(pods: Iterable[Json]) -> dict[str, dict[str, int]]:
    """Node -> resource -> what pods there hold of it."""
    held: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for pod in pods:
        spec = pod.get("spec", {})
        if pod.get("status", {}).get("phase") in ("Succeeded", "Failed"):
            continue
        for container in spec.get("containers", ()):
            limits = container.get("resources", {}).get("limits", {})
            for name, count in limits.items():
                if name in _DEVICES or _MIG.fullmatch(name):
                    held[spec.get("nodeName", "")][name] += int(count)
    return held


def _free(node: Json, name: str, asked: Mapping[str, Mapping[str, int]]) -> int:
    if node.get("spec", {}).get("unschedulable"):
        return 0
    offered = int(node["status"].get("allocatable", {}).get(name, "0"))
    return max(offered - asked.get(_name(node), {}).get(name, 0), 0)


def _pool(node: Json) -> str:
    labels = _labels(node)
    found = next((labels[name] for name in _POOLS if name in labels), None)
    return found or ("gpu" if _devices(node) else "cpu")


def _product(node: Json) -> str:
    labels = _labels(node)
    names = ("nvidia.com/gpu.product", "amd.com/gpu.product-name")
    return next((labels[name] for name in names if name in labels), "")


def _cpus(node: Json) -> int:
    text = str(node["status"].get("capacity", {}).get("cpu", "0"))
    return int(text.removesuffix("m")) // 1000 if text.endswith("m") else int(text)


def _gib(node: Json) -> int:
    text = str(node["status"].get("capacity", {}).get("memory", "0"))
    # Kubernetes writes no B: 64Gi, 263842084Ki, or plain bytes.
    return int(Bytes(f"{text}B").gib)


def _labels(node: Json) -> Mapping[str, str]:
    found: Mapping[str, str] = node["metadata"].get("labels", {})
    return found


def _name(node: Json) -> str:
    return str(node["metadata"]["name"])
