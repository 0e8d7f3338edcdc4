"""The tables `upstreams`: what answers, and how it is spoken to."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from schemas.gateway.values import (
    BaseUrl,
    Capability,
    Credential,
    Dialect,
    Price,
    Table,
)

__all__ = ["Upstream", "UpstreamTls"]


class UpstreamTls(Table):
    """How an upstream by ``https`` is spoken to; what is absent is as everywhere."""

    ca: Credential | None = None
    """PEM of who may have signed its certificate; absent: the system's authorities."""
    certificate: Credential | None = None
    """PEM, with the chain, that we show it, and ``key``, its key."""
    key: Credential | None = None
    oldest: Literal["1.2", "1.3"] = "1.3"

    @model_validator(mode="after")
    def _pair(self) -> Self:
        if (self.certificate is None) != (self.key is None):
            raise ValueError("cannot show a certificate: give certificate and key")
        return self


class Upstream(Table):
    """Something that answers: an endpoint of ours or a provider's API."""

    dialect: Dialect = "openai"
    """``azure`` is OpenAI's with Azure's way to name a key, for addresses that end
    in ``/openai/v1`` or, with ``api_version``, in ``/openai/deployments/<name>``. The
    others are translated."""
    region: str | None = Field(default=None, pattern=r"^[a-z0-9-]+$")
    """Of Bedrock, where the address does not say it."""
    api_version: str | None = Field(default=None, pattern=r"^[a-z0-9.-]+$")
    """Of Azure's older addresses."""
    model: str | None = Field(default=None, min_length=1)
    """The name it knows the model by; absent: the name the client wrote."""
    urls: tuple[BaseUrl, ...] = ()
    discovered: bool = False
    """Its addresses are in the discovery file, under this table's name."""
    credential: Credential | None = None
    tls: UpstreamTls = UpstreamTls()
    price: Price | None = None
    capabilities: tuple[Capability, ...] = ("chat", "completions", "embeddings")

    @model_validator(mode="after")
    def _reachable(self) -> Self:
        if self.discovered == bool(self.urls):
            raise ValueError("cannot reach it: give either urls or discovered = true")
        return self
