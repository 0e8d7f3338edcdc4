"""Labels and resources as those who write them do, read into pools."""

from typing import Any

import pytest

from reconciler.hardware import Machines, hardware
from schemas.catalog import catalog
from schemas.cluster import NodePool


def node(
    name: str,
    labels: dict[str, str] | None = None,
    devices: dict[str, int] | None = None,
    annotations: dict[str, str] | None = None,
    **spec: Any,
) -> dict[str, Any]:
    counted = {name: str(count) for name, count in (devices or {}).items()}
    offered = {"cpu": "96", "memory": "1056764348Ki", **counted}
    metadata = {"name": name, "labels": labels or {}, "annotations": annotations or {}}
    status = {"capacity": offered, "allocatable": offered}
    return {"metadata": metadata, "spec": spec, "status": status}


def pod(where: str, phase: str = "Running", **limits: int) -> dict[str, Any]:
    named = {
        name.replace("_", "/", 1).replace("_", "-"): n for name, n in limits.items()
    }
    container = {"resources": {"limits": {n: str(c) for n, c in named.items()}}}
    return {
        "spec": {"nodeName": where, "containers": [container]},
        "status": {"phase": phase},
    }


H100 = {
    "foundry.bud/pool": "h100",
    "nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3",
    "nvidia.com/gpu.count": "8",
    "nvidia.com/gpu.memory": "81559",
}


def one(*nodes: dict[str, Any], pods: tuple[dict[str, Any], ...] = ()) -> Machines:
    (found,) = hardware(nodes, pods, catalog())
    return found


def test_nodes_become_a_pool_that_a_file_may_say() -> None:
    found = one(
        node("b", {**H100, "nvidia.com/gpu.clique": "c1.0"}, {"nvidia.com/gpu": 8}),
        node("a", {**H100, "nvidia.com/gpu.clique": "c1.0"}, {"nvidia.com/gpu": 8}),
    )
    assert found.nodes == ("a", "b")
    assert (found.gpu, found.gpus_per_node) == ("h100-sxm-80gb", 8)
    assert found.gpu_memory_mib == 81559
    assert found.fabrics == ("nvlink c1.0",)
    said = found.spec()
    assert said["memory"] == "1007GiB"
    assert (
        NodePool.model_validate(
            {**said, "memory": said["memory"]}, strict=False
        ).capacity
        == 2
    )


def test_what_is_free_is_what_no_running_pod_and_no_cordon_holds() -> None:
    nodes = (
        node("a", H100, {"nvidia.com/gpu": 8}),
        node("b", H100, {"nvidia.com/gpu": 8}),
        node("c", H100, {"nvidia.com/gpu": 8}, unschedulable=True),
    )
    pods = (
        pod("a", **{"nvidia.com_gpu": 6}),
        pod("b", "Succeeded", **{"nvidia.com_gpu": 8}),
    )
    assert one(*nodes, pods=pods).free == {"nvidia.com/gpu": 10}


@pytest.mark.parametrize(
    ("labels", "devices", "annotations", "slices"),
    [
        (
            {**H100, "nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3-MIG-1g.10gb"},
            {"nvidia.com/mig-1g.10gb": 56, "nvidia.com/gpu": 0},
            {},
            {"1g.10gb": 56},
        ),
        (
            {**H100, "nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3-SHARED"},
            {"nvidia.com/gpu": 32},
            {},
            {"shared": 32},
        ),
        (
            H100,
            {"nvidia.com/gpu": 80},
            {
                "hami.io/node-nvidia-register": ":".join(
                    f"GPU-{i},10,81559,100,NVIDIA-H100,0,true" for i in range(8)
                )
            },
            {"hami": 80},
        ),
    ],
)
def test_a_gpu_that_is_cut_or_shared_is_still_counted_as_one(
    labels: dict[str, str],
    devices: dict[str, int],
    annotations: dict[str, str],
    slices: dict[str, int],
) -> None:
    found = one(node("a", labels, devices, annotations))
    assert (found.gpu, found.gpus_per_node) == ("h100-sxm-80gb", 8)
    assert found.slices == slices


@pytest.mark.parametrize(
    ("labels", "devices", "trouble"),
    [
        (
            {"feature.node.kubernetes.io/pci-0302_10de.present": "true"},
            {},
            "has NVIDIA devices that no device plugin offers yet",
        ),
        (
            {"feature.node.kubernetes.io/pci-10de.present": "true"},
            {},
            "has NVIDIA devices that no device plugin offers yet",
        ),
        ({}, {"nvidia.com/gpu": 1}, "no feature discovery says which GPU it is"),
        (
            {"nvidia.com/gpu.product": "NVIDIA-Z900"},
            {"nvidia.com/gpu": 1},
            "NVIDIA-Z900 is not in the catalog",
        ),
        ({"feature.node.kubernetes.io/pci-0200_15b3.present": "true"}, {}, ""),
    ],
)
def test_what_stands_in_the_way_is_said(
    labels: dict[str, str], devices: dict[str, int], trouble: str
) -> None:
    assert one(node("a", labels, devices)).trouble == trouble


def test_pools_are_named_as_their_cloud_names_them_and_shapes_kept_apart() -> None:
    found = hardware(
        [
            node("a", {"eks.amazonaws.com/nodegroup": "system"}),
            node("b", {"kubernetes.azure.com/agentpool": "batch"}),
            node("c", H100, {"nvidia.com/gpu": 8, "vpc.amazonaws.com/efa": 32}),
            node("d", H100, {"nvidia.com/gpu": 7}),
        ],
        [],
        catalog(),
    )
    assert [(m.pool, len(m.nodes)) for m in found] == [
        ("batch", 1),
        ("h100", 1),
        ("h100", 1),
        ("system", 1),
    ]
    assert found[1].fabrics == ("efa",)
