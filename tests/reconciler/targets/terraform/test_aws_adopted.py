"""A cluster that somebody else made becomes ours, by import blocks and no loss.

Real: terraform, hashicorp/aws, our module, botocore. Emulated: the cloud. The cluster
is made by calls of the API, with subnets and names that our module would not choose.
"""

import json
from typing import Any

import pytest

from reconciler.adoption import Adoption, adopt_eks
from reconciler.targets.terraform.aws import look_at
from schemas.catalog import catalog
from schemas.errors import PermanentError
from tests.reconciler.targets.canary import hits
from tests.reconciler.targets.contract import create, look, silent
from tests.reconciler.targets.terraform.aws import SECRET, Aws
from tests.reconciler.targets.terraform.conftest import AwsWorld, MakeWorld

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

TRUST = json.dumps({"Version": "2012-10-17", "Statement": []})
ZONES = ("us-east-1a", "us-east-1b")


def role(aws: Aws, name: str) -> str:
    made = aws.client("iam").create_role(RoleName=name, AssumeRolePolicyDocument=TRUST)
    return str(made["Role"]["Arn"])


def network(ec2: Any) -> dict[str, str]:
    """A VPC as another tool lays it out: two zones, one NAT, other ranges."""
    vpc = ec2.create_vpc(CidrBlock="10.40.0.0/16")["Vpc"]["VpcId"]
    for field in ("EnableDnsSupport", "EnableDnsHostnames"):
        ec2.modify_vpc_attribute(VpcId=vpc, **{field: {"Value": True}})
    gateway = ec2.create_internet_gateway()["InternetGateway"]["InternetGatewayId"]
    ec2.attach_internet_gateway(InternetGatewayId=gateway, VpcId=vpc)
    outside = ec2.create_route_table(VpcId=vpc)["RouteTable"]["RouteTableId"]
    anywhere = "0.0.0.0/0"
    ec2.create_route(
        RouteTableId=outside, DestinationCidrBlock=anywhere, GatewayId=gateway
    )
    subnets = {}
    for i, zone in enumerate(ZONES):
        for kind, cidr in (
            ("public", f"10.40.{i}.0/24"),
            ("private", f"10.40.{64 * (i + 1)}.0/18"),
        ):
            made = ec2.create_subnet(VpcId=vpc, CidrBlock=cidr, AvailabilityZone=zone)
            subnets[f"{kind} {zone}"] = made["Subnet"]["SubnetId"]
    address = ec2.allocate_address(Domain="vpc")["AllocationId"]
    nat = ec2.create_nat_gateway(
        SubnetId=subnets[f"public {ZONES[0]}"], AllocationId=address
    )["NatGateway"]["NatGatewayId"]
    # One private table that both zones share, which our module never makes.
    inside = ec2.create_route_table(VpcId=vpc)["RouteTable"]["RouteTableId"]
    ec2.create_route(
        RouteTableId=inside, DestinationCidrBlock=anywhere, NatGatewayId=nat
    )
    for place, subnet in subnets.items():
        table = outside if place.startswith("public") else inside
        ec2.associate_route_table(RouteTableId=table, SubnetId=subnet)
    return subnets


def made_elsewhere(aws: Aws) -> None:
    ec2, eks = aws.client("ec2"), aws.client("eks")
    subnets = network(ec2)
    private = [subnets[f"private {zone}"] for zone in ZONES]
    eks.create_cluster(
        name="prod",
        version="1.32",
        roleArn=role(aws, "their-cluster-role"),
        resourcesVpcConfig={"subnetIds": [*subnets.values()]},
    )
    nodes = role(aws, "their-node-role")
    template = ec2.create_launch_template(
        LaunchTemplateName="theirs",
        LaunchTemplateData={"MetadataOptions": {"HttpTokens": "required"}},
    )["LaunchTemplate"]["LaunchTemplateId"]
    for name, more in (
        ("workers", {"launchTemplate": {"id": template, "version": "1"}}),
        ("old", {"diskSize": 50}),
    ):
        eks.create_nodegroup(
            clusterName="prod",
            nodegroupName=name,
            nodeRole=nodes,
            subnets=private,
            instanceTypes=["m7i.xlarge"],
            amiType="AL2023_x86_64_STANDARD",
            scalingConfig={"minSize": 2, "maxSize": 2, "desiredSize": 2},
            **more,
        )
    eks.create_addon(clusterName="prod", addonName="vpc-cni")


def found(world: AwsWorld) -> Adoption:
    return adopt_eks(look_at("prod", world.aws.client), "us-east-1", catalog())


async def test_a_cluster_made_elsewhere_is_adopted_without_a_loss(
    aws_world: MakeWorld,
) -> None:
    world = aws_world()
    made_elsewhere(world.aws)
    target, adoption = world.target, found(world)
    before = world.aws.client("eks").describe_cluster(name="prod")["cluster"]
    assert [n for n in adoption.notes if "old" in n] == [
        "node group old is left out: it has no launch template, and EKS gives it none later"
    ]
    assert [pool["name"] for pool in adoption.spec["nodePools"]] == ["workers"]

    # Said otherwise than it is, it would be lost: refused by the attribute.
    network = {**adoption.spec["network"], "cidr": "10.41.0.0/16"}
    wrong = world.unit(**{**adoption.spec, "network": network})
    with pytest.raises(
        PermanentError, match=r"cannot adopt .*aws_vpc\.this \(cidr_block\)"
    ):
        await target.dry_run(create(wrong))

    unit = world.unit(**adoption.spec)
    summary = await target.summary(create(unit))
    assert summary.counts["delete"] == summary.counts["replace"] == 0
    assert summary.counts["adopt"] == len(adoption.spec["adopt"])
    made = await target.apply(create(unit), silent)
    # It is ours from now on: nothing is imported again, nothing strays.
    world.look_again()
    assert await look(target, unit.key) == made
    assert (made.detail, made.digest) == ("", unit.digest)
    after = world.aws.client("eks").describe_cluster(name="prod")["cluster"]
    assert after["createdAt"] == before["createdAt"]
    assert after["roleArn"] == before["roleArn"]
    assert hits(world.folder, SECRET) == []
