"""Tokens for clusters in a cloud, good for minutes (I/O).

The terraform target asks for one whenever a cluster is spoken to. EKS takes a signed
URL that asks AWS "who am I": whoever holds the credentials signs one here, without
asking anybody. AKS has no local accounts: Entra gives a token for our identity.
Nothing here is ever stored.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from reconciler.entra import AUTHORITY, entra_token
from renderers.terraform import name_in_cloud
from schemas.cluster import Cluster
from schemas.objects import Ref

__all__ = ["AKS", "Tokens"]

_TOKEN_S = 600.0
"""How long one is used. EKS takes a token for 15 minutes from when it was signed,
and Entra's last an hour: both with a margin for clocks that differ."""
# The application that every AKS cluster trusts: "Azure Kubernetes Service AAD Server".
AKS = "6dae42f8-4368-4678-94ff-3960e28e3630"


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
        authority = around.get("AZURE_AUTHORITY_HOST", AUTHORITY)
        return await entra_token(held, AKS, authority)
    # botocore takes 0.2 s to import, and no other verb needs it.
    from reconciler.targets.terraform.eks import eks_token  # noqa: PLC0415

    assert cluster.spec.region is not None, "the schema asks for it in a cloud"
    endpoint = around.get("AWS_ENDPOINT_URL", "")
    name, region = name_in_cloud(cluster), cluster.spec.region
    return await asyncio.to_thread(eks_token, name, region, held, endpoint)
