"""An emulator of AWS, on loopback: ministack, and what our module asks beyond it.

Run as a process of its own by the fixtures. Emulated, and so proof of nothing about
AWS itself: no machine starts, no quota is real. Added to ministack here, after the
public API reference of each service: quotas of Service Quotas, offerings and EFA of
EC2's instance types, and the updates of EKS (version, access, size of a node group).
"""

import json
import os
import re
import time
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

import ministack.app as stack
from ministack.services import ec2, eks

Json = dict[str, Any]
Answer = tuple[int, dict[str, str], bytes]

QUOTA_VCPUS = float(os.environ.get("EMULATOR_QUOTA_VCPUS", "10000"))
NODE_GROUP_S = float(os.environ.get("EMULATOR_NODE_GROUP_S", "0"))
NOT_OFFERED = os.environ.get("EMULATOR_NOT_OFFERED", "")
EFA_CARDS = {"p5.48xlarge": 32, "p4d.24xlarge": 4}


def offerings(params: Json) -> Answer:
    wanted: dict[str, list[str]] = {}
    for i in range(1, 10):
        if name := ec2._p(params, f"Filter.{i}.Name"):
            values = (ec2._p(params, f"Filter.{i}.Value.{j}") for j in range(1, 50))
            wanted[name] = [value for value in values if value]
    items = "".join(
        f"<item><instanceType>{kind}</instanceType>"
        f"<locationType>availability-zone</locationType><location>{zone}</location></item>"
        for kind in wanted["instance-type"]
        if kind != NOT_OFFERED
        for zone in wanted["location"]
    )
    inner = f"<instanceTypeOfferingSet>{items}</instanceTypeOfferingSet>"
    return ec2._xml(200, "DescribeInstanceTypeOfferingsResponse", inner)


def instance_types(params: Json) -> Answer:
    status, headers, body = described(params)
    cards = EFA_CARDS.get(ec2._p(params, "InstanceType.1"), 1)
    efa = (
        "<efaSupported>true</efaSupported><efaInfo><maximumEfaInterfaces>"
        f"{cards}</maximumEfaInterfaces></efaInfo></networkInfo>"
    )
    text = re.sub(r"<efaSupported>\w+</efaSupported>", "", body.decode())
    return status, headers, text.replace("</networkInfo>", efa).encode()


def stored_as_sent(params: Json, prefix: str = "LaunchTemplateData") -> Json:
    """All of a launch template, as a tree of what was sent."""
    tree: Json = {}
    for name, value in params.items():
        head, *path = name.split(".")
        if head != prefix:
            continue
        node = tree
        for part in path[:-1]:
            node = node.setdefault(part, {})
        node[path[-1]] = value[0] if isinstance(value, list) else value
    return tree


def answered_as_sent(tree: Json) -> str:
    text = ""
    for name, value in tree.items():
        tag = name[0].lower() + name[1:]
        if not isinstance(value, dict):
            text += f"<{tag}>{ec2._esc(value)}</{tag}>"
        elif "1" not in value:
            text += f"<{tag}>{answered_as_sent(value)}</{tag}>"
        else:
            # EC2 renames lists on the way back, and one of them for good.
            nested = name == "SecurityGroupId" and "DeviceIndex" in tree
            tag, item = ("groupSet", "groupId") if nested else (f"{tag}Set", "item")
            text += f"<{tag}>" + "".join(
                f"<{item}>{answered_as_sent(v) if isinstance(v, dict) else ec2._esc(v)}</{item}>"
                for v in (value[i] for i in sorted(value, key=int))
            )
            text += f"</{tag}>"
    return text


def flow_logs(params: Json) -> Answer:
    """Keep the role and the interval of a flow log, which ministack forgets."""
    answer = logged(params)
    for name, log in ec2._flow_logs.items():
        if "role" not in log:
            ec2._parse_tag_specs(params, "vpc-flow-log", name)
        log.setdefault("role", ec2._p(params, "DeliverLogsPermissionArn"))
        log.setdefault("interval", ec2._p(params, "MaxAggregationInterval", "600"))
    return answer


def described_flow_logs(params: Json) -> Answer:
    status, headers, body = log_described(params)
    text = body.decode()
    for log in ec2._flow_logs.values():
        mark = f"<flowLogId>{log['FlowLogId']}</flowLogId>"
        more = (
            f"<deliverLogsPermissionArn>{log['role']}</deliverLogsPermissionArn>"
            f"<maxAggregationInterval>{log['interval']}</maxAggregationInterval>"
        )
        text = text.replace(mark, mark + more)
    return status, headers, text.encode()


def gateway(params: Json) -> Answer:
    answer = gateway_made(params)
    held = ec2._p(params, "AllocationId")
    for name in ec2._nat_gateways:
        if f"<natGatewayId>{name}<".encode() in answer[2]:
            addresses[name] = held
    return answer


def gateways(params: Json) -> Answer:
    """Name the address of a NAT gateway, which ministack forgets."""
    status, headers, body = gateways_described(params)
    text = body.decode()
    for name, held in addresses.items():
        head, mark, rest = text.partition(f"<natGatewayId>{name}</natGatewayId>")
        item = f"<item><allocationId>{held}</allocationId><isPrimary>true</isPrimary></item>"
        whole = f"<natGatewayAddressSet>{item}</natGatewayAddressSet>"
        text = head + mark + rest.replace("<natGatewayAddressSet/>", whole, 1)
    return status, headers, text.encode()


