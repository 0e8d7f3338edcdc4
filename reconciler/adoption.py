"""Clusters that somebody else made, as files to review (pure).

`bud cluster adopt` calls it with what a cloud or a cluster said of itself. The file
names what is there as it is, so that the plan of the adoption has nothing to replace.
What cannot be taken over is left out and said; what becomes of it, the plan shows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network
from typing import Any

from schemas.catalog import Catalog

__all__ = ["Adoption", "Seen", "adopt_eks", "adopt_existing"]

Json = dict[str, Any]

_EFFECTS = {
    "NO_SCHEDULE": "NoSchedule",
    "PREFER_NO_SCHEDULE": "PreferNoSchedule",
    "NO_EXECUTE": "NoExecute",
}
# The add-ons of our module, by the resource that they are there.
_ADDONS = {
    "aws-ebs-csi-driver": "scheduled",
    "coredns": "scheduled",
    "eks-pod-identity-agent": "network",
    "kube-proxy": "network",
    "vpc-cni": "network",
}
_ANYWHERE = "0.0.0.0/0"
_SMALLEST = 28  # bits of the smallest subnet that AWS makes


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What AWS said of one cluster and of the VPC that it lies in."""

    cluster: Json
    groups: Sequence[Json]
    vpc: Json
    subnets: Sequence[Json]
    tables: Sequence[Json]
    gateways: Sequence[Json]
    nats: Sequence[Json]
    endpoints: Sequence[Json]
    issuers: Sequence[str]
    addons: Sequence[str]
    log_groups: Sequence[str]

    def table(self, subnet: Json) -> Json:
        """The route table of a subnet: its own, or the VPC's main one."""
        for table in self.tables:
            for held in table["Associations"]:
                if held.get("SubnetId") == subnet["SubnetId"]:
                    return table
        return next(t for t in self.tables if _is_main(t))

    def subnet(self, zone: str, *, public: bool) -> Json | None:
        """The zone's subnet of a kind; a private one has to be the cluster's."""
        held = self.cluster["resourcesVpcConfig"]["subnetIds"]
        found = (
            s
            for s in self.subnets
            if s["AvailabilityZone"] == zone
            and _is_public(self.table(s)) == public
            and (public or s["SubnetId"] in held)
        )
        return min(found, key=lambda s: str(s["SubnetId"]), default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Adoption:
    """The ``spec`` of a Cluster, and what its reader has to know."""

    spec: Json
    notes: tuple[str, ...] = ()


def adopt_existing(version: str, pools: Sequence[Json]) -> Adoption:
    """A cluster that is used as it is: its machines are never touched."""
    number = version.removeprefix("v").partition("+")[0]
    spec = {"provider": "existing", "version": number, "nodePools": [*pools]}
    return Adoption(spec=spec)


def adopt_eks(seen: Seen, region: str, catalog: Catalog) -> Adoption:
    """The cluster as our module would declare it, with the IDs of what is there."""
    name, pools, notes = str(seen.cluster["name"]), [], []
    network, adopt = _network(seen)
    adopt |= {
        "aws_eks_cluster.this": name,
        "aws_iam_role.cluster": _last(seen.cluster["roleArn"]),
        "aws_vpc.this": str(seen.vpc["VpcId"]),
        **dict(_beside(seen, name)),
    }
    for group in seen.groups:
        pool = _pool(group)
        taken = _taken(group, pool["name"], name)
        if why := [*_obstacles(group, pool, taken, adopt, catalog)]:
            left = f"node group {group['nodegroupName']} is left out"
            notes.append(f"{left}: {'; '.join(why)}")
        else:
            pools.append(pool)
            adopt |= taken
    if not pools:
        notes.append("declare nodePools: no node group could be taken over")
    if "aws_kms_key.this" in adopt:
        notes.append(
            "its KMS key gets a policy of ours: leave aws_kms_key.this out of adopt if "
            "anything else is encrypted by it"
        )
    spec = {
        "provider": "aws-eks",
        "version": seen.cluster["version"],
        "region": region,
        "network": network,
        "nodePools": pools,
        "adopt": dict(sorted(adopt.items())),
    }
    return Adoption(spec=spec, notes=tuple(notes))


def _network(seen: Seen) -> tuple[Json, dict[str, str]]:
    """Where it lies: one private and one public subnet a zone, and their routes."""
    access = seen.cluster["resourcesVpcConfig"]
    of_cluster = [s for s in seen.subnets if s["SubnetId"] in access["subnetIds"]]
    zones = sorted({s["AvailabilityZone"] for s in of_cluster})
    ranges: dict[str, Json] = {zone: {} for zone in zones}
    adopt: dict[str, str] = {}
    for zone in zones:
        for kind in ("private", "public"):
            subnet = seen.subnet(zone, public=kind == "public")
            if subnet is None:
                ranges[zone][kind] = _free(seen, ranges)
                continue
            ranges[zone][kind] = subnet["CidrBlock"]
            adopt[f'aws_subnet.{kind}["{zone}"]'] = str(subnet["SubnetId"])
            adopt |= _routed(seen.table(subnet), subnet, kind, zone, adopt)
    nats = {n: seen.subnet(n, public=True) for n in zones}
    held = {
        zone: nat
        for zone, subnet in nats.items()
        for nat in seen.nats
        if subnet is not None and nat["SubnetId"] == subnet["SubnetId"]
    }
    if len(held) in {1, len(zones)}:  # what is between is brought to one a zone
        one = zones[:1] if len(held) == 1 else zones
        for zone in set(one) & held.keys():
            nat = held[zone]
            adopt[f'aws_nat_gateway.this["{zone}"]'] = str(nat["NatGatewayId"])
            adopt |= {
                f'aws_eip.nat["{zone}"]': str(address["AllocationId"])
                for address in nat["NatGatewayAddresses"][:1]
            }
    network = {
        "cidr": seen.vpc["CidrBlock"],
        "subnets": ranges,
        "nat": ("none", "single")[len(held)] if len(held) <= 1 else "per-zone",
        "privateApi": not access.get("endpointPublicAccess", True),
    }
    return network, adopt


def _routed(
    table: Json, subnet: Json, kind: str, zone: str, known: dict[str, str]
) -> dict[str, str]:
    """The table of a subnet. One that zones share stays the first zone's; the main one
    of a VPC stays what it is, for whatever else lies there."""
    if _is_main(table):
        return {}
    name, index = str(table["RouteTableId"]), f'["{zone}"]'
    link = f"aws_route_table_association.{kind}{index}"
    found = {link: f"{subnet['SubnetId']}/{name}"}
    at = index if kind == "private" else ""
    if name in known.values() or f"aws_route_table.{kind}{at}" in known:
        return found
    found[f"aws_route_table.{kind}{at}"] = name
    if any(r.get("DestinationCidrBlock") == _ANYWHERE for r in table["Routes"]):
        found[f"aws_route.{kind}{at}"] = f"{name}_{_ANYWHERE}"
    return found


def _beside(seen: Seen, name: str) -> Iterator[tuple[str, str]]:
    """What a cluster has at most one of, and would be made a second time."""
    yield from (
        ("aws_internet_gateway.this", g["InternetGatewayId"]) for g in seen.gateways[:1]
    )
    yield from (
        ("aws_vpc_endpoint.s3", endpoint["VpcEndpointId"])
        for endpoint in seen.endpoints
        if endpoint["ServiceName"].endswith(".s3")
    )
    issuer = seen.cluster["identity"]["oidc"]["issuer"].removeprefix("https://")
    for arn in seen.issuers:
        if arn.endswith(f":oidc-provider/{issuer}"):
            yield "aws_iam_openid_connect_provider.this", arn
    for key in seen.cluster.get("encryptionConfig") or ():
        yield "aws_kms_key.this", _last(key["provider"]["keyArn"])
    for addon in seen.addons:
        if addon in _ADDONS:
            yield f'aws_eks_addon.{_ADDONS[addon]}["{addon}"]', f"{name}:{addon}"
    for resource, group in (
        ("control_plane", f"/aws/eks/{name}/cluster"),
        ("flow", f"/aws/vpc/{name}/flow"),
    ):
        if group in seen.log_groups:
            yield f"aws_cloudwatch_log_group.{resource}", group


def _pool(group: Json) -> Json:
    """A node group in the words of a spec."""
    labels = dict(group.get("labels") or {})
    said = labels.pop("foundry.bud/pool", group["nodegroupName"])
    size = group["scalingConfig"]
    pool: Json = {
        "name": str(said).lower().replace("_", "-"),
        "instanceType": (group.get("instanceTypes") or [""])[0],
        "spot": group.get("capacityType") == "SPOT",
        "labels": labels,
        "taints": [
            {
                "key": t["key"],
                "value": t.get("value", ""),
                "effect": _EFFECTS[t["effect"]],
            }
            for t in group.get("taints") or ()
        ],
    }
    if size["minSize"] == size["maxSize"]:
        pool["count"] = size["maxSize"]
    else:
        pool |= {"min": size["minSize"], "max": size["maxSize"]}
    return {name: value for name, value in pool.items() if value or name == "min"}


def _taken(group: Json, pool: str, cluster: str) -> dict[str, str]:
    size = group["scalingConfig"]
    kind = "fixed" if size["minSize"] == size["maxSize"] else "scaled"
    template = (group.get("launchTemplate") or {}).get("id", "")
    return {
        f'aws_eks_node_group.{kind}["{pool}"]': f"{cluster}:{group['nodegroupName']}",
        f'aws_launch_template.node["{pool}"]': template,
        "aws_iam_role.node": _last(group["nodeRole"]),
    }


def _obstacles(
    group: Json,
    pool: Json,
    taken: dict[str, str],
    adopt: dict[str, str],
    catalog: Catalog,
) -> Iterator[str]:
    """What of a node group our module cannot say; EKS would make it anew."""
    types, template = group.get("instanceTypes") or (), taken[_template(pool["name"])]
    known = catalog.instances.get(pool.get("instanceType", ""))
    if len(types) != 1 or known is None:
        yield f"its instance types are {', '.join(types) or 'those of its template'}"
        return
    if group["scalingConfig"]["maxSize"] == 0:
        yield "it has no machines, and may have none"
    if not template:
        yield "it has no launch template, and EKS gives it none later"
    if template in adopt.values():
        yield "it shares its launch template with another"
    role = taken["aws_iam_role.node"]
    if adopt.get("aws_iam_role.node", role) != role:
        yield "its nodes have another role than those of the first"
    wanted = f"AL2023_x86_64_{'NVIDIA' if known.gpu else 'STANDARD'}"
    if group.get("amiType") != wanted:
        yield f"its image is {group.get('amiType')}, and ours {wanted}"


def _template(pool: str) -> str:
    return f'aws_launch_template.node["{pool}"]'


def _free(seen: Seen, ranges: dict[str, Json]) -> str:
    """A range of the VPC that no subnet has, from its end."""
    whole = IPv4Network(seen.vpc["CidrBlock"])
    used = [IPv4Network(s["CidrBlock"]) for s in seen.subnets]
    used += [IPv4Network(r) for zone in ranges.values() for r in zone.values()]
    bits = min(whole.prefixlen + 8, _SMALLEST)
    for found in reversed([*whole.subnets(new_prefix=bits)]):
        if not any(found.overlaps(other) for other in used):
            return str(found)
    return _ANYWHERE  # which AWS refuses, and the reader sees


def _is_main(table: Json) -> bool:
    return any(held.get("Main") for held in table["Associations"])


def _is_public(table: Json) -> bool:
    return any(str(r.get("GatewayId", "")).startswith("igw-") for r in table["Routes"])


def _last(arn: str) -> str:
    return str(arn).rsplit("/", 1)[-1]
