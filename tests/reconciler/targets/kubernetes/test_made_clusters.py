"""A cluster through the whole line: made, reached, strayed, grown, deleted.

See `cloud` for what is real here. On an emulated AWS, with the real provider and our
real module, the same life is in ``tests/reconciler/targets/terraform``.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from renderers import terraform
from tests.reconciler.targets.kubernetes import cloud
from tests.reconciler.targets.kubernetes.cloud import H100, SYSTEM, Team
from tests.reconciler.targets.kubernetes.plane import Plane
from tests.reconciler.targets.terraform import tools
from tests.reconciler.targets.terraform.test_aws_life import hits

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

CLUSTER, MODEL = (
    "terraform:Cluster/default/prod",
    "kubernetes/default/prod:Model/default/small",
)


@pytest.fixture
def team(
    control_plane: Plane, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Team]:
    binary = tools.tofu() or tools.terraform()
    if binary is None and os.environ.get("CI"):
        pytest.fail("neither tofu nor terraform is here: run `make tools`")
    if binary is None:
        pytest.skip("NOT RUN: neither tofu nor terraform is on this machine")
    with cloud.authenticator(control_plane) as endpoint:
        made = cloud.team(tmp_path, endpoint, binary)
        beside = cloud.module(endpoint)
        monkeypatch.setattr(terraform.Module, "read", lambda *_: beside)
        monkeypatch.setattr(terraform, "_PROVIDERS", {})
        terraform.our_module.cache_clear()
        yield made
    terraform.our_module.cache_clear()


def test_one_commit_makes_a_cluster_and_what_runs_on_it(team: Team) -> None:
    team.cluster()
    team.model("small", "prod")

    # The plan names what Terraform would make; what needs the cluster waits for it.
    made = team.plan()
    (step,) = made["steps"]
    assert (step["key"], step["action"]) == (CLUSTER, "create")
    assert step["preview"]["summary"] == "3 to create", step["preview"]["refused"]
    assert (
        'create module.cluster.terraform_data.pool["system"]'
        in step["preview"]["changes"]
    )
    (waits,) = made["blocked"]
    assert (waits["key"], waits["waits"]) == (MODEL, "depends")
    assert waits["detail"] == "it needs Cluster/default/prod, which is not there yet"
    # The same commit, the same plan: what is approved can be applied by its digest.
    assert team.plan()["digest"] == made["digest"]
    assert team.apply() == {CLUSTER: "created"}

    # Then the cluster is reached by a token that bud signs, and the model goes there.
    assert team.apply() == {MODEL: "created"}
    code, out = team.run("--json", "plan")
    assert (code, json.loads(out)["steps"]) == (0, [])
    code, out = team.run("--json", "cluster", "status")
    (row,) = json.loads(out)
    assert (code, row["state"]) == (0, "ready")
    assert row["detail"].startswith("Kubernetes v1.")
    assert row["says"]["cluster"]["region"] == "us-east-1"

    # A pool more: the plan shows that pool and nothing else of the cluster.
    team.cluster(nodePools=[SYSTEM, H100])
    (step,) = team.plan()["steps"]
    assert (
        'create module.cluster.terraform_data.pool["h100"]'
        in step["preview"]["changes"]
    )
    assert not [c for c in step["preview"]["changes"] if '"system"' in c]
    assert team.apply() == {CLUSTER: "changed"}

    # Changed by hand: drift is planned, named, and healed.
    team.stray()
    _, out = team.run("--json", "cluster", "status")
    assert json.loads(out)[0]["state"] == "changed by hand"
    (drift,) = team.plan()["drift"]
    assert 'terraform_data.pool["h100"]' in drift["detail"]
    assert team.apply() == {CLUSTER: "changed"}
    assert team.plan()["drift"] == []

    # Nothing that was said or kept on the way holds the credential.
    assert hits(team.state, cloud.SECRET) == []
    assert not [said for said in team.spoken if cloud.SECRET in said]

    # What ran there goes with its file, and the cluster stays.
    team.model("small")
    assert team.apply() == {MODEL: "deleted"}


def test_a_cluster_goes_after_what_runs_there_and_not_before(team: Team) -> None:
    team.cluster()
    team.model("small", "prod")
    assert team.apply() == {CLUSTER: "created"}, team.spoken
    assert team.apply() == {MODEL: "created"}
    team.run("suspend", "Model/small", "--reason", "somebody looks")
    team.remove("Model", "small")
    team.remove("Cluster", "prod")
    made = team.plan()
    assert made["steps"] == []
    assert {b["key"]: b["waits"] for b in made["blocked"]} == {
        CLUSTER: "depended-on",
        MODEL: "suspended",
    }
    team.run("resume", "Model/small")
    assert team.plan()["steps"][1]["preview"]["changes"]
    assert team.apply() == {CLUSTER: "deleted", MODEL: "deleted"}
    assert team.states() == []
    assert team.plan()["steps"] == []
    assert not list(team.state.rglob("*.sealed"))


def test_a_retained_cluster_stays_when_its_file_goes(team: Team) -> None:
    team.cluster(deletionPolicy="retain")
    assert team.apply() == {CLUSTER: "created"}
    team.remove("Cluster", "prod")
    (step,) = team.plan()["steps"]
    assert "deletionPolicy is retain" in step["preview"]["refused"]
    assert team.apply() == {CLUSTER: "failed"}
    assert len(team.states()) == 1


def test_a_plan_that_means_something_else_by_now_is_refused(team: Team) -> None:
    """Law 5: what Terraform would do is part of what was approved."""
    team.cluster()
    team.apply()
    team.cluster(nodePools=[SYSTEM, H100])
    digest = team.plan()["digest"]
    team.stray()
    _, said = team.run("apply", "--plan", digest)
    assert "moved" in said
    assert len(team.plan()["steps"]) == 1


@pytest.mark.parametrize("at", [3, 4])
def test_killed_anywhere_in_the_making_the_next_run_goes_on(
    team: Team, at: int
) -> None:
    """Law 10. The third point lies before Terraform's apply, the fourth after it."""
    team.apply()
    team.cluster()
    assert team.killed("apply", at=at) == -9
    for _ in range(3):
        team.apply()
    made = team.plan()
    assert (made["steps"], made["blocked"]) == ([], [])
    (state,) = team.states()
    resources = json.loads(state.read_text())["resources"]
    assert sum(len(r["instances"]) for r in resources) == 3
