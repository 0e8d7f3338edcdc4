"""What a security team checks in our modules, read from the parsed HCL.

The checks are ours, with the number of checkov's policy where it has one. Each
exception is written down with its reason.
"""

import re
import shutil
import subprocess
from functools import cache
from io import StringIO
from pathlib import Path
from typing import Any

import hcl2
import pytest

MODULES = Path(__file__).parents[3] / "templates" / "terraform"
NAMES = sorted(folder.name for folder in MODULES.iterdir())

Json = Any


def plain(value: Json) -> Json:
    """The parsed value without the parser's quotes around text."""
    if isinstance(value, dict):
        pairs = ((plain(k), plain(v)) for k, v in value.items())
        return {key: item for key, item in pairs if not str(key).startswith("__")}
    if isinstance(value, list):
        return [plain(item) for item in value]
    if isinstance(value, str) and len(value) > 1 and value[0] == value[-1] == '"':
        return value[1:-1]
    return value


@cache
def parsed(name: str) -> dict[str, Json]:
    files = sorted((MODULES / name).glob("*.tf"))
    return {file.name: plain(hcl2.load(StringIO(file.read_text()))) for file in files}


def blocks(name: str, kind: str) -> list[Json]:
    return [block for file in parsed(name).values() for block in file.get(kind, [])]


def resources(name: str, kind: str) -> dict[str, Json]:
    return {
        label: body
        for block in blocks(name, "resource")
        for found, labelled in block.items()
        if found == kind
        for label, body in labelled.items()
    }


def text_of(name: str) -> str:
    files = sorted((MODULES / name).glob("*.tf"))
    code = "\n".join(file.read_text() for file in files)
    return re.sub(r"#.*", "", code)


@pytest.mark.parametrize("name", NAMES)
def test_every_file_parses(name: str) -> None:
    assert blocks(name, "resource")


@pytest.mark.parametrize("name", NAMES)
def test_nothing_runs_a_program_or_fetches_code(name: str) -> None:
    code = text_of(name)
    for forbidden in (
        "provisioner",
        'data "external"',
        'data "http"',
        "local-exec",
        "remote-exec",
        "templatefile(",
        "file(",
        "git::",
    ):
        assert forbidden not in code
    assert not blocks(name, "module")
    assert not blocks(name, "provider")


@pytest.mark.parametrize("name", NAMES)
def test_every_variable_and_output_is_described_and_typed(name: str) -> None:
    for block in blocks(name, "variable"):
        for label, body in block.items():
            assert body.get("description"), label
            assert "type" in body, label
    for block in blocks(name, "output"):
        for label, body in block.items():
            assert body.get("description"), label


@pytest.mark.parametrize("name", NAMES)
def test_every_provider_is_pinned_to_one_version(name: str) -> None:
    (settings,) = blocks(name, "terraform")
    (required,) = settings["required_providers"]
    for provider in required.values():
        assert re.fullmatch(r"\d+\.\d+\.\d+", provider["version"])
        assert provider["source"].startswith("registry.terraform.io/")


def test_the_aws_provider_is_pinned_to_its_builds() -> None:
    lock = (MODULES / "aws-eks" / ".terraform.lock.hcl").read_text()
    assert 'provider "registry.terraform.io/hashicorp/aws"' in lock
    assert re.search(r'"h1:[A-Za-z0-9+/=]{44}"', lock)


