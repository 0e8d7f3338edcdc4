"""Vault keys that never leave where they are.

Real: SoftHSM by PKCS #11; AWS' own client and protocol, at an emulated KMS whose RSA is
real; RSA of the Key Vault, whose server is ours after its documented REST interface.
"""

import base64
import json
import os
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from reconciler.secrets import Vault
from reconciler.secrets.envelope import open_envelope
from schemas.errors import PermanentError, TemporaryError
from tests.reconciler.targets.terraform.aws import KEY, SECRET, emulated

pytestmark = pytest.mark.slow

CANARY = b"canary-kubeconfig-0123456789"
LIBRARIES = ("/usr/lib/softhsm/libsofthsm2.so", "/usr/local/lib/softhsm/libsofthsm2.so")
OAEP = padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), None)

Make = Callable[[], str]
"""Make a key there; its URI."""


@pytest.fixture(scope="module")
def aws(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Make]:
    with emulated(tmp_path_factory.mktemp("kms")) as running:
        os.environ.update(
            AWS_ENDPOINT_URL=running.url,
            AWS_ACCESS_KEY_ID=KEY,
            AWS_SECRET_ACCESS_KEY=SECRET,
        )

        def make() -> str:
            made = running.client("kms").create_key(
                KeySpec="RSA_4096", KeyUsage="ENCRYPT_DECRYPT"
            )
            return str(made["KeyMetadata"]["Arn"])

        yield make
    for name in ("AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        del os.environ[name]


class KeyVault(BaseHTTPRequestHandler):
    """POST {key}/wrapkey and /unwrapkey of API 7.4, and Entra's token endpoint."""

    keys: dict[str, rsa.RSAPrivateKey] = {}

    def do_POST(self) -> None:
        given = self.rfile.read(int(self.headers["Content-Length"]))
        path, _, query = self.path.partition("?")
        if path.endswith("/oauth2/v2.0/token"):
            scope = b"scope=https%3A%2F%2Fvault.azure.net%2F.default" in given
            return self.answer(
                200, {"access_token": "entra"} if scope else {"error": "x"}
            )
        key, _, verb = path.rpartition("/")
        if (
            self.headers["Authorization"] != "Bearer entra"
            or query != "api-version=7.4"
        ):
            return self.answer(401, {"error": {"code": "Unauthorized"}})
        if key not in self.keys:
            return self.answer(404, {"error": {"code": "KeyNotFound"}})
        asked = json.loads(given)
        assert asked["alg"] == "RSA-OAEP-256"
        value = base64.urlsafe_b64decode(asked["value"] + "==")
        try:
            if verb == "wrapkey":
                done = self.keys[key].public_key().encrypt(value, OAEP)
            else:
                done = self.keys[key].decrypt(value, OAEP)
        except ValueError:
            return self.answer(400, {"error": {"code": "BadParameter"}})
        text = base64.urlsafe_b64encode(done).decode().rstrip("=")
        return self.answer(200, {"kid": key, "value": text})

    def answer(self, status: int, body: object) -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def azure() -> Iterator[Make]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), KeyVault)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    url = f"http://127.0.0.1:{server.server_port}"
    given = {
        "AZURE_AUTHORITY_HOST": url,
        "ARM_TENANT_ID": "t",
        "ARM_CLIENT_ID": "c",
        "ARM_CLIENT_SECRET": "s",
    }
    os.environ.update(given)

    def make() -> str:
        path = f"/keys/bud/{len(KeyVault.keys)}"
        KeyVault.keys[path] = rsa.generate_private_key(65537, 3072)
        return f"{url}{path}"

    yield make
    for name in given:
        del os.environ[name]
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="module")
def softhsm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Make]:
    library = next((path for path in LIBRARIES if Path(path).exists()), None)
    if library is None or shutil.which("softhsm2-util") is None:
        if os.environ.get("CI"):
            pytest.fail("SoftHSM is not here: run `make tools`")
        pytest.skip("NOT RUN: SoftHSM is not on this machine (Debian: softhsm2)")
    import pkcs11  # noqa: PLC0415  after the check, as bud itself

    folder = tmp_path_factory.mktemp("hsm")
    (folder / "tokens").mkdir()
    (folder / "conf").write_text(
        f"directories.tokendir = {folder}/tokens\nobjectstore.backend = file\n"
    )
    os.environ["SOFTHSM2_CONF"] = str(folder / "conf")
    pin = folder / "pin"
    pin.write_text("1234\n")
    pin.chmod(0o600)
    init = ["softhsm2-util", "--init-token", "--free", "--label", "bud"]
    subprocess.run([*init, "--pin", "1234", "--so-pin", "4321"], check=True)
    made: list[str] = []

    def make() -> str:
        made.append(f"vault-{len(made)}")
        token = pkcs11.lib(library).get_token(token_label="bud")
        with token.open(user_pin="1234", rw=True) as session:
            session.generate_keypair(
                pkcs11.KeyType.RSA, 2048, store=True, label=made[-1]
            )
        return (
            f"pkcs11:token=bud;object={made[-1]}?module-path={library}&pin-source={pin}"
        )

    yield make
    del os.environ["SOFTHSM2_CONF"]


