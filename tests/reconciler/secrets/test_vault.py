"""The vault opens what was sealed, as it was sealed, and nothing else."""

import threading
from pathlib import Path
from unittest.mock import patch

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reconciler.secrets import Vault
from reconciler.secrets.envelope import open_envelope
from schemas.errors import PermanentError

CANARY = b"canary-kubeconfig-0123456789"


def sealed(vault: Vault, name: str) -> Path:
    (file,) = vault._items.glob(f"{name}.sealed")
    return file


def test_what_was_put_comes_back(vault: Vault) -> None:
    vault.put("cluster.prod", CANARY)
    assert vault.get("cluster.prod") == CANARY
    assert vault.names() == ("cluster.prod",)
    vault.put("cluster.prod", b"newer")
    assert vault.get("cluster.prod") == b"newer"
    vault.remove("cluster.prod")
    assert vault.names() == ()


@given(content=st.binary(max_size=200))
@settings(
    max_examples=20,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_any_bytes_come_back(vault: Vault, content: bytes) -> None:
    vault.put("any", content)
    assert vault.get("any") == content


@pytest.mark.slow
def test_no_byte_of_a_sealed_file_can_change(vault: Vault) -> None:
    vault.put("a", CANARY)
    whole = sealed(vault, "a").read_bytes()
    assert open_envelope("a", whole, vault.keys) == CANARY
    opened = 0
    for i in range(len(whole)):
        changed = bytearray(whole)
        changed[i] ^= 1 << (i % 8)
        try:
            open_envelope("a", bytes(changed), vault.keys)
            opened += 1
        except PermanentError:
            continue
    assert opened == 0
    assert len(whole) > 500


@pytest.mark.slow
def test_no_sealed_file_opens_cut_or_lengthened(vault: Vault) -> None:
    vault.put("a", CANARY)
    whole = sealed(vault, "a").read_bytes()
    for end in (0, 1, 8, 40, 42, 500, len(whole) - 1):
        with pytest.raises(PermanentError, match="cannot"):
            open_envelope("a", whole[:end], vault.keys)
    with pytest.raises(PermanentError, match="cannot"):
        open_envelope("a", whole + b"\0", vault.keys)


def test_an_item_moved_over_another_does_not_open(vault: Vault) -> None:
    vault.put("a", b"for a")
    vault.put("b", b"for b")
    sealed(vault, "b").write_bytes(sealed(vault, "a").read_bytes())
    with pytest.raises(PermanentError, match="cannot"):
        vault.get("b")
    assert vault.verify().keys() == {"b"}
    assert vault.get("a") == b"for a"


def test_no_plaintext_is_on_the_disk(vault: Vault, tmp_path: Path) -> None:
    vault.put("a", CANARY)
    for file in tmp_path.rglob("*"):
        if file.is_file():
            assert CANARY not in file.read_bytes()
            assert file.name == ".lock" or file.stat().st_mode & 0o077 == 0


def test_a_key_that_others_can_read_is_refused(vault: Vault) -> None:
    vault.put("a", CANARY)
    (key,) = vault.keys._folder.glob("*.pem")
    key.chmod(0o644)
    with pytest.raises(PermanentError, match="others can read") as caught:
        vault.get("a")
    assert "chmod 600" in caught.value.hint


def test_a_vault_without_a_key_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(PermanentError, match="cannot find a key") as caught:
        Vault(tmp_path).put("a", b"")
    assert "bud secrets init" in caught.value.hint


@pytest.mark.parametrize("name", ["../a", "", "A", "a/b", ".a", "a..b", "a" * 200])
def test_a_name_never_leaves_the_folder(vault: Vault, name: str) -> None:
    with pytest.raises(PermanentError, match="cannot name"):
        vault.put(name, b"")


@pytest.mark.slow
def test_a_rotation_wraps_again_and_encrypts_nothing(vault: Vault) -> None:
    for name in ("a", "b"):
        vault.put(name, name.encode())
    first = {name: sealed(vault, name).read_bytes() for name in vault.names()}
    old = vault.keys.current
    assert vault.rotate() == ("a", "b")
    for name, before in first.items():
        after = sealed(vault, name).read_bytes()
        assert vault.key_of(name) == vault.keys.current != old
        # Nonce, content and tag stay as they were; the wrapped key does not.
        assert after[-(12 + len(name) + 16) :] == before[-(12 + len(name) + 16) :]
        assert after[42:-29] != before[42:-29]
        assert vault.get(name) == name.encode()
    (vault.keys._folder / f"{old}.pem").unlink()
    assert vault.verify() == {}
    with pytest.raises(PermanentError, match="cannot find key"):
        open_envelope("a", first["a"], vault.keys)


@pytest.mark.slow
def test_a_killed_rotation_opens_and_goes_on(vault: Vault) -> None:
    for name in ("a", "b", "c"):
        vault.put(name, name.encode())

    def die(point: str, seen: list[str] = []) -> None:  # noqa: B006  counts calls
        seen.append(point)
        if seen.count("vault after item") == 1:
            raise KeyboardInterrupt

    with patch("reconciler.faults.point", die), pytest.raises(KeyboardInterrupt):
        vault.rotate()
    assert len({vault.key_of(name) for name in vault.names()}) == 2
    assert vault.verify() == {}
    vault.rotate()
    assert {vault.key_of(name) for name in vault.names()} == {vault.keys.current}


@pytest.mark.slow
def test_a_rotation_under_load_loses_nothing(vault: Vault) -> None:
    names = [f"item-{i}" for i in range(6)]
    for name in names:
        vault.put(name, b"0")
    failures: list[BaseException] = []
    stop = threading.Event()
    written = dict.fromkeys(names, 0)

    def work(name: str) -> None:
        other = Vault(vault._items.parent)
        try:
            while not stop.is_set():
                written[name] += 1
                other.put(name, str(written[name]).encode())
                assert other.get(name) == str(written[name]).encode()
        except BaseException as error:  # noqa: BLE001  told to the test below
            failures.append(error)

    threads = [threading.Thread(target=work, args=(name,)) for name in names[:3]]
    for thread in threads:
        thread.start()
    vault.rotate()
    stop.set()
    for thread in threads:
        thread.join()
    assert failures == []
    assert {name: vault.get(name) for name in names} == {
        name: str(count).encode() for name, count in written.items()
    }
