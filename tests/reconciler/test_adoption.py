"""What a cloud says of a cluster becomes a file that our module can hold."""

import json
from typing import Any

import pytest

from reconciler.adoption import Seen, adopt_eks, adopt_existing
from schemas.catalog import catalog
from schemas.cluster import Cluster

GROUP = {
    "nodegroupName": "Workers_1",
    "instanceTypes": ["m7i.xlarge"],
    "amiType": "AL2023_x86_64_STANDARD",
    "capacityType": "ON_DEMAND",
    "scalingConfig": {"minSize": 1, "maxSize": 4, "desiredSize": 2},
    "launchTemplate": {"id": "lt-1"},
    "nodeRole": "arn:aws:iam::1:role/nodes",
    "taints": [{"key": "k", "value": "v", "effect": "NO_EXECUTE"}],
}


def table(name: str, target: dict[str, str], *subnets: str, main: bool = False) -> Any:
    held: list[dict[str, object]] = [{"SubnetId": s} for s in subnets]
    return {
        "RouteTableId": name,
        "Associations": [*held, *([{"Main": True}] if main else [])],
        "Routes": [{"DestinationCidrBlock": "0.0.0.0/0", **target}],
    }


def subnet(name: str, zone: str, cidr: str) -> dict[str, str]:
    return {"SubnetId": name, "AvailabilityZone": zone, "CidrBlock": cidr}


def seen(*groups: dict[str, Any], **more: Any) -> Seen:
    given: dict[str, Any] = {
        "cluster": {
            "name": "prod",
            "version": "1.32",
            "roleArn": "arn:aws:iam::1:role/path/cluster",
            "identity": {"oidc": {"issuer": "https://oidc.example/id/1"}},
            "resourcesVpcConfig": {"subnetIds": ["s-a", "s-b"], "vpcId": "vpc-1"},
        },
        "groups": groups,
        "vpc": {"VpcId": "vpc-1", "CidrBlock": "10.0.0.0/16"},
        "subnets": [
            subnet("s-a", "us-east-1a", "10.0.0.0/18"),
            subnet("s-b", "us-east-1b", "10.0.64.0/18"),
            subnet("s-out", "us-east-1a", "10.0.255.0/24"),
        ],
        "tables": [
            table("rtb-in", {"NatGatewayId": "nat-1"}, "s-a", "s-b"),
            table("rtb-out", {"GatewayId": "igw-1"}, "s-out"),
            table("rtb-main", {}, main=True),
        ],
        "gateways": [{"InternetGatewayId": "igw-1"}],
        "nats": [
            {
                "NatGatewayId": "nat-1",
                "SubnetId": "s-out",
                "NatGatewayAddresses": [{"AllocationId": "eip-1"}],
            }
        ],
        "endpoints": [],
        "issuers": ["arn:aws:iam::1:oidc-provider/oidc.example/id/1"],
        "addons": ["coredns", "some-other"],
        "log_groups": ["/aws/eks/prod/cluster"],
    }
    return Seen(**{**given, **more})


def test_what_is_there_is_named_and_the_file_can_be_committed() -> None:
    spec = adopt_eks(seen(GROUP), "us-east-1", catalog()).spec
    written = {
        "apiVersion": "foundry.bud/v1",
        "kind": "Cluster",
        "metadata": {"name": "prod"},
        "spec": spec,
    }
    held = Cluster.model_validate_json(json.dumps(written)).spec
    assert held.adopt['aws_nat_gateway.this["us-east-1a"]'] == "nat-1"
    assert held.adopt['aws_eip.nat["us-east-1a"]'] == "eip-1"
    assert held.adopt["aws_iam_role.cluster"] == "cluster"
    assert held.adopt['aws_eks_node_group.scaled["workers-1"]'] == "prod:Workers_1"
    assert held.adopt['aws_eks_addon.scheduled["coredns"]'] == "prod:coredns"
    assert not any("some-other" in value for value in held.adopt.values())
    (pool,) = held.node_pools
    assert (pool.min, pool.max, pool.taints[0].effect) == (1, 4, "NoExecute")


def test_a_table_that_zones_share_is_taken_once_and_the_main_one_never() -> None:
    spec = adopt_eks(seen(GROUP), "us-east-1", catalog()).spec
    tables = {
        a: i for a, i in spec["adopt"].items() if a.startswith("aws_route_table.")
    }
    assert tables == {
        'aws_route_table.private["us-east-1a"]': "rtb-in",
        "aws_route_table.public": "rtb-out",
    }
    # A zone without public subnet gets a range that nobody has.
    assert spec["network"]["subnets"]["us-east-1b"]["public"] == "10.0.254.0/24"
    assert spec["network"]["nat"] == "single"


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"launchTemplate": None}, "it has no launch template"),
        ({"instanceTypes": ["m7i.xlarge", "m7a.xlarge"]}, "its instance types are m7i"),
        ({"amiType": "BOTTLEROCKET_x86_64"}, "its image is BOTTLEROCKET_x86_64"),
        (
            {"scalingConfig": {"minSize": 0, "maxSize": 0, "desiredSize": 0}},
            "it has no machines",
        ),
        ({"launchTemplate": {"id": "lt-1"}}, "it shares its launch template"),
        (
            {"launchTemplate": {"id": "lt-2"}, "nodeRole": "arn:aws:iam::1:role/other"},
            "its nodes have another role",
        ),
    ],
)
def test_a_node_group_that_would_be_made_anew_is_left_out_with_its_reason(
    changed: dict[str, Any], why: str
) -> None:
    second = {**GROUP, "nodegroupName": "second", **changed}
    adoption = adopt_eks(seen(GROUP, second), "us-east-1", catalog())
    assert [pool["name"] for pool in adoption.spec["nodePools"]] == ["workers-1"]
    assert any(
        note.startswith("node group second") and why in note for note in adoption.notes
    )


def test_a_cluster_that_is_used_as_it_is_keeps_its_machines() -> None:
    pool = {"name": "gpu", "count": 2, "gpu": "l40s-48gb", "gpusPerNode": 8}
    assert adopt_existing("v1.33.5+k3s1", [pool]).spec == {
        "provider": "existing",
        "version": "1.33.5",
        "nodePools": [pool],
    }
