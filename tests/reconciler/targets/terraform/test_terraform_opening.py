"""What the environment says of Terraform, and what it may not say."""

from pathlib import Path

import pytest

from reconciler.targets.terraform.opening import open_terraform
from reconciler.values import Key, Presence
from schemas.errors import PermanentError
from schemas.objects import Ref


def test_states_are_files_beside_the_foundry_unless_said(tmp_path: Path) -> None:
    target = open_terraform(tmp_path, {"AWS_PROFILE": "p", "TF_LOG": "x"}, lambda _: "")
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
        open_terraform(tmp_path, {"BUD_TERRAFORM_BACKEND": text}, lambda _: "")
    assert found in str(said.value)


async def test_without_a_binary_nothing_is_absent(tmp_path: Path) -> None:
    around = {"BUD_TERRAFORM": "/nonexistent/terraform"}
    target = open_terraform(tmp_path, around, lambda _: "")
    key = Key("terraform", Ref("Cluster", "default", "prod"))
    live = (await target.observe([key]))[key]
    assert live.presence is Presence.UNKNOWN
    assert "is not there" in live.detail
