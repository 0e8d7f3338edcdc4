"""A key in Azure Key Vault, by its REST interface (I/O: network).

An RSA key; the identity is this process' own, in the variables that Terraform's
provider reads (ARM_CLIENT_ID ...), and needs the permissions wrapKey and unwrapKey.
"""

from __future__ import annotations

import asyncio
import base64
import os
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from typing import Any

import aiohttp

from reconciler.entra import AUTHORITY, entra_token
from schemas.errors import PermanentError, TemporaryError

__all__ = ["AzureKey"]

_VERSION = "7.4"
_TIMEOUT_S = 30.0
_AUDIENCE = "https://vault.azure.net"


class AzureKey:
    def __init__(self, kid: str) -> None:
        self._kid = kid

    def wrap(self, data_key: bytes) -> bytes:
        return self._ask("wrapkey", data_key)

    def unwrap(self, wrapped: bytes) -> bytes:
        return self._ask("unwrapkey", wrapped)

    def _ask(self, verb: str, value: bytes) -> bytes:
        # Whoever opens an item waits for it, and may be on a loop of its own.
        with ThreadPoolExecutor(1) as thread:
            return thread.submit(asyncio.run, self._call(verb, value)).result()

    async def _call(self, verb: str, value: bytes) -> bytes:
        authority = os.environ.get("AZURE_AUTHORITY_HOST", AUTHORITY)
        token = await entra_token(os.environ, _AUDIENCE, authority)
        text = base64.urlsafe_b64encode(value).decode().rstrip("=")
        try:
            async with (
                aiohttp.ClientSession(
                    timeout=aiohttp.ClientTimeout(total=_TIMEOUT_S)
                ) as session,
                session.post(
                    f"{self._kid}/{verb}",
                    params={"api-version": _VERSION},
                    json={"alg": "RSA-OAEP-256", "value": text},
                    headers={"Authorization": f"Bearer {token}"},
                ) as response,
            ):
                status, answer = response.status, await response.json(content_type=None)
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            raise TemporaryError(f"cannot {verb} with {self._kid}: {error}") from error
        if status != HTTPStatus.OK:
            raise self._refused(verb, status, answer)
        found = str(answer["value"])
        return base64.urlsafe_b64decode(found + "=" * (-len(found) % 4))

    def _refused(
        self, verb: str, status: int, answer: Any
    ) -> PermanentError | TemporaryError:
        code = str(answer.get("error", {}).get("code", status))
        said = f"cannot {verb} with {self._kid}: {code}"
        if (
            status == HTTPStatus.TOO_MANY_REQUESTS
            or status >= HTTPStatus.INTERNAL_SERVER_ERROR
        ):
            return TemporaryError(said)
        return PermanentError(said, hint="it needs an RSA key, wrapKey and unwrapKey")
