import os
import shutil
from pathlib import Path

import pytest

from reconciler.secrets import SopsFiles, Vault

BUILT = Path(__file__).parents[3] / ".tools" / "bin" / "sops"


@pytest.fixture
def vault(tmp_path: Path, first_key: Path) -> Vault:
    """A vault with one key, which took seconds to make and is made once."""
    folder = tmp_path / "vault"
    shutil.copytree(first_key, folder / "keys")
    return Vault(folder)


@pytest.fixture(scope="session")
def first_key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("keys")
    Vault(folder).keys.make()
    return folder / "keys"


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SopsFiles:
    found = os.environ.get("BUD_SOPS") or shutil.which("sops")
    if found is None and os.access(BUILT, os.X_OK):
        found = str(BUILT)
    if found is None and os.environ.get("CI"):
        pytest.fail("sops is not here: run `make tools`")
    if found is None:
        pytest.skip("NOT RUN: sops is not on this machine; `make tools` builds it")
    monkeypatch.setenv("BUD_SOPS", found)
    return SopsFiles(folder=tmp_path / "secrets", identity=tmp_path / "age" / "age.key")
