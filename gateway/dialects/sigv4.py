"""AWS Signature Version 4 of one request (pure).

As docs.aws.amazon.com describes it; the tests hold it to botocore's. Called for
each try at a Bedrock upstream: the signature covers the body and the minute.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from datetime import UTC, datetime
from urllib.parse import quote

__all__ = ["is_key_pair", "region_of", "sign"]

_REGION = re.compile(r"\.([a-z]{2}(?:-[a-z]+)+-\d)\.")
_PARTS = range(2, 4)


def is_key_pair(secret: str) -> bool:
    """Tell ``id:secret`` or ``id:secret:token`` from one of Bedrock's own keys."""
    return len(secret.split(":")) in _PARTS


def region_of(host: str) -> str | None:
    found = _REGION.search(host)
    return None if found is None else found[1]


def sign(
    secret: str, *, region: str, host: str, path: str, body: bytes, now: float
) -> bytes:
    """Give the lines that sign a POST to Bedrock; ``path`` as it is sent."""
    access, private, *token = secret.split(":")
    when = datetime.fromtimestamp(now, UTC).strftime("%Y%m%dT%H%M%SZ")
    day, scope = when[:8], f"{when[:8]}/{region}/bedrock/aws4_request"
    fields = {"host": host, "x-amz-date": when}
    if token:
        fields["x-amz-security-token"] = token[0]
    names = ";".join(fields)
    canonical = "\n".join(
        [
            "POST",
            quote(path, safe="/~"),
            "",
            *(f"{name}:{value}" for name, value in fields.items()),
            "",
            names,
            hashlib.sha256(body).hexdigest(),
        ]
    )
    digest = hashlib.sha256(canonical.encode()).hexdigest()
    text = f"AWS4-HMAC-SHA256\n{when}\n{scope}\n{digest}"
    key = f"AWS4{private}".encode()
    for part in (day, region, "bedrock", "aws4_request"):
        key = hmac.digest(key, part.encode(), "sha256")
    signature = hmac.digest(key, text.encode(), "sha256").hex()
    fields.pop("host")
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    given = f"AWS4-HMAC-SHA256 Credential={access}/{scope}, "
    given += f"SignedHeaders={names}, Signature={signature}"
    return f"{lines}authorization: {given}\r\n".encode()
