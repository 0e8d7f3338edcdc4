"""Tokens of Microsoft Entra, for a service of Azure (I/O: network).

Clusters on AKS and keys in a Key Vault are asked with one. The identity is named by
the variables that Terraform's provider reads: a secret, a federated token, or the
identity of the machine. Nothing here is ever stored.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import aiohttp

from schemas.errors import PermanentError, TemporaryError

__all__ = ["AUTHORITY", "entra_token"]

AUTHORITY = "https://login.microsoftonline.com"
# Where a virtual machine of Azure asks for a token of its own identity.
_METADATA = "http://169.254.169.254/metadata/identity/oauth2/token"
_TIMEOUT_S = 30.0


async def entra_token(
    credentials: Mapping[str, str], audience: str, authority: str = AUTHORITY
) -> str:
    """A token for ``audience``, of the identity that ``credentials`` name.

    Raises:
        PermanentError: Entra refuses it, or it is named by a certificate.
        TemporaryError: Entra does not answer.
    """
    url, query, form = (
        _METADATA,
        {"api-version": "2018-02-01", "resource": audience},
        None,
    )
    if credentials.get("ARM_USE_MSI", "").lower() != "true":
        url = f"{authority}/{credentials.get('ARM_TENANT_ID', '')}/oauth2/v2.0/token"
        query, form = {}, _form(credentials, audience)
    try:
        async with (
            aiohttp.ClientSession(
                timeout=aiohttp.ClientTimeout(total=_TIMEOUT_S)
            ) as session,
            session.request(
                "POST" if form else "GET",
                url,
                params=query,
                data=form,
                headers={"Metadata": "true"} if form is None else {},
            ) as response,
        ):
            answer = await response.json(content_type=None)
    except (aiohttp.ClientError, TimeoutError, ValueError) as error:
        raise TemporaryError(f"cannot ask Entra for a token: {error}") from error
    if "access_token" not in answer:
        # Its error code, which names no secret; the description can quote the request.
        raise PermanentError(
            f"cannot get a token from Entra: {answer.get('error', 'no reason')}",
            hint="renew the credentials of that identity",
        )
    return str(answer["access_token"])


def _form(held: Mapping[str, str], audience: str) -> dict[str, str]:
    form = {
        "grant_type": "client_credentials",
        "client_id": held.get("ARM_CLIENT_ID", ""),
        "scope": f"{audience}/.default",
    }
    if "ARM_CLIENT_SECRET" in held:
        return form | {"client_secret": held["ARM_CLIENT_SECRET"]}
    if "ARM_OIDC_TOKEN_FILE_PATH" in held:
        token = Path(held["ARM_OIDC_TOKEN_FILE_PATH"]).read_text(encoding="utf-8")
        kind = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
        return form | {"client_assertion_type": kind, "client_assertion": token.strip()}
    raise PermanentError(
        "cannot get a token from Entra: the credentials hold no secret and no token file",
        hint="use ARM_CLIENT_SECRET, ARM_OIDC_TOKEN_FILE_PATH or ARM_USE_MSI",
    )
