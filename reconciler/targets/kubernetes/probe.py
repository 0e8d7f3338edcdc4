"""Does it answer: one real request to what serves. (I/O: a request through the API server)

The target asks after everything is rolled. The request goes to the Service through
the API server's proxy, so that a daemon outside the cluster can ask too; a network
policy that shuts out the control plane shuts this out as well (docs/kubernetes.md).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from reconciler.targets.kubernetes.client import Client
from reconciler.targets.kubernetes.manifests import ObjectId
from reconciler.targets.kubernetes.transport import ApiRefusal
from schemas.errors import FoundryError, TemporaryError

__all__ = ["Probe", "serves_model"]

Probe = Callable[[ObjectId, str], Awaitable[None]]
"""Ask the Service for the model; raise TemporaryError when it does not answer."""


def serves_model(client: Client) -> Probe:
    """Ask ``GET /v1/models`` of a Service, and look for the model in the answer."""

    async def probe(service: ObjectId, model: str) -> None:
        path = (
            f"/api/v1/namespaces/{service.namespace}/services/"
            f"http:{service.name}:http/proxy/v1/models"
        )
        try:
            answer = await client.request("GET", path)
            served = [item["id"] for item in answer["data"]]
        except (FoundryError, KeyError, TypeError) as error:
            said = error.body if isinstance(error, ApiRefusal) else error
            raise TemporaryError(f"cannot reach {service}: {said}") from error
        if model not in served:
            raise TemporaryError(
                f"cannot find model {model} at {service}: it serves "
                f"{', '.join(served) or 'none'}"
            )

    return probe
