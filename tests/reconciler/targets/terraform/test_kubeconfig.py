"""A token that AWS' own library would sign, and nothing that lasts."""

import base64
from datetime import UTC, datetime
from unittest.mock import patch
from urllib.parse import parse_qs, urlsplit

import botocore.auth
import botocore.session
import pytest
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from reconciler.targets.terraform.kubeconfig import eks_kubeconfig, eks_token
from schemas.errors import PermanentError

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
PAIR = {"AWS_ACCESS_KEY_ID": "AKIAEXAMPLE", "AWS_SECRET_ACCESS_KEY": "s/e+c=ret"}


def url_of(token: str) -> str:
    assert token.startswith("k8s-aws-v1.")
    text = token.removeprefix("k8s-aws-v1.")
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)).decode()


@pytest.mark.parametrize("session", [None, "to/ken+="])
def test_the_signature_is_the_one_that_botocore_makes(session: str | None) -> None:
    credentials = PAIR | ({"AWS_SESSION_TOKEN": session} if session else {})
    ours = url_of(eks_token("prod", "eu-west-1", credentials, NOW))
    request = AWSRequest(
        method="GET",
        url="https://sts.eu-west-1.amazonaws.com/?Action=GetCallerIdentity&Version=2011-06-15",
        headers={"x-k8s-aws-id": "prod"},
    )
    pair = Credentials(
        PAIR["AWS_ACCESS_KEY_ID"], PAIR["AWS_SECRET_ACCESS_KEY"], session
    )
    clock = f"{botocore.auth.__name__}.get_current_datetime"
    with patch(clock, return_value=NOW.replace(tzinfo=None)):
        signer = botocore.auth.SigV4QueryAuth(pair, "sts", "eu-west-1", expires=60)
        signer.add_auth(request)
    theirs = parse_qs(urlsplit(request.url).query)
    # The order of the query differs; AWS sorts it before it checks.
    assert parse_qs(urlsplit(ours).query) == theirs


def test_a_role_says_which_other_way_there_is() -> None:
    with pytest.raises(PermanentError, match="no key pair") as caught:
        eks_token("prod", "eu-west-1", {"AWS_ROLE_ARN": "arn"}, NOW)
    assert "update-kubeconfig" in caught.value.hint


def test_a_kubeconfig_holds_a_token_and_no_program() -> None:
    said = {"name": "prod", "endpoint": "https://x", "certificate_authority": "Q0E="}
    config = eks_kubeconfig(said, "k8s-aws-v1.x")
    assert config["users"] == [{"name": "prod", "user": {"token": "k8s-aws-v1.x"}}]
    assert config["clusters"][0]["cluster"]["server"] == "https://x"
    assert "exec" not in str(config)
