"""`bud secrets` as its user meets it: values in by a pipe, never out again."""

from hashlib import sha256
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from reconciler.cli.context import Context
from reconciler.cli.secrets import COMMANDS
from schemas.errors import PermanentError

CANARY = "canary-0123456789"

pytestmark = pytest.mark.slow


class Bud:
    def __init__(self, repo: Path) -> None:
        self.repo = repo

    def __call__(self, *args: str, given: str = "") -> Result:
        context = Context(
            repo=self.repo,
            environment="local",
            state=None,
            as_json=False,
            level="error",
        )
        result = CliRunner().invoke(
            COMMANDS[0], args, input=given, obj=context, standalone_mode=False
        )
        if result.exception is not None:
            raise result.exception
        return result


@pytest.fixture
def bud(tmp_path: Path, sops: None, monkeypatch: pytest.MonkeyPatch) -> Bud:
    monkeypatch.delenv("BUD_AGE_KEY_FILE", raising=False)
    return Bud(tmp_path)


def test_a_value_goes_in_and_is_never_shown(bud: Bud) -> None:
    said = bud("init").output
    assert "age1" in said
    assert "AGE-SECRET-KEY" not in said
    said += bud("encrypt", "keys.yaml", given=f"openai: {CANARY}\n").output
    assert "openai" in said
    said += bud("verify").output
    said += bud("rotate").output
    said += bud("verify").output
    assert "1 of 1 open" in said
    assert CANARY not in said
    for file in bud.repo.rglob("*"):
        assert not file.is_file() or CANARY.encode() not in file.read_bytes()


def test_verify_names_what_does_not_open_and_ends_with_1(bud: Bud) -> None:
    bud("init")
    bud("encrypt", "keys.yaml", given="a: one\nb: two\n")
    file = bud.repo / "environments" / "local" / "secrets" / "keys.yaml"
    file.write_text(file.read_text().replace("ENC[", "ENC[x", 1))
    result = bud("verify")
    assert result.return_value == 1
    assert "keys.yaml: cannot decrypt" in result.output
    assert "0 of 1 open" in result.output


def test_what_is_no_mapping_is_refused_without_being_shown(bud: Bud) -> None:
    bud("init")
    for given in (CANARY, f"- {CANARY}", "a: [", ""):
        with pytest.raises(PermanentError, match="cannot encrypt") as caught:
            bud("encrypt", "keys.yaml", given=given)
        assert CANARY not in str(caught.value)


def test_a_file_is_written_in_its_folder_only(bud: Bud) -> None:
    bud("init")
    for name in ("../keys.yaml", "keys.txt", "/tmp/keys.yaml"):
        with pytest.raises(Exception, match=r"ends in \.yaml"):
            bud("encrypt", name, given="a: b\n")


def test_a_rotation_never_leaves_a_key_elsewhere_by_accident(bud: Bud) -> None:
    uri = "arn:aws:kms:us-east-1:000000000000:key/1"
    keys = bud.repo / ".bud" / "local" / "vault" / "keys"
    keys.mkdir(parents=True)
    name = sha256(uri.encode()).hexdigest()
    (keys / f"{name}.uri").write_text(uri)
    (keys / "current").write_text(name)
    bud("init")
    with pytest.raises(PermanentError, match=f"the vault's key is {uri}") as caught:
        bud("rotate")
    assert "--key" in caught.value.hint
    bud("rotate", "--key", "file")
    assert (keys / "current").read_text() != name
