"""A token for a cluster on EKS: a signed URL that asks AWS "who am I" (I/O: network).

``Tokens`` asks for one. It is signed here, by whoever holds the credentials; AWS is
asked only where a role must be assumed first.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping

from botocore.exceptions import BotoCoreError, ClientError

from reconciler.targets.terraform.aws import clients
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
        client = clients(credentials, region, endpoint)("sts")
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
