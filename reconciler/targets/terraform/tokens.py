"""Tokens for clusters in a cloud, good for minutes (I/O).

The terraform target asks for one whenever a cluster is spoken to. EKS takes a signed
URL that asks AWS "who am I": whoever holds the credentials signs one here, without
asking anybody. AKS has no local accounts: Entra gives a token for our identity.
Nothing here is ever stored.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import botocore.session
from botocore import UNSIGNED
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from renderers.terraform import name_in_cloud
from schemas.cluster import Cluster
from schemas.errors import PermanentError, TemporaryError
from schemas.objects import Ref

__all__ = ["Tokens", "aks_token", "eks_token"]

_TOKEN_S = 600.0
"""How long one is used. EKS takes a token for 15 minutes from when it was signed,
and Entra's last an hour: both with a margin for clocks that differ."""
_EXPIRES_S = 60
"""Of the URL itself, as aws-iam-authenticator signs it."""
_AUTHORITY = "https://login.microsoftonline.com"
# The application that every AKS cluster trusts: "Azure Kubernetes Service AAD Server".
_AKS = "6dae42f8-4368-4678-94ff-3960e28e3630"
# Where a virtual machine of Azure asks for a token of its own identity.
_METADATA = "http://169.254.169.254/metadata/identity/oauth2/token"
_TIMEOUT_S = 30.0


class Tokens:
    """Of each cluster the one in use."""

    def __init__(self) -> None:
        self._made: dict[Ref, tuple[str, float]] = {}

    async def get(
        self, cluster: Cluster, held: Mapping[str, str], around: Mapping[str, str]
    ) -> str:
        """A token for ``cluster`` by the credentials ``held``.

        ``around`` is the environment: where STS or Entra is another than the cloud's.

        Raises:
            PermanentError, TemporaryError: there is none to be had.
        """
        now = asyncio.get_running_loop().time()
        token, until = self._made.get(cluster.ref, ("", 0.0))
        if now >= until:
            token = await _new(cluster, held, around)
            self._made[cluster.ref] = token, now + _TOKEN_S
        return token


async def _new(
    cluster: Cluster, held: Mapping[str, str], around: Mapping[str, str]
) -> str:
    if cluster.spec.provider == "azure-aks":
        return await aks_token(held, around.get("AZURE_AUTHORITY_HOST", _AUTHORITY))
    assert cluster.spec.region is not None, "the schema asks for it in a cloud"
    endpoint = around.get("AWS_ENDPOINT_URL", "")
    name, region = name_in_cloud(cluster), cluster.spec.region
    return await asyncio.to_thread(eks_token, name, region, held, endpoint)


def eks_token(
    cluster: str, region: str, credentials: Mapping[str, str], endpoint: str = ""
) -> str:
    """Sign a token for ``cluster``. Blocking: a role may have to be assumed.

    ``credentials`` are the variables that the AWS provider reads; without any, this
    machine's own identity signs. ``endpoint`` is STS where it is not AWS' own.

    Raises:
        PermanentError: there are no credentials, or AWS refuses them.
    """
    try:
        client = _sts(credentials, region, endpoint)
        # EKS takes no token that is not signed for one cluster.
        client.meta.events.register(
            "before-sign.sts.GetCallerIdentity",
            lambda request, **_: request.headers.add_header("x-k8s-aws-id", cluster),
        )
        url = client.generate_presigned_url(
            "get_caller_identity", ExpiresIn=_EXPIRES_S, HttpMethod="GET"
        )
    except (BotoCoreError, ClientError) as error:
        raise PermanentError(
            f"cannot sign a token for {cluster}: {error}",
            hint="renew what the cluster's spec.credentials refers to",
        ) from error
    signed = base64.urlsafe_b64encode(url.encode()).decode().rstrip("=")
    return f"k8s-aws-v1.{signed}"


def _sts(held: Mapping[str, str], region: str, endpoint: str) -> Any:
    """STS for whoever signs: a key pair, a web identity, a profile, this machine."""
    session = botocore.session.Session()
    for name, variable in (
        ("profile", "AWS_PROFILE"),
        ("config_file", "AWS_CONFIG_FILE"),
        ("credentials_file", "AWS_SHARED_CREDENTIALS_FILE"),
    ):
        if variable in held:
            session.set_config_variable(name, held[variable])
    sts = partial(
        session.create_client, "sts", region_name=region, endpoint_url=endpoint or None
    )
    if "AWS_SECRET_ACCESS_KEY" in held:
        return sts(
            aws_access_key_id=held["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=held["AWS_SECRET_ACCESS_KEY"],
            aws_session_token=held.get("AWS_SESSION_TOKEN"),
        )
    if "AWS_WEB_IDENTITY_TOKEN_FILE" in held:
        file = Path(held["AWS_WEB_IDENTITY_TOKEN_FILE"])
        given = sts(
            config=Config(signature_version=UNSIGNED)
        ).assume_role_with_web_identity(
            RoleArn=held["AWS_ROLE_ARN"],
            RoleSessionName=held.get("AWS_ROLE_SESSION_NAME", "bud"),
            WebIdentityToken=file.read_text(encoding="utf-8"),
        )["Credentials"]
        return sts(
            aws_access_key_id=given["AccessKeyId"],
            aws_secret_access_key=given["SecretAccessKey"],
            aws_session_token=given["SessionToken"],
        )
    return sts()


async def aks_token(credentials: Mapping[str, str], authority: str = _AUTHORITY) -> str:
    """Ask Entra for a token of the identity that ``credentials`` name.

    Raises:
        PermanentError: Entra refuses it, or it is named by a certificate.
        TemporaryError: Entra does not answer.
    """
    url, query, form = _METADATA, {"api-version": "2018-02-01", "resource": _AKS}, None
    if credentials.get("ARM_USE_MSI", "").lower() != "true":
        url = f"{authority}/{credentials.get('ARM_TENANT_ID', '')}/oauth2/v2.0/token"
        query, form = {}, _form(credentials)
    try:
        async with (
            aiohttp.ClientSession(
                timeout=aiohttp.ClientTimeout(total=_TIMEOUT_S)
            ) as session,
            session.request(
                "POST" if form else "GET",
                url,
                params=query,
                data=form,
                headers={"Metadata": "true"} if form is None else {},
            ) as response,
        ):
            answer = await response.json(content_type=None)
    except (aiohttp.ClientError, TimeoutError, ValueError) as error:
        raise TemporaryError(f"cannot ask Entra for a token: {error}") from error
    if "access_token" not in answer:
        # Its error code, which names no secret; the description can quote the request.
        raise PermanentError(
            f"cannot get a token from Entra: {answer.get('error', 'no reason')}",
            hint="renew what the cluster's spec.credentials refers to",
        )
    return str(answer["access_token"])


def _form(held: Mapping[str, str]) -> dict[str, str]:
    form = {
        "grant_type": "client_credentials",
        "client_id": held.get("ARM_CLIENT_ID", ""),
        "scope": f"{_AKS}/.default",
    }
    if "ARM_CLIENT_SECRET" in held:
        return form | {"client_secret": held["ARM_CLIENT_SECRET"]}
    if "ARM_OIDC_TOKEN_FILE_PATH" in held:
        token = Path(held["ARM_OIDC_TOKEN_FILE_PATH"]).read_text(encoding="utf-8")
        kind = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
        return form | {"client_assertion_type": kind, "client_assertion": token.strip()}
    raise PermanentError(
        "cannot get a token from Entra: the credentials hold no secret and no token file",
        hint="use ARM_CLIENT_SECRET, ARM_OIDC_TOKEN_FILE_PATH or ARM_USE_MSI",
    )
