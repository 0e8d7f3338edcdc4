"""Which translations stand between one client and one upstream.

Called by the exchange for each try; None everywhere means that bytes pass.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

from gateway.dialects import (
    StreamTranslator,
    anthropic_client,
    anthropic_upstream,
    responses_client,
)
from gateway.openai import Client, Request, error_body, upstream_body
from gateway.snapshot import Target

__all__ = ["Translation", "body_for", "error_for", "translation"]

Whole: TypeAlias = Callable[[bytes, int], bytes]


class Translation(NamedTuple):
    """From the upstream to OpenAI's shape, and from there to the client."""

    inward: Whole | None = None
    inward_events: StreamTranslator | None = None
    outward: Whole | None = None
    outward_events: StreamTranslator | None = None
    client: Client = "openai"


PLAIN = Translation()


def body_for(request: Request, target: Target) -> bytes:
    """Write the body for an upstream.

    Raises:
        BadRequest: the upstream's dialect cannot say it.
    """
    if target.upstream.dialect == "anthropic":
        model = target.model or request.model
        return anthropic_upstream.request(request.document, model)
    return upstream_body(request, target.model)


def translation(request: Request, target: Target) -> Translation:
    """Give fresh translators for one answer."""
    foreign = target.upstream.dialect == "anthropic"
    if not foreign and request.client == "openai":
        return PLAIN
    return Translation(
        anthropic_upstream.answer if foreign else None,
        anthropic_upstream.AnthropicEvents() if foreign else None,
        *_outward(request),
        request.client,
    )


def _outward(request: Request) -> tuple[Whole | None, StreamTranslator | None]:
    if request.client == "anthropic":
        return anthropic_client.answer, anthropic_client.MessageEvents()
    if request.echo is not None:
        whole = functools.partial(responses_client.answer, echo=request.echo)
        return whole, responses_client.ResponseEvents(request.echo)
    return None, None


def error_for(
    client: Client,
    status: int,
    message: str,
    *,
    code: str | None = None,
    param: str | None = None,
) -> bytes:
    """Write an error of our own in the client's shape."""
    if client == "anthropic":
        return anthropic_client.error_body(status, message)
    return error_body(status, message, code=code, param=param)