def node_group(cluster: str, body: Json) -> Answer:
    """Keep what ministack forgets of a node group, or each plan would replace it."""
    time.sleep(NODE_GROUP_S)  # a cloud takes its time; each request has a thread
    answer = created(cluster, body)
    stored = eks._nodegroups.get(f"{cluster}/{body.get('nodegroupName')}")
    if answer[0] != 200 or stored is None:
        return answer
    for field in ("launchTemplate", "updateConfig"):
        if field in body:
            stored[field] = body[field]
    if "launchTemplate" in body:
        del stored["diskSize"]
    stored["version"] = body.get("version", stored["version"])
    return eks._json_resp(200, {"nodegroup": stored})


def cluster(body: Json, creator: str | None = None) -> Answer:
    """EKS tells the VPC by the subnets; ministack makes one up."""
    for subnet in body["resourcesVpcConfig"]["subnetIds"][:1]:
        body["resourcesVpcConfig"]["vpcId"] = ec2._subnets[subnet]["VpcId"]
    answer: Answer = began(body, creator)
    return answer


def tag(arn: str, body: Json) -> Answer:
    """Let what is described show tags that it got later."""
    held = [*eks._clusters.values(), *eks._nodegroups.values(), *eks._addons.values()]
    for item in held:
        if arn in (item.get("arn"), item.get("nodegroupArn"), item.get("addonArn")):
            item["tags"] = item["tags"] | body["tags"]
    answer: Answer = tagged(arn, body)
    return answer


def updated(kind: str) -> Answer:
    update = {"id": str(uuid.uuid4()), "status": "Successful", "type": kind}
    return eks._json_resp(200, {"update": {**update, "params": [], "errors": []}})


def eks_request(
    method: str, path: str, headers: Json, body: bytes, query: Json
) -> Answer:
    data: Json = json.loads(body) if body and method == "POST" else {}
    found = re.fullmatch(
        r"/clusters/([\w-]+)(?:/node-groups/([\w-]+))?/(updates?|update-config|update-version)"
        r"(?:/([\w-]+))?",
        path,
    )
    if found is None:
        return routed(method, path, headers, body, query)
    cluster, group, what = found[1], found[2], found[3]
    if method == "GET":
        return updated("VersionUpdate")
    stored = eks._nodegroups[f"{cluster}/{group}"] if group else eks._clusters[cluster]
    if what == "update-config" and group:
        stored["scalingConfig"] |= data.get("scalingConfig", {})
        stored["updateConfig"] = data.get(
            "updateConfig", stored.get("updateConfig", {})
        )
        labels = data.get("labels") or {}
        for name in labels.get("removeLabels", []):
            stored["labels"].pop(name, None)
        stored["labels"] |= labels.get("addOrUpdateLabels", {})
    elif what == "update-config":
        stored["resourcesVpcConfig"] |= data.get("resourcesVpcConfig", {})
        if "logging" in data:
            stored["logging"] = data["logging"]
    elif "version" in data or "launchTemplate" in data:
        now, new = stored["version"], data.get("version", stored["version"])
        if int(new.split(".")[1]) - int(now.split(".")[1]) not in {0, 1}:
            text = f"Unsupported Kubernetes minor version update from {now} to {new}"
            return eks._error(400, "InvalidParameterException", text)
        stored["version"] = new
        if "launchTemplate" in data:
            stored["launchTemplate"] = data["launchTemplate"]
    return updated("VersionUpdate" if what == "updates" else "ConfigUpdate")


def quota(body: bytes) -> bytes:
    asked = json.loads(body)
    return json.dumps(
        {
            "Quota": {
                "QuotaCode": asked["QuotaCode"],
                "ServiceCode": asked["ServiceCode"],
                "ServiceName": "Amazon Elastic Compute Cloud (Amazon EC2)",
                "QuotaName": "Running instances",
                "QuotaArn": f"arn:aws:servicequotas:::ec2/{asked['QuotaCode']}",
                "Value": QUOTA_VCPUS,
                "Adjustable": True,
                "GlobalQuota": False,
                "Unit": "None",
            }
        }
    ).encode()


Send = Callable[[Json], Awaitable[None]]
Receive = Callable[[], Awaitable[Json]]


async def app(scope: Json, receive: Receive, send: Send) -> None:
    headers = {k.decode().lower(): v.decode() for k, v in scope.get("headers", [])}
    if not headers.get("x-amz-target", "").startswith("ServiceQuotas"):
        await inner(scope, receive, send)
        return
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message.get("body", b""), message.get("more_body", False)
    kind = [(b"content-type", b"application/x-amz-json-1.1")]
    await send({"type": "http.response.start", "status": 200, "headers": kind})
    await send({"type": "http.response.body", "body": quota(body)})


logged = ec2._create_flow_logs
log_described = ec2._describe_flow_logs
described = ec2._describe_instance_types
gateway_made = ec2._create_nat_gateway
gateways_described = ec2._describe_nat_gateways
addresses: dict[str, str] = {}
tagged = eks._tag_resource
began = eks._create_cluster
created = eks._create_nodegroup
routed = eks._handle_request_sync
inner = stack.app

if __name__ == "__main__":
    ec2._ACTION_MAP["DescribeInstanceTypeOfferings"] = offerings
    ec2._ACTION_MAP["DescribeInstanceTypes"] = instance_types
    ec2._ACTION_MAP["CreateNatGateway"] = gateway
    ec2._ACTION_MAP["DescribeNatGateways"] = gateways
    ec2._ACTION_MAP["CreateFlowLogs"] = flow_logs
    ec2._ACTION_MAP["DescribeFlowLogs"] = described_flow_logs
    ec2._parse_lt_data = stored_as_sent
    ec2._lt_data_xml = answered_as_sent
    # An issuer is always https at AWS, and the provider checks that.
    eks._issuer_url = "https://oidc.eks.example/id/{}".format
    eks._create_cluster = cluster
    eks._tag_resource = tag
    eks._create_nodegroup = node_group
    eks._handle_request_sync = eks_request
    stack.app = app
    stack.main()
