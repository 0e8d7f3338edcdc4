"""Units of one's own machines: what goes into an inventory, and what must not."""

import json

import orjson

from renderers.ansible import difference, project, read_manifest, render_cluster
from schemas.ansible import Machine
from schemas.catalog import catalog
from schemas.cluster import Cluster
from tests.reconciler.targets.ansible.conftest import HARMFUL, cluster_of

HOSTS = [
    {"address": "10.0.0.21", "role": "worker", "nodePool": "gpu"},
    {"address": "10.0.0.11", "role": "control-plane", "user": "foundry"},
    {"address": "10.0.0.12", "role": "control-plane", "port": 2222},
    {"address": "10.0.0.13", "role": "control-plane"},
]
POOL = {
    "name": "gpu",
    "gpu": "l40s-48gb",
    "gpusPerNode": 8,
    "count": 1,
    "labels": {"tier": "gold"},
    "taints": [{"key": "k", "value": HARMFUL % "x", "effect": "NoSchedule"}],
}


def trust(_: Machine) -> tuple[str, ...]:
    return ("-o", "StrictHostKeyChecking=yes")


def rendered(*hosts: dict[str, object], **spec: object) -> bytes:
    item: Cluster = cluster_of(*hosts, nodePools=[POOL], **spec)
    return render_cluster(item, catalog())


def test_no_value_of_a_spec_is_where_ansible_looks_for_templates() -> None:
    files = project(
        rendered(*HOSTS), uid="u", gone=(), releases="http://x", trust=trust
    )
    ours = {name for name in files if name.startswith("project/")}
    data = "project/cluster.json"
    assert b"{{" in files[data]
    assert b"{{" not in files["inventory/hosts.json"]
    # Whatever else there is, the package carries: nothing of a spec is in it.
    again = project(
        rendered(HOSTS[1]), uid="v", gone=(), releases="http://y", trust=trust
    )
    assert all(files[name] == again[name] for name in ours - {data})


def test_servers_come_first_and_join_where_the_first_is() -> None:
    content = rendered(*HOSTS)
    manifest = read_manifest(content)
    assert [m.name for m in manifest.machines] == [
        "10-0-0-11",
        "10-0-0-12-2222",
        "10-0-0-13",
        "10-0-0-21",
    ]
    files = project(content, uid="u", gone=(), releases="http://x", trust=trust)
    groups = orjson.loads(files["inventory/hosts.json"])["all"]["children"]
    assert {g: list(c["hosts"]) for g, c in groups.items()} == {
        "first": ["10-0-0-11"],
        "others": ["10-0-0-12-2222", "10-0-0-13"],
        "agents": ["10-0-0-21"],
        "gone": [],
    }
    agent = json.loads(files["project/cluster.json"])["machines"]["10-0-0-21"]
    assert agent["gpus"] == 8
    assert agent["labels"] == ["foundry.bud/pool=gpu", "tier=gold"]


def test_a_difference_says_who_is_drained() -> None:
    old, new = rendered(*HOSTS), rendered(*HOSTS[1:], version="1.33.6")
    changes, notes = difference(read_manifest(old), read_manifest(new))
    assert "remove 10-0-0-21" in changes
    assert "upgrade 10-0-0-11 (v1.33.5+k3s1 -> v1.33.6+k3s1)" in changes
    assert any("drained and gone" in note for note in notes)
    assert difference(read_manifest(old), read_manifest(old)) == ((), ())
    assert difference(read_manifest(old), None)[1] == (
        "the cluster and all that runs on it are gone",
    )


def test_the_same_spec_is_the_same_bytes_in_any_order() -> None:
    assert rendered(*HOSTS) == rendered(HOSTS[1], HOSTS[0], *HOSTS[2:])
