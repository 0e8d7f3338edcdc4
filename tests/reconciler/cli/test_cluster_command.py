"""`bud cluster` before anything is made: it says so, and makes nothing."""

import json
import shutil
from pathlib import Path

import pytest
from click import BadParameter, UsageError
from click.testing import CliRunner, Result

from reconciler.cli.cluster import COMMANDS
from reconciler.cli.context import Context
from schemas.errors import PermanentError, TemporaryError

pytestmark = pytest.mark.slow

ENVIRONMENT = """apiVersion: foundry.bud/v1
kind: Environment
metadata: {name: cloud}
spec: {take: ["Cluster/*"]}
"""
CLUSTER = """apiVersion: foundry.bud/v1
kind: Cluster
metadata: {name: %s}
spec:
  provider: %s
  version: "1.32"
  region: %s
  nodePools:
    - {name: system, instanceType: %s, count: 2}
"""


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    environment = tmp_path / "environments" / "cloud"
    environment.mkdir(parents=True)
    (environment / "environment.yaml").write_text(ENVIRONMENT)
    clusters = tmp_path / "spec" / "cluster"
    clusters.mkdir(parents=True)
    for name, provider, region, machine in (
        ("prod", "aws-eks", "us-east-1", "m7i.xlarge"),
        ("west", "azure-aks", "eastus2", "Standard_D4s_v5"),
    ):
        text = CLUSTER % (name, provider, region, machine)
        (clusters / f"{name}.yaml").write_text(text)
    return tmp_path


def bud(repo: Path, *args: str) -> Result:
    context = Context(
        repo=repo, environment="cloud", state=None, as_json=True, level="error"
    )
    result = CliRunner().invoke(COMMANDS[0], args, obj=context, standalone_mode=False)
    if result.exception is not None:
        raise result.exception
    return result


@pytest.fixture
def terraform() -> None:
    if shutil.which("terraform") is None and shutil.which("tofu") is None:
        pytest.skip("NOT RUN: neither terraform nor tofu is on this machine")


def test_status_shows_what_is_declared_and_not_made(
    repo: Path, terraform: None
) -> None:
    result = bud(repo, "status")
    rows = json.loads(result.output)
    assert [(row["cluster"], row["state"]) for row in rows] == [
        ("Cluster/default/prod", "absent"),
        ("Cluster/default/west", "absent"),
    ]
    assert result.return_value == 0


def test_status_without_terraform_is_unknown_and_ends_with_1(
    repo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BUD_TERRAFORM", "/nonexistent/terraform")
    result = bud(repo, "status")
    assert {row["state"] for row in json.loads(result.output)} == {"unknown"}
    assert result.return_value == 1


def test_nothing_is_planned_for_a_cluster_that_is_not_made(
    repo: Path, terraform: None
) -> None:
    with pytest.raises(TemporaryError, match="it is absent"):
        bud(repo, "upgrade", "prod", "--to", "1.33")
    with pytest.raises(TemporaryError, match="it is not made yet"):
        bud(repo, "kubeconfig", "prod")


def test_what_is_not_declared_is_an_error_that_names_what_is(repo: Path) -> None:
    with pytest.raises(PermanentError, match="cannot find cluster 'none'") as caught:
        bud(repo, "kubeconfig", "none")
    assert "prod, west" in caught.value.hint


def test_a_cluster_in_a_cloud_has_no_certificates_to_rotate(repo: Path) -> None:
    with pytest.raises(PermanentError, match="nobody keeps any") as caught:
        bud(repo, "rotate", "prod")
    assert "spec.credentials" in caught.value.hint


def test_an_adoption_says_where_the_cluster_is(repo: Path) -> None:
    with pytest.raises(UsageError, match="--region, or --kubeconfig"):
        bud(repo, "adopt", "prod")
    with pytest.raises(BadParameter, match="names no Cluster"):
        bud(repo, "adopt", "../Prod", "--region", "us-east-1")
    with pytest.raises(BadParameter, match="env=NAME"):
        bud(repo, "adopt", "prod", "--region", "us-east-1", "--credentials", "AKIA")
