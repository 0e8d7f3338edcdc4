"""A declared Cluster -> its targets. (I/O: reads the kubeconfig when first asked)

``Clusters`` calls it once for each cluster. The kubeconfig is a credential: it is read
where the Cluster says, decrypted in memory, and never written anywhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from reconciler.render import addon_target, cluster_target
from reconciler.targets.helm import Charts, HelmTarget
from reconciler.targets.helm.command import HelmCommand
from reconciler.targets.kubernetes.client import Access, Client
from reconciler.targets.kubernetes.credentials import Credentials
from reconciler.targets.kubernetes.helm import Renderer
from reconciler.targets.kubernetes.target import KubernetesTarget
from reconciler.targets.kubernetes.transport import MayWrite
from schemas.cluster import Cluster
from schemas.errors import PermanentError
from schemas.objects import Credential

__all__ = ["Connected", "Tools", "connect"]

_PROGRAMS = frozenset(("exec", "auth-provider", "tokenFile"))
"""What makes a client run, or read, something of this machine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tools:
    """What every cluster of an environment shares."""

    renderer: Renderer
    helm: HelmCommand
    charts: Charts


@dataclass(frozen=True, slots=True, kw_only=True)
class Connected:
    """Two targets on one connection: what we apply, and what Helm installs for us."""

    objects: KubernetesTarget
    addons: HelmTarget

    async def close(self) -> None:
        await self.objects.close()


def connect(
    cluster: Cluster,
    *,
    owner: str,
    tools: Tools,
    credentials: Credentials,
    access: Access | None = None,
    may_write: MayWrite = lambda: None,
) -> Connected:
    """Make the targets of ``cluster``; nothing is read or asked before their first use.

    ``owner`` is the environment: two of them on one cluster never see each other's
    objects. A kubeconfig that cannot be read makes the cluster unknown, not empty.
    Where the Cluster names an observer, everything is read with it, and the other
    kubeconfig is not opened before something is written or dry-run.
    ``access`` is how to reach a cluster that we made ourselves; ``may_write`` is asked
    before each write.
    """

    async def declared(where: Credential | None) -> Mapping[str, Any]:
        if where is None:
            raise PermanentError(
                f"cannot reach {cluster.ref}: it has no credentials",
                hint="name its kubeconfig under spec.credentials",
            )
        read = yaml.safe_load(await credentials(where))
        if not isinstance(read, Mapping):
            raise PermanentError(f"cannot reach {cluster.ref}: no kubeconfig was read")
        if _of_the_repository(where):
            _refuse_programs(cluster, read)
        return read

    access = access or Access(kubeconfig=partial(declared, cluster.spec.credentials))
    client = Client(access.kubeconfig, token=access.token, may_write=may_write)
    looking = client
    if cluster.spec.observer is not None:
        looking = Client(partial(declared, cluster.spec.observer))
    return Connected(
        objects=KubernetesTarget(
            cluster_target(cluster),
            client,
            tools.renderer,
            looking=looking,
            owner=owner,
            credentials=credentials,
        ),
        addons=HelmTarget(
            addon_target(cluster),
            client,
            tools.helm,
            tools.charts,
            looking=looking,
            access=access,
            owner=owner,
        ),
    )


def _of_the_repository(where: Credential) -> bool:
    """Whether whoever writes to the repository can write this credential too."""
    relative = where.file is not None and not Path(where.file).is_absolute()
    return where.secret is not None or relative


def _refuse_programs(cluster: Cluster, config: Mapping[str, Any]) -> None:
    """Planning a branch runs nothing of it (Flux's CVE-2022-24817)."""
    for item in config.get("users") or ():
        for name in _PROGRAMS & (item.get("user") or {}).keys():
            raise PermanentError(
                f"cannot use the kubeconfig of {cluster.ref}: it comes from the "
                f"repository and has {name}",
                hint="keep it outside of git: in an environment variable, or in a file "
                "named by its whole path",
            )
