"""Keys that never leave where they are: AWS KMS, Azure Key Vault, PKCS #11 (I/O).

The ring opens one by its URI. Each wraps by RSA-OAEP. None of the three binds a label to
what it wraps, so an item's name is bound by the content's tag alone. Their libraries
are imported when one is asked for.
"""

from __future__ import annotations

import re
from typing import Protocol

from schemas.errors import PermanentError

__all__ = ["FORMS", "RemoteKey", "open_key"]

FORMS = (
    "arn:aws:kms:REGION:ACCOUNT:key/ID, https://VAULT.vault.azure.net/keys/NAME/VERSION, "
    "pkcs11:token=T;object=O?module-path=LIBRARY&pin-source=FILE"
)


class RemoteKey(Protocol):
    def wrap(self, data_key: bytes) -> bytes: ...

    def unwrap(self, wrapped: bytes) -> bytes:
        """Raises:
        PermanentError: this key did not wrap it, or nobody may use it.
        TemporaryError: it does not answer.
        """
        ...


_AWS = re.compile(r"arn:aws[a-z-]*:kms:[a-z0-9-]+:[0-9]{12}:key/[A-Za-z0-9-]+")
# No other host: it is sent a token of ours. A version, because the key that unwraps is
# the one that wrapped.
_AZURE = re.compile(
    r"(https://[a-z0-9-]+\.vault\.azure\.net|http://127\.0\.0\.1:[0-9]+)"
    r"/keys/[A-Za-z0-9-]+/[A-Za-z0-9]+"
)
_PKCS11 = re.compile(r"pkcs11:[^\s?]+\?[^\s]+")


def open_key(uri: str) -> RemoteKey:
    """The key at ``uri``; nothing is asked yet.

    Raises:
        PermanentError: it is none of the forms, or its library is not installed.
    """
    if _AWS.fullmatch(uri):
        from reconciler.secrets.aws_kms import AwsKey  # noqa: PLC0415

        return AwsKey(uri)
    if _AZURE.fullmatch(uri):
        from reconciler.secrets.azure_keys import AzureKey  # noqa: PLC0415

        return AzureKey(uri)
    if _PKCS11.fullmatch(uri):
        from reconciler.secrets.pkcs11_token import TokenKey  # noqa: PLC0415

        return TokenKey(uri)
    raise PermanentError(f"cannot use key {uri!r}: it is no key", hint=f"write {FORMS}")
