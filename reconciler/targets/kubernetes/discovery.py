"""Kinds -> paths, asked of the API server. (I/O: reads discovery documents)

The target calls ``Discovery.path``. What the server said is kept; what it did not
know is asked again, because a CRD may have come since.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from dataclasses import dataclass, replace
from http import HTTPStatus

from reconciler.targets.kubernetes.client import Client
from reconciler.targets.kubernetes.manifests import ObjectId
from reconciler.targets.kubernetes.transport import ApiRefusal
from schemas.errors import TemporaryError

__all__ = ["Discovery", "NoSuchKind"]

# Which of our add-ons brings the kinds of a group.
_BROUGHT_BY = {
    "external-secrets.io": "external-secrets",
    "keda.sh": "keda",
    "leaderworkerset.x-k8s.io": "lws",
    "monitoring.coreos.com": "kube-prometheus-stack",
    "gateway.networking.k8s.io": "a Gateway API implementation",
}


class NoSuchKind(TemporaryError):
    """The cluster does not know a kind; an add-on may bring it."""


@dataclass(frozen=True, slots=True)
class _Resource:
    prefix: str
    plural: str
    namespaced: bool


class Discovery:
    def __init__(self, client: Client) -> None:
        self._client = client
        self._known: dict[tuple[str, str], _Resource] = {}
        self._asking: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def path(self, which: ObjectId) -> str:
        """Say where one object is.

        Raises:
            NoSuchKind: the cluster has none of it.
        """
        found = await self._resource(which.api_version, which.kind)
        scope = f"/namespaces/{which.namespace}" if found.namespaced else ""
        return f"{found.prefix}{scope}/{found.plural}/{which.name}"

    async def placed(self, which: ObjectId, namespace: str) -> ObjectId:
        """Put an object that says no namespace into ``namespace``, if its kind has any.

        Raises:
            NoSuchKind: the cluster has none of it.
        """
        found = await self._resource(which.api_version, which.kind)
        inside = which.namespace or namespace
        return replace(which, namespace=inside if found.namespaced else "")

    async def collection(self, api_version: str, kind: str) -> str:
        """Say where all objects of a kind are, over every namespace.

        Raises:
            NoSuchKind: the cluster has none of it.
        """
        found = await self._resource(api_version, kind)
        return f"{found.prefix}/{found.plural}"

    async def _resource(self, api_version: str, kind: str) -> _Resource:
        if (api_version, kind) not in self._known:
            # A look asks for ten kinds at once, most of them of one group.
            async with self._asking[api_version]:
                if (api_version, kind) not in self._known:
                    await self._ask(api_version)
        if (found := self._known.get((api_version, kind))) is None:
            group = api_version.partition("/")[0]
            addon = _BROUGHT_BY.get(group)
            raise NoSuchKind(
                f"cannot find kind {kind} of {api_version}: the cluster has none",
                hint=f"add the addon that brings it: {addon}" if addon else "",
            )
        return found

    async def _ask(self, api_version: str) -> None:
        prefix = f"/apis/{api_version}" if "/" in api_version else f"/api/{api_version}"
        try:
            listed = await self._client.request("GET", prefix)
        except ApiRefusal as refusal:
            if refusal.status == HTTPStatus.NOT_FOUND:
                return
            raise
        for resource in listed["resources"]:
            if "/" not in resource["name"]:  # a subresource
                self._known[api_version, resource["kind"]] = _Resource(
                    prefix, resource["name"], resource["namespaced"]
                )