@pytest.fixture(params=["aws", "azure", "softhsm"])
def make(request: pytest.FixtureRequest) -> Make:
    found: Make = request.getfixturevalue(request.param)
    return found


def test_a_vault_moves_to_a_key_elsewhere_and_on_to_the_next(
    vault: Vault, make: Make, tmp_path: Path
) -> None:
    vault.put("a", CANARY)
    before = (vault._items / "a.sealed").read_bytes()
    first = make()
    assert vault.rotate(first) == ("a",)
    assert vault.keys.elsewhere == first
    moved = (vault._items / "a.sealed").read_bytes()
    # Wrapped again, and nothing encrypted again: nonce, content and tag as before.
    assert moved[-(12 + len(CANARY) + 16) :] == before[-(12 + len(CANARY) + 16) :]
    assert vault.get("a") == CANARY
    vault.put("b", b"new")

    # What lay under the first key still opens while the second wraps.
    vault.keys.use(make())
    assert (vault.get("a"), vault.get("b")) == (CANARY, b"new")
    vault.rotate(vault.keys.elsewhere)
    assert vault.key_of("a") == vault.key_of("b") == vault.keys.current
    assert vault.verify() == {}
    kept = (f.read_bytes() for f in tmp_path.rglob("*") if f.is_file())
    assert not any(CANARY in content for content in kept)


def test_no_byte_of_what_a_key_elsewhere_sealed_can_change(
    vault: Vault, make: Make
) -> None:
    vault.keys.use(make())
    vault.put("a", CANARY)
    whole = (vault._items / "a.sealed").read_bytes()
    body = 12 + len(CANARY) + 16
    wrapped = range(42, len(whole) - body)
    # Each byte of the wrapped key costs a call of RSA: every sixteenth of them.
    opened = 0
    for i in [*range(42), *wrapped[::16], *range(len(whole) - body, len(whole), 8)]:
        changed = bytearray(whole)
        changed[i] ^= 1 << (i % 8)
        try:
            open_envelope("a", bytes(changed), vault.keys)
            opened += 1
        except PermanentError:
            continue
    assert opened == 0
    # Nor does one item open in the place of another.
    (vault._items / "b.sealed").write_bytes(whole)
    with pytest.raises(PermanentError, match="not as it was sealed"):
        vault.get("b")


def test_a_key_that_is_not_there_never_becomes_the_current_one(
    vault: Vault, make: Make
) -> None:
    vault.put("a", CANARY)
    was, uri = vault.keys.current, make()
    of_token = uri.startswith("pkcs11")
    missing = uri.replace("object=", "object=no-") if of_token else f"{uri}0000"
    with pytest.raises(PermanentError, match="cannot"):
        vault.rotate(missing)
    assert vault.keys.current == was
    assert vault.get("a") == CANARY


def test_a_key_vault_that_does_not_answer_is_waited_for(
    vault: Vault, azure: Make
) -> None:
    made = azure()
    vault.keys.use(made)
    vault.put("a", CANARY)
    file = vault.keys._folder / f"{vault.keys.current}.uri"
    gone = "http://127.0.0.1:1/keys/bud/1"
    with pytest.raises(TemporaryError, match="cannot wrapkey"):
        vault.keys.use(gone)
    # Whoever writes there cannot point an item at a key of theirs.
    file.write_text(gone)
    with pytest.raises(PermanentError, match="names another"):
        vault.get("a")


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "s3://x",
        "arn:aws:kms:us-east-1:1:key/x",
        "https://a.vault.azure.net/keys/no-version",
        "https://a.vault.azure.net.example.org/keys/b/1",
    ],
)
def test_what_is_no_key_is_refused_with_the_forms(vault: Vault, uri: str) -> None:
    with pytest.raises(PermanentError, match="it is no key") as caught:
        vault.keys.use(uri)
    assert "pkcs11:" in caught.value.hint