@pytest.mark.parametrize("name", NAMES)
def test_files_are_formatted_as_terraform_does(name: str) -> None:
    binary = shutil.which("terraform") or shutil.which("tofu")
    if binary is None:
        pytest.skip("NOT RUN: neither terraform nor tofu is on this machine")
    done = subprocess.run(
        [binary, "fmt", "-check", "-diff", str(MODULES / name)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


# CKV_AWS_39 (public endpoint) is an exception: `private_api` closes it, and a first
# cluster has nobody inside the VPC yet. CKV_AWS_130 does not apply: no subnet hands
# out public addresses.


def test_eks_logs_everything_and_encrypts_secrets() -> None:
    (cluster,) = resources("aws-eks", "aws_eks_cluster").values()
    # CKV_AWS_37
    assert set(cluster["enabled_cluster_log_types"]) == {
        "api", "audit", "authenticator", "controllerManager", "scheduler",
    }  # fmt: skip
    # CKV_AWS_58
    assert cluster["encryption_config"][0]["resources"] == ["secrets"]
    assert cluster["access_config"][0]["authentication_mode"] == "API"


def test_aws_keys_rotate_and_logs_and_disks_are_encrypted() -> None:
    for key in resources("aws-eks", "aws_kms_key").values():  # CKV_AWS_7
        assert key["enable_key_rotation"] is True
    for group in resources("aws-eks", "aws_cloudwatch_log_group").values():
        assert "kms_key_id" in group  # CKV_AWS_158
        assert "retention_in_days" in group  # CKV_AWS_338
    for file_system in resources("aws-eks", "aws_efs_file_system").values():
        assert file_system["encrypted"] is True  # CKV_AWS_42
    (template,) = resources("aws-eks", "aws_launch_template").values()
    disk = template["block_device_mappings"][0]["ebs"][0]
    assert disk["encrypted"] is True
    assert "kms_key_id" in disk
    metadata = template["metadata_options"][0]
    assert metadata["http_tokens"] == "required"  # CKV_AWS_79
    assert metadata["http_put_response_hop_limit"] == 1  # CKV_AWS_341


def test_the_vpc_logs_its_flows_and_empties_its_default_group() -> None:
    assert resources("aws-eks", "aws_flow_log")  # CKV2_AWS_11
    (group,) = resources("aws-eks", "aws_default_security_group").values()
    assert not {"ingress", "egress"} & group.keys()  # CKV2_AWS_12


def test_every_aws_security_group_is_attached_and_closed_to_the_world() -> None:
    code = text_of("aws-eks")
    for label, group in resources("aws-eks", "aws_security_group").items():
        assert group["description"], label  # CKV_AWS_23
        uses = re.findall(rf"aws_security_group\.{label}(?:\[0\])?\.id", code)
        rules = re.findall(
            rf"security_group_id\s*=\s*aws_security_group\.{label}(?:\[0\])?\.id", code
        )
        assert len(uses) > len(rules), f"{label} is attached to nothing"
    for label, rule in resources(
        "aws-eks", "aws_vpc_security_group_ingress_rule"
    ).items():
        assert rule.get("cidr_ipv4") != "0.0.0.0/0", label  # CKV_AWS_260


def test_no_aws_policy_grants_everything_to_a_role_of_ours() -> None:
    # The key's own policy is the exception: without it the account loses the key.
    for block in blocks("aws-eks", "data"):
        for kind, labelled in block.items():
            for label, body in labelled.items():
                if kind != "aws_iam_policy_document" or label == "key":
                    continue
                for statement in body["statement"]:
                    assert "*" not in statement["actions"], label  # CKV_AWS_63


def test_aks_has_no_local_accounts_and_encrypts_etcd() -> None:
    (cluster,) = resources("azure-aks", "azurerm_kubernetes_cluster").values()
    assert cluster["local_account_disabled"] is True  # CKV_AZURE_141
    assert cluster["oidc_issuer_enabled"] is True
    assert cluster["workload_identity_enabled"] is True
    assert cluster["azure_policy_enabled"] is True  # CKV_AZURE_116
    assert "key_management_service" in cluster
    assert "oms_agent" in cluster  # CKV_AZURE_4
    assert cluster["network_profile"][0]["network_plugin"] == "azure"
    assert "network_policy" in cluster["network_profile"][0]  # CKV_AZURE_7
    (vault,) = resources("azure-aks", "azurerm_key_vault").values()
    assert vault["purge_protection_enabled"] is True  # CKV_AZURE_110


def test_every_azure_subnet_has_its_security_group() -> None:
    subnets = resources("azure-aks", "azurerm_subnet")
    held = resources("azure-aks", "azurerm_subnet_network_security_group_association")
    assert subnets.keys() == held.keys()  # CKV2_AZURE_31
