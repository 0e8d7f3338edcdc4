"""A site of three machines, and a target that knows how to open them."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from reconciler.secrets import Vault
from reconciler.targets.ansible import AnsibleTarget
from reconciler.values import Key, Unit
from renderers.ansible import render_cluster
from schemas.catalog import catalog
from schemas.cluster import Cluster
from tests.reconciler.targets.ansible.hosts import Site, missing, site

RELEASE, NEXT, RKE2 = "v1.33.5+k3s1", "v1.33.6+k3s1", "v1.33.5+rke2r1"
HARMFUL = "{{ lookup('pipe', 'touch %s') }}"


def cluster_of(*hosts: dict[str, Any], **spec: Any) -> Cluster:
    written = {
        "apiVersion": "foundry.bud/v1",
        "kind": "Cluster",
        "metadata": {"name": "rack"},
        "spec": {
            "provider": "onprem",
            "version": "1.33.5",
            "credentials": {"env": "SSH_KEY"},
            "deletionPolicy": "delete",
            "hosts": hosts,
            **spec,
        },
    }
    return Cluster.model_validate_json(json.dumps(written))


def unit_of(cluster: Cluster) -> Unit:
    content = render_cluster(cluster, catalog())
    key = Key("ansible", cluster.ref)
    return Unit(key=key, content=content, digest=sha256(content).hexdigest())


@dataclass
class World:
    site: Site
    target: AnsibleTarget
    folder: Path

    def cluster(self, *, agent: bool = False, **spec: Any) -> Cluster:
        hosts = [{"address": self.site.hosts[0].address, "role": "control-plane"}]
        if agent:
            hosts.append({"address": self.site.hosts[1].address, "role": "worker"})
        pooled = [{**h, "nodePool": spec["nodePools"][0]["name"]} for h in hosts] if (
            "nodePools" in spec
        ) else hosts  # fmt: skip
        return cluster_of(*pooled, **spec)


@pytest.fixture(scope="module")
def machines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    if lacks := missing():
        pytest.skip(f"NOT RUN: this machine lacks {lacks}")
    with site(tmp_path_factory.mktemp("site"), 3) as running:
        for release in (RELEASE, NEXT, RKE2):
            running.publish(release)
        yield running


@pytest.fixture
def world(machines: Site, tmp_path: Path) -> World:
    target = AnsibleTarget(
        folder=tmp_path / "ansible",
        credentials=lambda _: machines.key,
        vault=Vault(tmp_path / "vault"),
        releases=machines.releases,
    )
    return World(machines, target, tmp_path)
