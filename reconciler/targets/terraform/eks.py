"""A token for a cluster on EKS: a signed URL that asks AWS "who am I" (I/O: network).

``Tokens`` asks for one. It is signed here, by whoever holds the credentials; AWS is
asked only where a role must be assumed first.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import botocore.session
from botocore import UNSIGNED
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from schemas.errors import PermanentError

__all__ = ["eks_token"]

_EXPIRES_S = 60
"""Of the URL itself, as aws-iam-authenticator signs it."""


def eks_token(
    cluster: str, region: str, credentials: Mapping[str, str], endpoint: str = ""
) -> str:
    """Sign a token for ``cluster``. Blocking: a role may have to be assumed.

    ``credentials`` are the variables that the AWS provider reads; without any, this
    machine's own identity signs. ``endpoint`` is STS where it is not AWS' own.

    Raises:
        PermanentError: there are no credentials, or AWS refuses them.
    """
    try:
        client = _sts(credentials, region, endpoint)
        # EKS takes no token that is not signed for one cluster.
        client.meta.events.register(
            "before-sign.sts.GetCallerIdentity",
            lambda request, **_: request.headers.add_header("x-k8s-aws-id", cluster),
        )
        url = client.generate_presigned_url(
            "get_caller_identity", ExpiresIn=_EXPIRES_S, HttpMethod="GET"
        )
    except (BotoCoreError, ClientError) as error:
        raise PermanentError(
            f"cannot sign a token for {cluster}: {error}",
            hint="renew what the cluster's spec.credentials refers to",
        ) from error
    signed = base64.urlsafe_b64encode(url.encode()).decode().rstrip("=")
    return f"k8s-aws-v1.{signed}"


def _sts(held: Mapping[str, str], region: str, endpoint: str) -> Any:
    """STS for whoever signs: a key pair, a web identity, a profile, this machine."""
    session = botocore.session.Session()
    for name, variable in (
        ("profile", "AWS_PROFILE"),
        ("config_file", "AWS_CONFIG_FILE"),
        ("credentials_file", "AWS_SHARED_CREDENTIALS_FILE"),
    ):
        if variable in held:
            session.set_config_variable(name, held[variable])
    sts = partial(
        session.create_client, "sts", region_name=region, endpoint_url=endpoint or None
    )
    if "AWS_SECRET_ACCESS_KEY" in held:
        return sts(
            aws_access_key_id=held["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=held["AWS_SECRET_ACCESS_KEY"],
            aws_session_token=held.get("AWS_SESSION_TOKEN"),
        )
    if "AWS_WEB_IDENTITY_TOKEN_FILE" in held:
        file = Path(held["AWS_WEB_IDENTITY_TOKEN_FILE"])
        given = sts(
            config=Config(signature_version=UNSIGNED)
        ).assume_role_with_web_identity(
            RoleArn=held["AWS_ROLE_ARN"],
            RoleSessionName=held.get("AWS_ROLE_SESSION_NAME", "bud"),
            WebIdentityToken=file.read_text(encoding="utf-8"),
        )["Credentials"]
        return sts(
            aws_access_key_id=given["AccessKeyId"],
            aws_secret_access_key=given["SecretAccessKey"],
            aws_session_token=given["SessionToken"],
        )
    return sts()
