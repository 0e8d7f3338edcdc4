"""What the environment says of Terraform, and what it may not say."""

import json
from pathlib import Path

import pytest

from reconciler.targets.terraform.opening import open_terraform
from reconciler.values import Key, Presence
from schemas.errors import PermanentError
from schemas.objects import Ref


def test_states_are_files_beside_the_foundry_unless_said(tmp_path: Path) -> None:
    target = open_terraform(
        tmp_path, {"AWS_PROFILE": "p", "TF_LOG": "x"}, lambda _: "", owner="dev"
    )
    states = str(tmp_path / "terraform" / "states")
    assert target.backend.settings == {"local": {"workspace_dir": states}}
    assert target.backend.secrets == {"AWS_PROFILE": "p"}
    assert target.backend.command.environment == {}


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("not json", "not one JSON object"),
        ('{"s3": {}, "gcs": {}}', "not one JSON object"),
        ('{"http": {"address": "http://x"}}', "'http' is not one of"),
        ('{"s3": {"bucket": "b"}}', "does not lock"),
    ],
)
def test_a_backend_that_does_not_lock_is_refused(
    tmp_path: Path, text: str, found: str
) -> None:
    with pytest.raises(
        PermanentError, match="cannot use BUD_TERRAFORM_BACKEND"
    ) as said:
        open_terraform(
            tmp_path, {"BUD_TERRAFORM_BACKEND": text}, lambda _: "", owner="dev"
        )
    assert found in str(said.value)


@pytest.mark.parametrize(
    ("kind", "written", "place"),
    [
        ("s3", {"bucket": "b", "use_lockfile": True}, "workspace_key_prefix"),
        ("gcs", {"bucket": "b", "prefix": "states"}, "prefix"),
        ("azurerm", {"container_name": "c", "key": "k"}, "key"),
        ("pg", {}, "schema_name"),
    ],
)
def test_two_environments_at_one_backend_never_share_a_state(
    tmp_path: Path, kind: str, written: dict[str, object], place: str
) -> None:
    around = {"BUD_TERRAFORM_BACKEND": json.dumps({kind: written})}
    places = {
        str(target.backend.settings[kind][place])
        for owner in ("staging", "production")
        for target in [open_terraform(tmp_path, around, lambda _: "", owner=owner)]
    }
    assert len(places) == 2
    assert {
        p.removesuffix("staging").removesuffix("production")[-1] for p in places
    } <= {"/", "_"}


async def test_without_a_binary_nothing_is_absent(tmp_path: Path) -> None:
    around = {"BUD_TERRAFORM": "/nonexistent/terraform"}
    target = open_terraform(tmp_path, around, lambda _: "", owner="dev")
    key = Key("terraform", Ref("Cluster", "default", "prod"))
    live = (await target.observe([key]))[key]
    assert live.presence is Presence.UNKNOWN
    assert "is not there" in live.detail
