"""Secrets in git, by the real SOPS: tampering never opens, plaintext stays inside."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from reconciler.secrets import SopsFiles, read_credential
from reconciler.secrets.age import identity, recipient
from schemas.errors import PermanentError
from schemas.objects import Credential

CANARY = "canary-token-0123456789"

pytestmark = pytest.mark.slow


def test_an_identity_is_what_age_makes_of_the_same_bytes() -> None:
    # age-encryption.org/v1 test key: 32 times 0x2a.
    secret = bytes([0x2A]) * 32
    assert re.fullmatch(r"AGE-SECRET-KEY-1[02-9AC-HJ-NP-Z]{58}", identity(secret))
    assert re.fullmatch(r"age1[02-9ac-hj-np-z]{58}", recipient(secret))
    if (keygen := shutil.which("age-keygen")) is None:
        pytest.skip("NOT RUN: age-keygen is not on this machine")
    done = subprocess.run(
        [keygen, "-y"],
        input=identity(secret),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == recipient(secret)


def test_what_was_encrypted_opens_and_shows_no_value(files: SopsFiles) -> None:
    files.initialise()
    files.encrypt("keys.yaml", {"openai": CANARY, "other": "x: {y}\n"})
    text = (files.folder / "keys.yaml").read_text()
    assert CANARY not in text
    assert "openai: ENC[AES256_GCM" in text
    assert files.decrypt("keys.yaml") == {"openai": CANARY, "other": "x: {y}\n"}
    assert files.names() == ("keys.yaml",)


def test_init_again_changes_nothing(files: SopsFiles) -> None:
    first = files.initialise()
    kept = files.identity.read_bytes()
    assert files.initialise() == first
    assert files.identity.read_bytes() == kept
    assert files.identity.stat().st_mode & 0o077 == 0


def test_a_value_that_was_changed_does_not_open(files: SopsFiles) -> None:
    files.initialise()
    files.encrypt("keys.yaml", {"a": CANARY, "b": "other"})
    file = files.folder / "keys.yaml"
    text = file.read_text()
    data = re.findall(r"data:([A-Za-z0-9+/=]+)", text)
    for changed in (
        text.replace(data[0], data[1]),
        text.replace("\nb: ", "\nc: ") if "\nb: " in text else text[1:],
        re.sub(r"\nb: .*", "", text),
        text.replace(data[0][:4], "AAAA"),
    ):
        file.write_text(changed)
        with pytest.raises(PermanentError, match="cannot decrypt with sops") as caught:
            files.decrypt("keys.yaml")
        assert CANARY not in str(caught.value)


def test_another_identity_opens_nothing(files: SopsFiles, tmp_path: Path) -> None:
    files.initialise()
    files.encrypt("keys.yaml", {"a": CANARY})
    other = SopsFiles(folder=files.folder, identity=tmp_path / "other.key")
    other._add_identity()
    with pytest.raises(PermanentError, match="cannot decrypt with sops"):
        other.decrypt("keys.yaml")


def test_a_rotation_shuts_the_old_identity_out(
    files: SopsFiles, tmp_path: Path
) -> None:
    files.initialise()
    files.encrypt("keys.yaml", {"a": CANARY})
    kept = tmp_path / "stolen.key"
    shutil.copy(files.identity, kept)
    files.rotate()
    assert files.decrypt("keys.yaml") == {"a": CANARY}
    stolen = SopsFiles(folder=files.folder, identity=kept)
    with pytest.raises(PermanentError, match="cannot decrypt with sops"):
        stolen.decrypt("keys.yaml")


def test_no_plaintext_is_left_on_the_disk(files: SopsFiles, tmp_path: Path) -> None:
    files.initialise()
    files.encrypt("keys.yaml", {"a": CANARY})
    files.rotate()
    files.decrypt("keys.yaml")
    for file in tmp_path.rglob("*"):
        if file.is_file():
            assert CANARY.encode() not in file.read_bytes()


def test_a_file_outside_the_folder_is_not_opened(
    files: SopsFiles, tmp_path: Path
) -> None:
    files.initialise()
    (tmp_path / "outside.yaml").write_text("a: b\n")
    (files.folder / "link.yaml").symlink_to(tmp_path / "outside.yaml")
    for name in ("../outside.yaml", "link.yaml", "none.yaml"):
        with pytest.raises(PermanentError, match="cannot find secrets file"):
            files.decrypt(name)


def test_a_credential_is_read_from_where_it_says(
    files: SopsFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files.initialise()
    files.encrypt("keys.yaml", {"openai": CANARY})
    monkeypatch.setenv("BUD_TEST_TOKEN", CANARY)
    private = tmp_path / "token"
    private.write_text(f"{CANARY}\n")
    private.chmod(0o600)
    for credential in (
        Credential(env="BUD_TEST_TOKEN"),
        Credential(file=str(private)),
        Credential(secret="keys.yaml#openai"),
    ):
        assert read_credential(credential, files) == CANARY


@pytest.mark.parametrize(
    ("credential", "found"),
    [
        (Credential(env="BUD_TEST_UNSET"), "BUD_TEST_UNSET is empty"),
        (Credential(file="/nonexistent/token"), "No such file"),
        (Credential(secret="keys.yaml#anthropic"), "no 'anthropic'"),
        (Credential(secret="../../keys.yaml#openai"), "cannot find secrets file"),
    ],
)
def test_a_credential_that_is_not_there_is_an_error_without_a_value(
    files: SopsFiles, credential: Credential, found: str
) -> None:
    files.initialise()
    files.encrypt("keys.yaml", {"openai": CANARY})
    with pytest.raises(PermanentError, match="cannot") as caught:
        read_credential(credential, files)
    assert found in str(caught.value)
    assert CANARY not in str(caught.value)


def test_a_credential_file_that_others_can_read_is_refused(
    files: SopsFiles, tmp_path: Path
) -> None:
    (tmp_path / "open").write_text(CANARY)
    (tmp_path / "open").chmod(0o644)
    with pytest.raises(PermanentError, match="others can read"):
        read_credential(Credential(file=str(tmp_path / "open")), files)
