"""A key in AWS KMS (I/O: network).

An asymmetric one, RSA_4096 for ENCRYPT_DECRYPT. The identity is this process' own, as
AWS' libraries find it; the endpoint is AWS_ENDPOINT_URL where that is set.
"""

from __future__ import annotations

import botocore.session
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from schemas.errors import FoundryError, PermanentError, TemporaryError

__all__ = ["AwsKey"]

_OAEP = "RSAES_OAEP_SHA_256"
_WAIT = Config(connect_timeout=10, read_timeout=20, retries={"total_max_attempts": 3})
# What KMS answers when the same request may pass later.
_LATER = frozenset(
    {"DependencyTimeoutException", "KMSInternalException", "ThrottlingException"}
)


class AwsKey:
    def __init__(self, arn: str) -> None:
        self._arn = arn
        self._client = botocore.session.Session().create_client(
            "kms", region_name=arn.split(":")[3], config=_WAIT
        )

    def wrap(self, data_key: bytes) -> bytes:
        return self._ask("encrypt", "CiphertextBlob", Plaintext=data_key)

    def unwrap(self, wrapped: bytes) -> bytes:
        return self._ask("decrypt", "Plaintext", CiphertextBlob=wrapped)

    def _ask(self, verb: str, answer: str, **given: bytes) -> bytes:
        ask = getattr(self._client, verb)
        try:
            done = ask(KeyId=self._arn, EncryptionAlgorithm=_OAEP, **given)
        except (BotoCoreError, ClientError) as error:
            raise _refused(verb, self._arn, error) from error
        return bytes(done[answer])


def _refused(verb: str, arn: str, error: BotoCoreError | ClientError) -> FoundryError:
    if not isinstance(error, ClientError):
        return TemporaryError(f"cannot {verb} with {arn}: {error}")
    code = error.response.get("Error", {}).get("Code", "no reason")
    if code in _LATER:
        return TemporaryError(f"cannot {verb} with {arn}: {code}")
    return PermanentError(
        f"cannot {verb} with {arn}: {code}",
        hint="an RSA_4096 key for ENCRYPT_DECRYPT, with kms:Encrypt and kms:Decrypt",
    )
