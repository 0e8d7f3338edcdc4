"""Tokens for clusters in a cloud, good for minutes (I/O).

The terraform target asks for one whenever a cluster is spoken to. EKS takes a signed
URL that asks AWS "who am I": whoever holds the credentials signs one here, without
asking anybody. AKS has no local accounts: Entra gives a token for our identity.
Nothing here is ever stored.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path

import aiohttp

from renderers.terraform import name_in_cloud
from schemas.cluster import Cluster
from schemas.errors import PermanentError, TemporaryError
from schemas.objects import Ref

__all__ = ["Tokens", "aks_token"]

_TOKEN_S = 600.0
"""How long one is used. EKS takes a token for 15 minutes from when it was signed,
and Entra's last an hour: both with a margin for clocks that differ."""
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
    # botocore takes 0.2 s to import, and no other verb needs it.
    from reconciler.targets.terraform.eks import eks_token  # noqa: PLC0415

    assert cluster.spec.region is not None, "the schema asks for it in a cloud"
    endpoint = around.get("AWS_ENDPOINT_URL", "")
    name, region = name_in_cloud(cluster), cluster.spec.region
    return await asyncio.to_thread(eks_token, name, region, held, endpoint)


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
