"""AWS, as whoever holds a cluster's credentials (I/O).

Tokens are signed by these clients, and `bud cluster adopt` reads with them what is
there. They are made of the variables that Terraform's provider reads, so that both are
the same identity. Nothing here ever writes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import botocore.session
from botocore import UNSIGNED
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from reconciler.adoption import Seen
from schemas.errors import PermanentError

__all__ = ["clients", "look_at"]

Client = Callable[[str], Any]


def clients(held: Mapping[str, str], region: str, endpoint: str = "") -> Client:
    """Service -> its client, for a key pair, a web identity, a profile or this machine.

    Blocking: a role may have to be assumed. ``endpoint`` is AWS where it is not AWS'
    own.
    """
    session = botocore.session.Session()
    for name, variable in (
        ("profile", "AWS_PROFILE"),
        ("config_file", "AWS_CONFIG_FILE"),
        ("credentials_file", "AWS_SHARED_CREDENTIALS_FILE"),
    ):
        if variable in held:
            session.set_config_variable(name, held[variable])
    make = partial(
        session.create_client, region_name=region, endpoint_url=endpoint or None
    )
    if "AWS_SECRET_ACCESS_KEY" in held:
        return partial(
            make,
            aws_access_key_id=held["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=held["AWS_SECRET_ACCESS_KEY"],
            aws_session_token=held.get("AWS_SESSION_TOKEN"),
        )
    if "AWS_WEB_IDENTITY_TOKEN_FILE" in held:
        file = Path(held["AWS_WEB_IDENTITY_TOKEN_FILE"])
        sts = make("sts", config=Config(signature_version=UNSIGNED))
        given = sts.assume_role_with_web_identity(
            RoleArn=held["AWS_ROLE_ARN"],
            RoleSessionName=held.get("AWS_ROLE_SESSION_NAME", "bud"),
            WebIdentityToken=file.read_text(encoding="utf-8"),
        )["Credentials"]
        return partial(
            make,
            aws_access_key_id=given["AccessKeyId"],
            aws_secret_access_key=given["SecretAccessKey"],
            aws_session_token=given["SessionToken"],
        )
    return make


def look_at(cluster: str, client: Client) -> Seen:
    """Read one EKS cluster and what lies around it. Blocking.

    Raises:
        PermanentError: there is no such cluster, or AWS does not let us read it.
    """
    try:
        return _look_at(cluster, client)
    except (BotoCoreError, ClientError) as error:
        raise PermanentError(
            f"cannot look at EKS cluster {cluster!r}: {error}",
            hint="reading needs eks:Describe*, eks:List*, ec2:Describe*, "
            "iam:ListOpenIDConnectProviders, logs:DescribeLogGroups",
        ) from error


def _look_at(name: str, client: Client) -> Seen:
    eks, ec2 = client("eks"), client("ec2")
    iam, logs = client("iam"), client("logs")
    cluster = eks.describe_cluster(name=name)["cluster"]
    vpc = cluster["resourcesVpcConfig"]["vpcId"]

    def of_vpc(verb: str, kind: str, by: str = "vpc-id") -> list[Any]:
        pages = ec2.get_paginator(verb).paginate(
            Filters=[{"Name": by, "Values": [vpc]}]
        )
        return [item for page in pages for item in page[kind]]

    groups = eks.get_paginator("list_nodegroups").paginate(clusterName=name)
    issuers = iam.list_open_id_connect_providers()["OpenIDConnectProviderList"]
    return Seen(
        cluster=cluster,
        groups=[
            eks.describe_nodegroup(clusterName=name, nodegroupName=group)["nodegroup"]
            for page in groups
            for group in page["nodegroups"]
        ],
        vpc=of_vpc("describe_vpcs", "Vpcs")[0],
        subnets=of_vpc("describe_subnets", "Subnets"),
        tables=of_vpc("describe_route_tables", "RouteTables"),
        gateways=of_vpc(
            "describe_internet_gateways", "InternetGateways", "attachment.vpc-id"
        ),
        nats=[
            nat
            for nat in of_vpc("describe_nat_gateways", "NatGateways")
            if nat["State"] == "available"
        ],
        endpoints=of_vpc("describe_vpc_endpoints", "VpcEndpoints"),
        issuers=[issuer["Arn"] for issuer in issuers],
        addons=eks.list_addons(clusterName=name)["addons"],
        log_groups=[
            group["logGroupName"]
            for prefix in (f"/aws/eks/{name}/", f"/aws/vpc/{name}/")
            for group in logs.describe_log_groups(logGroupNamePrefix=prefix)[
                "logGroups"
            ]
        ],
    )
