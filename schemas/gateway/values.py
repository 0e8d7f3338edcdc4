"""What every table of the gateway's config is written with: names, addresses, secrets.

Used by the tables' modules; holds no table of the file itself.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

import re2
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    model_validator,
)

from schemas.units import Duration, Money

__all__ = [
    "HASH",
    "BaseUrl",
    "Capability",
    "Credential",
    "Dialect",
    "HostPort",
    "KeyHash",
    "Label",
    "Limits",
    "Pattern",
    "Price",
    "PublicModel",
    "Ref",
    "Strategy",
    "Table",
    "Timeouts",
    "hash_key",
]

_LABEL = r"[a-z0-9](?:[-a-z0-9.]{0,61}[a-z0-9])?"
Label = Annotated[str, StringConstraints(pattern=rf"^{_LABEL}$")]
Ref = Annotated[str, StringConstraints(pattern=rf"^{_LABEL}/{_LABEL}$")]
"""``<project>/<name>``: how every table of the config is called."""
PublicModel = Annotated[
    str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/@+-]{0,199}$")
]
"""What a client writes in ``model``."""
HASH = re.compile(r"^(sha256|hmac-sha256):[0-9a-f]{64}$")
KeyHash = Annotated[str, StringConstraints(pattern=HASH.pattern)]
# Plain strings, not an Enum: hashing a member runs Python code in 3.11, and the
# gateway looks these up several times for each request.
Capability = Literal[
    "chat",
    "completions",
    "embeddings",
    "responses",
    "moderations",
    "rerank",
    "score",
    "classify",
    "tokenize",
    "detokenize",
    "images",
    "image-edits",
    "image-variations",
    "speech",
    "transcriptions",
    "translations",
    "realtime",
]
Dialect = Literal["openai", "azure", "anthropic", "gemini", "bedrock", "cohere"]
Strategy = Literal[
    "weighted", "least-load", "least-latency", "prefix-affinity", "sticky", "cost"
]
HostPort = Annotated[str, StringConstraints(pattern=r"^[^\s/@]+:\d{1,5}$")]


def hash_key(key: str, *, pepper: bytes = b"") -> str:
    """Hash an API key the way the config stores it.

    A key is 128 random bits or more, so one SHA-256 cannot be guessed back. A
    pepper ties the hashes to one installation: a leaked config then says
    nothing even about a key that somebody chose by hand.
    """
    data = key.encode()
    if pepper:
        return "hmac-sha256:" + hmac.new(pepper, data, hashlib.sha256).hexdigest()
    return "sha256:" + hashlib.sha256(data).hexdigest()


def _base_url(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError(f"cannot use the address {url!r}: write http://host:port")
    if parts.query or parts.fragment or parts.username is not None:
        raise ValueError(
            f"cannot use the address of {parts.hostname!r}: it carries a user, a "
            "query or a fragment; a secret belongs in `credential`"
        )
    _ = parts.port  # raises ValueError when it is not a port
    return url.rstrip("/")


BaseUrl = Annotated[str, StringConstraints(max_length=2048), AfterValidator(_base_url)]
"""``http://host:port`` (then ``/v1`` is added) or a base that ends in its path."""


def _re2(pattern: str) -> str:
    options = re2.Options()
    options.log_errors = False
    try:
        re2.compile(pattern, options)
    except re2.error as error:
        raise ValueError(
            f"cannot read the pattern {pattern!r}: {error}; RE2's syntax has no "
            "look-around and no back-references"
        ) from error
    return pattern


Pattern = Annotated[str, StringConstraints(min_length=1), AfterValidator(_re2)]
"""A regular expression of RE2, which takes linear time whatever the text."""


class Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Credential(Table):
    """Where a secret is, never what it is: one of the two."""

    env: str | None = Field(default=None, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")
    file: str | None = Field(default=None, min_length=1)

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.env is None) == (self.file is None):
            raise ValueError("cannot read a credential: give either env or file")
        return self


class Timeouts(Table):
    """How long each part of a request may take.

    ``first`` is for streams: from sending a try to its first content event; an
    answer that is not streamed has no byte before its last token, so only
    ``attempt`` and ``total`` bound it. ``stall`` is the longest silence after the
    first byte.
    """

    connect: Duration = Duration("5s")
    first: Duration = Duration("60s")
    stall: Duration = Duration("60s")
    attempt: Duration | None = None
    """A try that has given the client nothing by then is left for another."""
    total: Duration = Duration("600s")  # what the OpenAI clients wait by default


class Limits(Table):
    """What one key, route or project may use; what is absent is not limited.

    A minute's worth of requests or tokens may come at once, and is refilled
    steadily. Tokens and money are reserved before a request runs and settled
    with what it used.
    """

    requests_per_minute: int | None = Field(default=None, ge=1)
    tokens_per_minute: int | None = Field(default=None, ge=1)
    concurrent: int | None = Field(default=None, ge=1)
    budget: Money | None = None
    budget_per: Literal["day", "month"] = "month"
    """Calendar days or months, in UTC."""


class Price(Table):
    """Of a million tokens."""

    input: Money
    output: Money
    cached: Money | None = None
    """Of input that came from the prefix cache; absent: as other input."""
