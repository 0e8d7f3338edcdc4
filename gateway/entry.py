"""Who a client is and what may answer it: the same for both sides of the port.

Called by the edge for what is hot and by the aiohttp application for the rest,
so that no path has rules of its own. Values in, values out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from http import HTTPStatus

from gateway.openai import BadRequest, Op
from gateway.snapshot import Key, Route, Snapshot

__all__ = ["NO_KEY", "key_of", "request_id_of", "route_of", "trace_lines"]

_REQUEST_ID = re.compile(rb"[!-~]{1,128}")
NO_KEY = "the API key is missing or not valid"


def key_of(
    snapshot: Snapshot, fields: Mapping[bytes, bytes], *, now: float
) -> Key | None:
    """Find whose key a head carries; ``fields`` by lower-case name."""
    given = fields.get(b"authorization")
    if given is None:
        # As Anthropic's clients do it.
        given = b"bearer " + fields.get(b"x-api-key", b"")
    scheme, _, secret = given.partition(b" ")
    if scheme.lower() != b"bearer" or not secret:
        return None
    return snapshot.key_for(secret.strip(), now=now)


def route_of(key: Key, model: str, op: Op | None = None) -> Route:
    """Find what answers for a model, and can do what is asked.

    Raises:
        BadRequest: the key may not use it, or it cannot do that.
    """
    route = key.routes.get(model)
    if route is None:
        raise BadRequest(
            f"the model {model!r} does not exist or this key may not use it",
            param="model",
            code="model_not_found",
            status=HTTPStatus.NOT_FOUND,
        )
    if op is not None and op not in route.ops:
        raise BadRequest(
            f"the model {model!r} is not served for {op}",
            param="model",
            code="unsupported_operation",
        )
    return route


def request_id_of(fields: Mapping[bytes, bytes]) -> bytes | None:
    """Take the client's own id of a request, if it can stand in a head."""
    given = fields.get(b"x-request-id")
    return given if given is not None and _REQUEST_ID.fullmatch(given) else None


def trace_lines(fields: Mapping[bytes, bytes]) -> bytes:
    """Pass the W3C trace context on: the upstream's spans join the client's."""
    return b"".join(
        b"%b: %b\r\n" % (name, fields[name])
        for name in (b"traceparent", b"tracestate")
        if name in fields
    )
