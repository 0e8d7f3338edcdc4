"""A cluster that is there is used by its kubeconfig, and its machines are left alone.

Real: the API server, SOPS, the command. The nodes are kwok's.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from reconciler.cli.cluster import COMMANDS
from reconciler.cli.context import Context
from reconciler.secrets import SopsFiles
from tests.reconciler.targets.kubernetes.plane import Plane

pytestmark = pytest.mark.slow

ENVIRONMENT = """apiVersion: foundry.bud/v1
kind: Environment
metadata: {name: site}
spec: {take: ["Cluster/*"]}
"""


def bud(repo: Path, *args: str, as_json: bool = True) -> Any:
    context = Context(
        repo=repo, environment="site", state=None, as_json=as_json, level="error"
    )
    # What is said to people goes to the other stream.
    done = CliRunner().invoke(COMMANDS[0], args, obj=context, standalone_mode=False)
    if done.exception is not None:
        raise done.exception
    return done


def test_an_existing_cluster_is_adopted_by_its_kubeconfig(
    control_plane: Plane, sops: None, tmp_path: Path
) -> None:
    repo = tmp_path / "repo"
    (repo / "spec" / "cluster").mkdir(parents=True)
    site = repo / "environments" / "site"
    site.mkdir(parents=True)
    (site / "environment.yaml").write_text(ENVIRONMENT)
    mine = SopsFiles(
        folder=site / "secrets", identity=repo / ".bud" / "site" / "age" / "age.key"
    )
    mine.initialise()
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text(yaml.safe_dump(control_plane.kubeconfig()))
    before = control_plane.call("GET", "/api/v1/nodes")["items"]

    done = bud(repo, "adopt", "rack", "--kubeconfig", str(kubeconfig), as_json=False)
    item = yaml.safe_load(done.stdout)
    assert item["spec"]["provider"] == "existing"
    assert item["spec"]["credentials"] == {"secret": "rack-kubeconfig.yaml#kubeconfig"}
    assert sum(pool["count"] for pool in item["spec"]["nodePools"]) == len(before)
    token = control_plane.kubeconfig()["users"][0]["user"]["token"]
    assert token not in done.output
    assert token not in (site / "secrets" / "rack-kubeconfig.yaml").read_text()

    # As a person goes on: the file is put where it belongs, and it answers.
    (repo / "spec" / "cluster" / "rack.yaml").write_text(done.stdout)
    (row,) = json.loads(bud(repo, "status").stdout)
    assert (row["state"], row["cluster"]) == ("ready", "Cluster/default/rack")
    assert row["detail"].startswith("Kubernetes v1.")
    after = control_plane.call("GET", "/api/v1/nodes")["items"]
    assert [n["metadata"]["labels"] for n in after] == [
        n["metadata"]["labels"] for n in before
    ]
