"""Which translations stand between one client and one upstream.

Called by the exchange for each try; None everywhere means that bytes pass.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

from gateway.dialects import StreamTranslator, anthropic_client, responses_client
from gateway.dialects.registry import DIALECTS
from gateway.dialects.sigv4 import sign
from gateway.openai import BadRequest, Client, Request, error_body
from gateway.snapshot import Choice, Target

__all__ = ["Translation", "body_for", "error_for", "head_for", "translation"]

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
    """Write the body for an upstream that speaks another API than OpenAI's.

    Raises:
        BadRequest: the upstream's dialect cannot say it.
    """
    way = DIALECTS[target.upstream.dialect].ways[request.op]
    try:
        return way.request(request.document, target.model or request.model)
    except (AttributeError, KeyError, TypeError) as error:
        raise BadRequest(
            f"cannot read the body: it is not in the shape of a {request.op} request"
        ) from error


def head_for(request: Request, choice: Choice, body: bytes, *, now: float) -> bytes:
    """Write the start of a head; ``now`` in seconds since the epoch."""
    upstream = choice.target.upstream
    dialect = DIALECTS[upstream.dialect]
    model = choice.target.model or request.model
    below = dialect.ways[request.op].target(model, stream=request.stream)
    path = choice.address.prefix.decode() + below
    line = b"POST %b HTTP/1.1\r\n%b" % (path.encode(), choice.head)
    if upstream.signing is None:
        return line
    secret, region = upstream.signing
    host = choice.address.authority.decode()
    return line + sign(secret, region=region, host=host, path=path, body=body, now=now)


def translation(request: Request, target: Target) -> Translation:
    """Give fresh translators for one answer."""
    dialect = DIALECTS.get(target.upstream.dialect)
    if dialect is None and request.client == "openai":
        return PLAIN
    way = None if dialect is None else dialect.ways[request.op]
    return Translation(
        None if way is None else way.answer,
        None if way is None or way.events is None else way.events(),
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
