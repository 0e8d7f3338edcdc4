"""What a saved plan would do, without a value in it, and what it may not do."""

import json

import pytest

from reconciler.targets.terraform.credentials import ambient, parse_credentials
from reconciler.targets.terraform.state import read_state
from reconciler.targets.terraform.summary import (
    refuse_code,
    refuse_providers,
    summarise,
    summarise_log,
)
from renderers.terraform import our_module
from schemas.errors import PermanentError, TemporaryError

AWS = "registry.terraform.io/hashicorp/aws"


def changed(kind: str, actions: list[str], **values: object) -> dict[str, object]:
    return {
        "address": f"module.cluster.{kind}.this",
        "mode": "managed",
        "type": kind,
        "provider_name": AWS,
        "change": {"actions": actions, "before": {}, "after": {}, **values},
    }


def plan_of(*changes: dict[str, object]) -> bytes:
    return json.dumps({"resource_changes": list(changes)}).encode()


def test_a_summary_names_attributes_and_no_values() -> None:
    summary = summarise(
        plan_of(
            changed("aws_eks_addon", ["no-op"]),
            changed(
                "aws_eks_node_group",
                ["update"],
                before={"password": "canary-before", "size": 1},
                after={"password": "canary-after", "size": 1},
                after_unknown={"version": True},
            ),
        )
    )
    (change,) = summary.changes
    assert change.attributes == ("password", "version")
    assert "canary" not in f"{summary} {change}"
    assert str(summary) == "1 to update"


def test_losing_the_heart_of_a_cluster_is_fatal() -> None:
    replaced = summarise(plan_of(changed("aws_eks_cluster", ["delete", "create"])))
    assert [c.action for c in replaced.fatal] == ["replace"]
    assert not summarise(plan_of(changed("aws_eks_cluster", ["update"]))).fatal
    assert not summarise(plan_of(changed("aws_eks_node_group", ["delete"]))).fatal


def test_the_same_changes_have_the_same_digest() -> None:
    one, two = changed("aws_vpc", ["create"]), changed("aws_subnet", ["create"])
    assert summarise(plan_of(one, two)).digest == summarise(plan_of(two, one)).digest
    assert summarise(plan_of(one)).digest != summarise(plan_of(two)).digest


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ('resource "x" "y" {\n  provisioner "local-exec" {\n  }\n}\n', "provisioner"),
        ('resource "x" "y" {\n/* a\nb */ provisioner file {\n  }\n}\n', "provisioner"),
        ('module /* a\nb */ x {\n  source = "git::https://x"\n}\n', "module"),
        ('module "x" {\n  source = "git::https://x"\n}\n', "module"),
    ],
)
def test_code_that_nobody_allowed_is_refused(code: str, found: str) -> None:
    with pytest.raises(PermanentError, match=f"{found} of module/x.tf is not allowed"):
        refuse_code({"module/x.tf": code.encode()})


def test_what_is_read_beside_our_files_is_refused() -> None:
    for name in ("override.tf.json", "module/x.tofu", "module/x.tf.json"):
        with pytest.raises(PermanentError, match=f"{name} is not allowed"):
            refuse_code({name: b"{}"})
    with pytest.raises(PermanentError, match="hashicorp/external is not allowed"):
        refuse_providers({AWS, "registry.terraform.io/hashicorp/external"})
    refuse_providers({AWS})


@pytest.mark.parametrize("name", ["aws-eks", "azure-aks"])
def test_our_own_configuration_is_not_refused(name: str) -> None:
    files = our_module(name).files
    refuse_code({"main.tf.json": b"{}", **{f"module/{n}": f for n, f in files.items()}})


def planned(action: str, **more: object) -> dict[str, object]:
    resource = {"addr": f"aws_vpc.{action}", "resource_type": "aws_vpc"}
    return {
        "type": "planned_change",
        "change": {"resource": resource, "action": action, **more},
    }


def test_what_is_only_made_or_gone_needs_no_second_look() -> None:
    told = (planned(action) for action in ("delete", "read", "create"))
    lines = [{"type": "version"}, *told]
    log = b"\n".join(json.dumps(line).encode() for line in lines)
    summary = summarise_log(log)
    assert summary is not None
    assert str(summary) == "1 to create, 1 to delete"
    assert [c.address for c in summary.fatal] == ["aws_vpc.delete"]
    for line in (planned("update"), planned("replace"), planned("noop", importing={})):
        assert summarise_log(json.dumps(line).encode()) is None


def test_what_is_no_state_is_never_absent() -> None:
    assert read_state(b"") is None
    for broken in (b"{", b"[]", b"{}", b'{"outputs": {}, "resources": 3}'):
        with pytest.raises(TemporaryError, match="cannot read Terraform state"):
            read_state(broken)


def test_credentials_pass_only_under_names_that_providers_read() -> None:
    lines = "AWS_ACCESS_KEY_ID = AKIA\n\nAWS_SECRET_ACCESS_KEY=a=b\n"
    expected = {"AWS_ACCESS_KEY_ID": "AKIA", "AWS_SECRET_ACCESS_KEY": "a=b"}
    assert parse_credentials(lines) == expected
    assert parse_credentials(json.dumps(expected)) == expected
    for hostile in (
        "LD_PRELOAD=/tmp/x.so",
        '{"TF_CLI_ARGS_apply": "-auto-approve"}',
        "canary-secret",
        '{"canary-secret": ',
        "",
    ):
        with pytest.raises(
            PermanentError, match="cannot read cloud credential"
        ) as caught:
            parse_credentials(hostile)
        assert "/tmp/x.so" not in str(caught.value)


def test_the_environment_is_made_from_nothing() -> None:
    around = {
        "AWS_ACCESS_KEY_ID": "A",
        "HTTPS_PROXY": "http://proxy",
        "TF_CLI_ARGS": "-x",
        "PYTHONPATH": "/evil",
    }
    assert ambient(around, own=False) == {"HTTPS_PROXY": "http://proxy"}
    assert ambient(around, own=True).keys() == {"AWS_ACCESS_KEY_ID", "HTTPS_PROXY"}
