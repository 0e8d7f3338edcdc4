"""Planning against a real API server, by whoever may only read there."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from reconciler.connect import Tools, connect
from reconciler.targets.helm import Charts
from reconciler.targets.helm.command import HelmCommand
from reconciler.targets.kubernetes.client import Client
from reconciler.targets.kubernetes.helm import Renderer
from reconciler.targets.kubernetes.sandbox import find_helm
from reconciler.targets.kubernetes.target import KubernetesTarget
from reconciler.values import Action, Change, Key, Presence
from schemas.errors import PermanentError
from schemas.objects import Credential, Ref
from tests.reconciler.targets.kubernetes.foundry import TARGET, World, credentials
from tests.reconciler.targets.kubernetes.plane import Plane
from tests.renderers.kubernetes_cases import cluster

ROOT = Path(__file__).resolve().parents[4]


def observer(plane: Plane, name: str) -> dict[str, Any]:
    """A kubeconfig with the role that the documentation gives, and no other."""
    text = (ROOT / "docs/pull-requests.md").read_text()
    role = next(
        found
        for block in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
        if (found := yaml.safe_load(block)).get("kind") == "ClusterRole"
    )
    role["metadata"]["name"] = name
    plane.call("POST", "/apis/rbac.authorization.k8s.io/v1/clusterroles", role)
    accounts = "/api/v1/namespaces/default/serviceaccounts"
    plane.call("POST", accounts, {"metadata": {"name": name}})
    binding = {
        "metadata": {"name": name},
        "roleRef": {"kind": "ClusterRole", "name": name,
                    "apiGroup": "rbac.authorization.k8s.io"},
        "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": "default"}],
    }  # fmt: skip
    plane.call(
        "POST", "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", binding
    )
    asked = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest"}
    token = plane.call("POST", f"{accounts}/{name}/token", asked)["status"]["token"]
    config = plane.kubeconfig()
    config["users"][0]["user"] = {"token": token}
    return config


async def locked() -> Mapping[str, Any]:
    raise PermanentError("cannot write: the credential of an apply was opened")


async def test_looking_at_what_lives_and_what_would_change_needs_no_write(
    world: World,
) -> None:
    live = await world.create(world.unit("lives"))
    config = observer(world.plane, f"observer-{world.project}")

    async def kubeconfig() -> Mapping[str, Any]:
        return config

    looking = Client(kubeconfig)
    target = KubernetesTarget(
        TARGET, Client(locked), Renderer(find_helm()), looking=looking,
        owner=world.project, credentials=credentials, probe=world.probe,
    )  # fmt: skip
    unit, new = world.unit("lives", variant=1), world.unit("comes")
    change = Change(
        key=unit.key, action=Action.CHANGE, unit=unit, uid=live.uid, version=live.version
    )  # fmt: skip
    create = Change(key=new.key, action=Action.CREATE, unit=new)

    found = await target.observe([live.key, new.key])
    assert found[live.key] == live
    assert found[new.key].presence is Presence.ABSENT
    assert await target.preview(change) == await world.kubernetes.preview(change)
    await target.preview(create)
    assert looking.requests > 0
    assert looking.writes == 0

    with pytest.raises(PermanentError, match="credential of an apply"):
        await target.dry_run(change)
    path = f"/api/v1/namespaces/{world.namespace}/configmaps"
    for verb, where in (("POST", path), ("DELETE", f"{path}/kube-root-ca.crt")):
        with pytest.raises(PermanentError, match="forbidden"):
            await looking.request(verb, where, body={"metadata": {"name": "x"}})
    await target.close()


async def test_a_cluster_with_an_observer_is_planned_without_its_credentials(
    control_plane: Plane, tmp_path: Path
) -> None:
    config = observer(control_plane, "observer-connected")

    async def read(credential: Credential) -> str:
        assert credential.env == "KUBECONFIG_READING"
        return yaml.safe_dump(config)

    helm = HelmCommand(binary=find_helm())
    connected = connect(
        cluster(observer={"env": "KUBECONFIG_READING"}),
        owner="c",
        tools=Tools(
            renderer=Renderer(find_helm()),
            helm=helm,
            charts=Charts(helm, folder=tmp_path, checkout=tmp_path),
        ),
        credentials=read,
    )
    for target in (connected.objects, connected.addons):
        key = Key(target.name, Ref("Endpoint", "default", "a"))
        assert (await target.observe([key]))[key].presence is Presence.ABSENT
    await connected.close()
