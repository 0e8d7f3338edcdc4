"""A kubeconfig for a person, good for minutes (pure).

EKS takes as a token a signed URL that asks AWS "who am I"; whoever holds the
credentials can sign one, and it ends by itself. AKS has no local accounts: there a
person logs in, and the kubeconfig only says where. Nothing here is ever stored.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Mapping
from datetime import datetime
from typing import Any
from urllib.parse import quote, urlencode

from schemas.errors import PermanentError

__all__ = ["eks_kubeconfig", "eks_token"]

_EXPIRES_S = 60
"""Of the URL, as aws-iam-authenticator signs it. EKS itself takes the token for 15
minutes from the time of signing."""


def eks_token(
    cluster: str, region: str, credentials: Mapping[str, str], now: datetime
) -> str:
    """Sign a token for ``cluster``; ``now`` is in UTC.

    Raises:
        PermanentError: the credentials are a role or a profile, not a key pair.
    """
    try:
        key, secret = (
            credentials["AWS_ACCESS_KEY_ID"],
            credentials["AWS_SECRET_ACCESS_KEY"],
        )
    except KeyError as error:
        raise PermanentError(
            f"cannot sign a token for {cluster}: its credentials hold no key pair",
            hint=f"use `aws eks update-kubeconfig --name {cluster} --region {region}`",
        ) from error
    host, stamp = f"sts.{region}.amazonaws.com", now.strftime("%Y%m%dT%H%M%SZ")
    scope = f"{stamp[:8]}/{region}/sts/aws4_request"
    query = {
        "Action": "GetCallerIdentity",
        "Version": "2011-06-15",
        "X-Amz-Algorithm": "AWS4-HMAC-SHA256",
        "X-Amz-Credential": f"{key}/{scope}",
        "X-Amz-Date": stamp,
        "X-Amz-Expires": str(_EXPIRES_S),
        "X-Amz-SignedHeaders": "host;x-k8s-aws-id",
    }
    if token := credentials.get("AWS_SESSION_TOKEN"):
        query["X-Amz-Security-Token"] = token
    asked = urlencode(sorted(query.items()), quote_via=quote, safe="")
    # Signature Version 4: the request in canonical form, then a chain of keys.
    request = (
        f"GET\n/\n{asked}\nhost:{host}\nx-k8s-aws-id:{cluster}\n\n"
        f"host;x-k8s-aws-id\n{hashlib.sha256(b'').hexdigest()}"
    )
    digest = hashlib.sha256(request.encode()).hexdigest()
    signing = f"AWS4{secret}".encode()
    for part in scope.split("/"):
        signing = _hmac(signing, part)
    signature = _hmac(signing, f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{digest}").hex()
    url = f"https://{host}/?{asked}&X-Amz-Signature={signature}"
    return f"k8s-aws-v1.{base64.urlsafe_b64encode(url.encode()).decode().rstrip('=')}"


def eks_kubeconfig(cluster: Mapping[str, Any], token: str) -> dict[str, Any]:
    """The kubeconfig of the module's output ``cluster``, with ``token``."""
    name = cluster["name"]
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [
            {
                "name": name,
                "cluster": {
                    "server": cluster["endpoint"],
                    "certificate-authority-data": cluster["certificate_authority"],
                },
            }
        ],
        "users": [{"name": name, "user": {"token": token}}],
        "contexts": [{"name": name, "context": {"cluster": name, "user": name}}],
        "current-context": name,
    }


def _hmac(key: bytes, text: str) -> bytes:
    return hmac.new(key, text.encode(), hashlib.sha256).digest()
