"""A declared Cluster -> a target. (I/O: reads the kubeconfig when first asked)

Whoever opens a foundry calls it once for each cluster that somebody else runs. The
kubeconfig is a credential: it is read where the Cluster says, decrypted in memory,
and never written anywhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from reconciler.render import cluster_target
from reconciler.targets.kubernetes.client import Access, Client
from reconciler.targets.kubernetes.credentials import Credentials
from reconciler.targets.kubernetes.helm import Renderer
from reconciler.targets.kubernetes.target import KubernetesTarget
from schemas.cluster import Cluster
from schemas.errors import PermanentError

__all__ = ["connect"]


def connect(
    cluster: Cluster,
    *,
    owner: str,
    renderer: Renderer,
    credentials: Credentials,
    access: Access | None = None,
) -> KubernetesTarget:
    """Make the target of ``cluster``; nothing is read or asked before its first use.

    ``owner`` is the environment: two of them on one cluster never see each other's
    objects. A kubeconfig that cannot be read makes the cluster unknown, not empty.
    ``access`` is how to reach a cluster that we made ourselves.
    """

    async def kubeconfig() -> Mapping[str, Any]:
        if cluster.spec.credentials is None:
            raise PermanentError(
                f"cannot reach {cluster.ref}: it has no credentials",
                hint="name its kubeconfig under spec.credentials",
            )
        read = yaml.safe_load(await credentials(cluster.spec.credentials))
        if not isinstance(read, Mapping):
            raise PermanentError(f"cannot reach {cluster.ref}: no kubeconfig was read")
        return read

    return KubernetesTarget(
        cluster_target(cluster),
        Client(kubeconfig)
        if access is None
        else Client(access.kubeconfig, token=access.token),
        renderer,
        owner=owner,
        credentials=credentials,
    )
