"""Tokens that a cloud takes, from every kind of credential, and nothing that lasts."""

import base64
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from reconciler.entra import entra_token
from reconciler.targets.terraform.eks import eks_token
from reconciler.targets.terraform.kubeconfig import kubeconfig
from reconciler.targets.terraform.tokens import AKS
from schemas.errors import PermanentError, TemporaryError
from tests.reconciler.targets.terraform.aws import Aws, emulated

PAIR = {"AWS_ACCESS_KEY_ID": "AKIAEXAMPLE", "AWS_SECRET_ACCESS_KEY": "s/e+c=ret"}


def url_of(token: str) -> str:
    assert token.startswith("k8s-aws-v1.")
    text = token.removeprefix("k8s-aws-v1.")
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)).decode()


@pytest.mark.parametrize(
    ("region", "host"),
    [
        ("eu-west-1", "sts.eu-west-1.amazonaws.com"),
        ("cn-north-1", "sts.cn-north-1.amazonaws.com.cn"),
        ("us-gov-west-1", "sts.us-gov-west-1.amazonaws.com"),
    ],
)
def test_a_token_is_a_signed_question_to_the_sts_of_its_region(
    region: str, host: str
) -> None:
    url = urlsplit(url_of(eks_token("prod", region, PAIR)))
    query = {name: value[0] for name, value in parse_qs(url.query).items()}
    assert url.netloc == host
    assert query["Action"] == "GetCallerIdentity"
    # EKS takes no token that is not signed for one cluster.
    assert "x-k8s-aws-id" in query["X-Amz-SignedHeaders"].split(";")
    assert query["X-Amz-Expires"] == "60"
    assert query["X-Amz-Credential"].split("/")[0] == "AKIAEXAMPLE"
    assert PAIR["AWS_SECRET_ACCESS_KEY"] not in url.query


def test_a_profile_of_a_file_signs(tmp_path: Path) -> None:
    file = tmp_path / "credentials"
    file.write_text("[p]\naws_access_key_id = AKIAP\naws_secret_access_key = x\n")
    held = {"AWS_PROFILE": "p", "AWS_SHARED_CREDENTIALS_FILE": str(file)}
    assert "AKIAP" in url_of(eks_token("prod", "eu-west-1", held))


@pytest.fixture
def aws(tmp_path: Path) -> Iterator[Aws]:
    with emulated(tmp_path) as running:
        yield running


@pytest.mark.slow
def test_a_role_is_assumed_by_a_web_identity(aws: Aws, tmp_path: Path) -> None:
    """As a pod of EKS or a job of a CI system has one. STS is emulated here."""
    file = tmp_path / "token"
    file.write_text("e30.e30.e30")
    held = {
        "AWS_ROLE_ARN": "arn:aws:iam::123456789012:role/bud",
        "AWS_WEB_IDENTITY_TOKEN_FILE": str(file),
    }
    query = parse_qs(urlsplit(url_of(eks_token("p", "us-east-1", held, aws.url))).query)
    assert query["X-Amz-Security-Token"]
    assert not query["X-Amz-Credential"][0].startswith("AKIAEXAMPLE")


def test_without_any_credentials_it_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_PROFILE", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(PermanentError, match="cannot sign a token"):
        eks_token("prod", "eu-west-1", {})


@pytest.fixture
async def entra() -> AsyncIterator[TestServer]:
    """Stands for login.microsoftonline.com: only its protocol is Entra's."""

    async def token(request: web.Request) -> web.Response:
        form = await request.post()
        held = form.get("client_secret") or form.get("client_assertion")
        if held != "right" or request.match_info["tenant"] != "t":
            return web.json_response({"error": "invalid_client"}, status=401)
        assert str(form["scope"]).endswith("/.default")
        return web.json_response({"access_token": "entra-token", "expires_in": 3599})

    app = web.Application()
    app.router.add_post("/{tenant}/oauth2/v2.0/token", token)
    async with TestServer(app) as server:
        yield server


async def test_entra_gives_a_token_for_a_secret_or_a_file(
    entra: TestServer, tmp_path: Path
) -> None:
    (tmp_path / "token").write_text("right\n")
    who = {"ARM_TENANT_ID": "t", "ARM_CLIENT_ID": "c"}
    where = str(entra.make_url("")).rstrip("/")
    for way in (
        {"ARM_CLIENT_SECRET": "right"},
        {"ARM_OIDC_TOKEN_FILE_PATH": str(tmp_path / "token")},
    ):
        assert await entra_token(who | way, AKS, where) == "entra-token"
    with pytest.raises(PermanentError, match="invalid_client") as caught:
        await entra_token(who | {"ARM_CLIENT_SECRET": "wr0ng"}, AKS, where)
    assert "wr0ng" not in str(caught.value)
    with pytest.raises(PermanentError, match="no secret and no token file"):
        await entra_token(who, AKS, where)


async def test_an_entra_that_does_not_answer_is_waited_for() -> None:
    held = {"ARM_TENANT_ID": "t", "ARM_CLIENT_SECRET": "x"}
    with pytest.raises(TemporaryError, match="cannot ask Entra"):
        await entra_token(held, AKS, "http://127.0.0.1:1")


def test_a_kubeconfig_holds_no_key_and_no_program() -> None:
    said = {"name": "prod", "endpoint": "https://x", "certificate_authority": "Q0E="}
    config = kubeconfig(said)
    assert config["users"] == [{"name": "prod", "user": {}}]
    assert config["clusters"][0]["cluster"]["server"] == "https://x"
    assert kubeconfig(said, "t")["users"] == [{"name": "prod", "user": {"token": "t"}}]
