"""Clusters as Terraform roots: the same bytes, no expressions, one module."""

import json
from pathlib import Path

import pytest

from renderers.terraform import (
    INTENT,
    UNIT,
    our_module,
    read_manifest,
    render_cluster,
    root,
)
from schemas.catalog import catalog
from schemas.cluster import Cluster
from schemas.errors import PermanentError

GOLDEN = Path(__file__).parent / "golden"

AWS = {
    "provider": "aws-eks",
    "version": "1.33.4",
    "region": "us-east-1",
    "network": {"cidr": "10.8.0.0/16", "nat": "per-zone", "privateApi": True},
    "credentials": {"secret": "aws.enc.yaml#prod"},
    "nodePools": [
        {"name": "system", "instanceType": "m7i.xlarge", "count": 2},
        {
            "name": "h100",
            "instanceType": "p5.48xlarge",
            "min": 0,
            "max": 4,
            "labels": {"team": "research"},
            "taints": [{"key": "nvidia.com/gpu", "effect": "NoSchedule"}],
        },
        {
            "name": "spot",
            "instanceType": "g6e.xlarge",
            "min": 0,
            "max": 8,
            "spot": True,
        },
        {"name": "none", "instanceType": "g6e.xlarge", "count": 0},
    ],
}
AZURE = {
    "provider": "azure-aks",
    "version": "1.33",
    "region": "eastus2",
    "nodePools": [
        {"name": "system", "instanceType": "Standard_D4s_v5", "count": 2},
        {
            "name": "h100",
            "instanceType": "Standard_ND96isr_H100_v5",
            "min": 0,
            "max": 2,
            "taints": [{"key": "sku", "value": "gpu", "effect": "NoSchedule"}],
        },
    ],
}


def cluster(
    spec: dict[str, object], *, project: str = "default", name: str = "prod"
) -> Cluster:
    written = {
        "apiVersion": "foundry.bud/v1",
        "kind": "Cluster",
        "metadata": {"name": name, "project": project},
        "spec": spec,
    }
    return Cluster.model_validate_json(json.dumps(written))


@pytest.mark.parametrize(("name", "spec"), [("aws-eks", AWS), ("azure-aks", AZURE)])
def test_a_cluster_renders_as_written_down(
    name: str, spec: dict[str, object], update_golden: bool
) -> None:
    content = render_cluster(cluster(spec), catalog())
    backend = {"s3": {"bucket": "states", "key": "bud", "use_lockfile": True}}
    files = root(content, our_module(name), backend)
    # The digest moves with each word of the module; the module is its own witness.
    data = json.loads(content) | {"module_digest": "of the module"}
    said = {
        "unit": data,
        "main.tf.json": json.loads(files["main.tf.json"]),
        "files": sorted(files),
    }
    text = json.dumps(said, indent=2, sort_keys=True) + "\n"
    file = GOLDEN / f"{name}.json"
    if update_golden:
        file.write_text(text, encoding="utf-8")
    assert file.read_text(encoding="utf-8") == text


def test_the_same_cluster_renders_the_same_bytes() -> None:
    one = render_cluster(cluster(AWS), catalog())
    other = render_cluster(cluster(dict(reversed(AWS.items()))), catalog())
    assert one == other
    assert read_manifest(one).module_digest == our_module("aws-eks").digest


def test_the_order_of_pools_changes_nothing() -> None:
    turned = AWS | {"nodePools": [*reversed(AWS["nodePools"])]}  # type: ignore[call-overload]
    assert render_cluster(cluster(AWS), catalog()) == render_cluster(
        cluster(turned), catalog()
    )


def test_clusters_of_one_name_in_two_projects_have_two_names_in_the_cloud() -> None:
    names = {
        str(
            read_manifest(
                render_cluster(cluster(AWS, project=project), catalog())
            ).variables["name"]
        )
        for project in ("default", "a", "b")
    }
    assert len(names) == 3


def test_no_value_is_ever_an_expression() -> None:
    hostile = AWS | {
        "nodePools": [
            {
                "name": "system",
                "instanceType": "m7i.xlarge",
                "count": 1,
                "taints": [
                    {"key": '${file("/etc/passwd")}', "effect": "NoSchedule"},
                ],
            }
        ]
    }
    content = render_cluster(cluster(hostile), catalog())
    files = root(content, our_module("aws-eks"), {"local": {}})
    main = json.loads(files["main.tf.json"])
    # Values are in the variables file alone, which Terraform reads literally.
    assert b"passwd" not in files["main.tf.json"]
    assert b"passwd" in files["terraform.tfvars.json"]
    expressions = {
        v for v in main["module"]["cluster"].values() if isinstance(v, str) and "$" in v
    }
    assert expressions == {f"${{var.{name}}}" for name in main["variable"]} - {
        f"${{var.{UNIT}}}"
    }


def test_the_whole_module_comes_before_the_mark_of_the_unit() -> None:
    content = render_cluster(cluster(AWS), catalog())
    files = root(content, our_module("aws-eks"), {"local": {}})
    main = json.loads(files["main.tf.json"])
    mark = main["resource"]["terraform_data"][UNIT]
    assert mark["depends_on"] == ["module.cluster"]
    # Terraform writes an output that it knows before it begins.
    assert UNIT not in main["output"]
    assert "depends_on" not in main["output"][INTENT]


@pytest.mark.parametrize(("name", "spec"), [("aws-eks", AWS), ("azure-aks", AZURE)])
def test_the_module_takes_every_variable(name: str, spec: dict[str, object]) -> None:
    variables = read_manifest(render_cluster(cluster(spec), catalog())).variables
    assert variables.keys() <= our_module(name).variables


def test_the_secret_of_a_cluster_is_a_reference() -> None:
    content = render_cluster(cluster(AWS), catalog())
    credentials = read_manifest(content).credentials
    assert credentials is not None
    assert credentials.secret == "aws.enc.yaml#prod"
    root_files = root(content, our_module("aws-eks"), {"local": {}})
    assert b"credentials" not in root_files["main.tf.json"]


def test_an_unknown_module_is_an_error() -> None:
    with pytest.raises(PermanentError, match="cannot find Terraform module"):
        our_module("no-such-module")


def test_what_is_no_manifest_is_an_error() -> None:
    with pytest.raises(PermanentError, match="cannot read a Terraform unit"):
        read_manifest(b"{}")
