from pathlib import Path

import yaml

from reconciler.connect import Tools, connect
from reconciler.targets.helm import Charts
from reconciler.targets.helm.command import HelmCommand
from reconciler.targets.kubernetes.credentials import Credentials
from reconciler.targets.kubernetes.helm import Renderer
from reconciler.targets.kubernetes.sandbox import find_helm
from reconciler.targets.kubernetes.target import KubernetesTarget
from reconciler.values import Key, Presence
from schemas.errors import PermanentError
from schemas.objects import Credential, Ref
from tests.reconciler.targets.kubernetes.plane import Plane
from tests.renderers.kubernetes_cases import cluster

REF = Ref("Endpoint", "default", "a")


def connected(read: Credentials, folder: Path) -> KubernetesTarget:
    helm = HelmCommand(binary=find_helm())
    tools = Tools(
        renderer=Renderer(find_helm()),
        helm=helm,
        charts=Charts(helm, folder=folder, checkout=folder),
    )
    return connect(cluster(), owner="c", tools=tools, credentials=read).objects


async def test_a_cluster_is_reached_by_the_kubeconfig_that_it_names(
    control_plane: Plane, tmp_path: Path
) -> None:
    async def read(credential: Credential) -> str:
        assert credential.env == "KUBECONFIG_PROD"
        return yaml.safe_dump(control_plane.kubeconfig())

    target = connected(read, tmp_path)
    key = Key(target.name, REF)
    assert (await target.observe([key]))[key].presence is Presence.ABSENT
    await target.close()


async def test_a_kubeconfig_that_nobody_can_read_makes_a_cluster_unknown(
    control_plane: Plane, tmp_path: Path
) -> None:
    async def read(credential: Credential) -> str:
        raise PermanentError("cannot read a credential: KUBECONFIG_PROD is not set")

    target = connected(read, tmp_path)
    key = Key(target.name, REF)
    live = (await target.observe([key]))[key]
    assert live.presence is Presence.UNKNOWN
    assert "KUBECONFIG_PROD is not set" in live.detail
    await target.close()


async def test_a_cluster_that_does_not_answer_is_unknown(
    control_plane: Plane, tmp_path: Path
) -> None:
    async def read(credential: Credential) -> str:
        return yaml.safe_dump(control_plane.kubeconfig("http://127.0.0.1:1"))

    target = connected(read, tmp_path)
    key = Key(target.name, REF)
    assert (await target.observe([key]))[key].presence is Presence.UNKNOWN
    await target.close()
