"""Which clusters are targets, and that one nobody can reach harms nothing."""

from __future__ import annotations

import json
import socket
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from reconciler.clusters import Clusters
from reconciler.observe import observe
from reconciler.secrets import SopsFiles, Vault, read_credential
from reconciler.targets.base import Target
from reconciler.values import Commit, Desired, Key, Presence
from schemas.environment import Environment
from schemas.kinds import parse
from schemas.objects import API_VERSION, FoundryObject, Ref

NAME, ADDONS = "kubernetes/default/prod", "helm/default/prod"
KEY = Key(NAME, Ref.parse("Endpoint/chat"))


def cluster(kubeconfig: Path, **spec: Any) -> FoundryObject:
    return parse(
        {
            "apiVersion": API_VERSION,
            "kind": "Cluster",
            "metadata": {"name": "prod"},
            "spec": {
                "provider": "existing",
                "credentials": {"file": str(kubeconfig)},
                **spec,
            },
        }
    )


def desired(*items: FoundryObject) -> Desired:
    return Desired(
        commit=Commit(sha="0" * 40),
        environment=Environment.model_construct(),
        objects={item.ref: item for item in items},
        files={},
        lock={},
    )


@pytest.fixture
def clusters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Clusters:
    helm = tmp_path / "helm"
    helm.write_text("#!/bin/sh\nexit 1\n")
    helm.chmod(0o755)
    monkeypatch.setenv("BUD_HELM", str(helm))
    read = partial(
        read_credential, files=SopsFiles(folder=tmp_path, identity=tmp_path / "age.key")
    )
    return Clusters(
        tmp_path / "clusters.json",
        owner="test",
        checkout=tmp_path,
        read=read,
        makers={},
        vault=Vault(tmp_path / "vault"),
    )


@pytest.fixture
def kubeconfig(tmp_path: Path) -> Path:
    """Of a server that nobody runs."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    file = tmp_path / "kubeconfig"
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{port}"}}],
        "users": [{"name": "u", "user": {"token": "s3cr3t-t0ken"}}],
    }
    file.write_text(json.dumps(content))
    file.chmod(0o600)
    return file


async def test_a_declared_cluster_is_a_target_and_a_local_one_is_not(
    clusters: Clusters, kubeconfig: Path
) -> None:
    here = parse(
        {
            "apiVersion": API_VERSION,
            "kind": "Cluster",
            "metadata": {"name": "here"},
            "spec": {"provider": "local"},
        }
    )
    targets: dict[str, Target] = {}
    await clusters.follow(desired(cluster(kubeconfig), here), [], targets)

    assert set(targets) == {NAME, ADDONS}
    await clusters.close()


async def test_a_cluster_that_does_not_answer_is_unknown_not_empty(
    clusters: Clusters, kubeconfig: Path
) -> None:
    targets: dict[str, Target] = {}
    await clusters.follow(desired(cluster(kubeconfig)), [], targets)
    live = (await observe(targets, [KEY]))[KEY]
    await clusters.close()

    assert live.presence is Presence.UNKNOWN
    assert live.detail


async def test_a_kubeconfig_that_is_gone_is_unknown_too(
    clusters: Clusters, tmp_path: Path
) -> None:
    targets: dict[str, Target] = {}
    await clusters.follow(desired(cluster(tmp_path / "nowhere")), [], targets)
    live = (await observe(targets, [KEY]))[KEY]
    await clusters.close()

    assert live.presence is Presence.UNKNOWN
    assert "nowhere" in live.detail


async def test_a_cluster_stays_a_target_while_we_own_anything_there(
    clusters: Clusters, kubeconfig: Path
) -> None:
    """Law 3: deleting needs no desired state."""
    targets: dict[str, Target] = {}
    await clusters.follow(desired(cluster(kubeconfig)), [KEY], targets)
    await clusters.follow(desired(), [KEY], targets)
    assert set(targets) == {NAME, ADDONS}

    await clusters.follow(desired(), [], targets)
    assert targets == {}


async def test_what_is_remembered_of_a_cluster_holds_no_secret(
    clusters: Clusters, kubeconfig: Path, tmp_path: Path
) -> None:
    targets: dict[str, Target] = {}
    await clusters.follow(desired(cluster(kubeconfig)), [], targets)
    await observe(targets, [KEY])
    await clusters.close()

    assert "s3cr3t-t0ken" not in (tmp_path / "clusters.json").read_text()
