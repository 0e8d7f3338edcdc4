import shutil
from pathlib import Path

import pytest

from reconciler.secrets import SopsFiles, Vault


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
def files(tmp_path: Path, sops: None) -> SopsFiles:
    return SopsFiles(folder=tmp_path / "secrets", identity=tmp_path / "age" / "age.key")
