import yaml

from reconciler.targets.kubernetes.connect import connect
from reconciler.targets.kubernetes.helm import Renderer
from reconciler.targets.kubernetes.sandbox import find_helm
from reconciler.values import Key, Presence
from schemas.errors import PermanentError
from schemas.objects import Credential, Ref
from tests.reconciler.targets.kubernetes.plane import Plane
from tests.renderers.kubernetes_cases import cluster

REF = Ref("Endpoint", "default", "a")


async def test_a_cluster_is_reached_by_the_kubeconfig_that_it_names(
    control_plane: Plane,
) -> None:
    async def read(credential: Credential) -> str:
        assert credential.env == "KUBECONFIG_PROD"
        return yaml.safe_dump(control_plane.kubeconfig())

    target = connect(
        cluster(), owner="c", renderer=Renderer(find_helm()), credentials=read
    )
    key = Key(target.name, REF)
    assert (await target.observe([key]))[key].presence is Presence.ABSENT
    await target.close()


async def test_a_kubeconfig_that_nobody_can_read_makes_a_cluster_unknown(
    control_plane: Plane,
) -> None:
    async def read(credential: Credential) -> str:
        raise PermanentError("cannot read a credential: KUBECONFIG_PROD is not set")

    target = connect(
        cluster(), owner="c", renderer=Renderer(find_helm()), credentials=read
    )
    key = Key(target.name, REF)
    live = (await target.observe([key]))[key]
    assert live.presence is Presence.UNKNOWN
    assert "KUBECONFIG_PROD is not set" in live.detail
    await target.close()


async def test_a_cluster_that_does_not_answer_is_unknown(control_plane: Plane) -> None:
    async def read(credential: Credential) -> str:
        return yaml.safe_dump(control_plane.kubeconfig("http://127.0.0.1:1"))

    target = connect(
        cluster(), owner="c", renderer=Renderer(find_helm()), credentials=read
    )
    key = Key(target.name, REF)
    assert (await target.observe([key]))[key].presence is Presence.UNKNOWN
    await target.close()
