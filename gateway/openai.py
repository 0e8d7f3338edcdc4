"""The OpenAI surface: paths, errors, model lists, and what a request asks for.

Called by the edge before a request is routed and by the exchange to write what
goes upstream. Bytes in, bytes out; fields it does not know pass untouched.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from http import HTTPStatus
from typing import Any, Literal, NamedTuple, Protocol, TypeAlias

import orjson

from schemas.gateway import Capability

__all__ = [
    "HELD_BYTES",
    "HOT_PATHS",
    "STATELESS",
    "UPLOADS",
    "WRITES_TOKENS",
    "BadRequest",
    "Op",
    "Request",
    "Source",
    "error_body",
    "model_body",
    "models_body",
    "read_object",
    "read_request",
    "request_of",
    "upstream_body",
    "upstream_path",
]


Op: TypeAlias = Capability
"""What an upstream can be asked to do."""

PATH_OF: dict[Op, bytes] = {
    "chat": b"/v1/chat/completions",
    "completions": b"/v1/completions",
    "embeddings": b"/v1/embeddings",
    "responses": b"/v1/responses",
    "moderations": b"/v1/moderations",
    "rerank": b"/v1/rerank",
    "score": b"/v1/score",
    "images": b"/v1/images/generations",
    "image-edits": b"/v1/images/edits",
    "image-variations": b"/v1/images/variations",
    "speech": b"/v1/audio/speech",
    "transcriptions": b"/v1/audio/transcriptions",
    "translations": b"/v1/audio/translations",
    "realtime": b"/v1/realtime",
    # vLLM serves these beside /v1, and its clients ask for them there.
    "classify": b"/classify",
    "tokenize": b"/tokenize",
    "detokenize": b"/detokenize",
}
UPLOADS: frozenset[Op] = frozenset(
    {"image-edits", "image-variations", "transcriptions", "translations"}
)
"""Forms with a file in them."""
_COLD: frozenset[Op] = UPLOADS | {"responses", "realtime"}
HOT_PATHS: dict[bytes, Op] = {
    path: op for op, path in PATH_OF.items() if op not in _COLD
}
"""What the raw edge answers itself."""
HELD_BYTES = 1 << 20
"""A body that says it is larger is not held in memory."""
STREAMING: frozenset[Op] = frozenset({"chat", "completions", "responses"})
WRITES_TOKENS: frozenset[Op] = STREAMING | {"embeddings", "realtime"}
"""Where an answer without a usage object still cost something."""
STATELESS: frozenset[Op] = frozenset(
    {
        "chat",
        "completions",
        "embeddings",
        "moderations",
        "rerank",
        "score",
        "classify",
        "tokenize",
        "detokenize",
    }
)
"""Computes an answer and leaves nothing behind: it may be asked twice, or kept. Not the
Responses API, whose answers have an identity and whose upstreams may run tools."""
_USAGE_ON_REQUEST: frozenset[Op] = frozenset({"chat", "completions"})


def upstream_path(prefix: bytes, op: Op) -> bytes:
    """Join an upstream's base, such as ``/v1``, and what is asked of it."""
    path = PATH_OF[op]
    if path.startswith(b"/v1/"):
        return prefix + path.removeprefix(b"/v1")
    return prefix.removesuffix(b"/v1") + path


# OpenAI's words for the class of an error, by status.
_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}


Client: TypeAlias = Literal["openai", "anthropic", "responses"]


class BadRequest(Exception):
    """The client's request is wrong in a way that only the client can mend."""

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        status: HTTPStatus = HTTPStatus.BAD_REQUEST,
    ) -> None:
        super().__init__(message)
        self.param, self.code, self.status = param, code, status


class Source(Protocol):
    """A body that is not held in memory: read anew for each try."""

    kind: str
    """Its content type."""

    def length(self, model: str) -> int | None:
        """Count its bytes; None: they are still coming."""
        ...

    def read(self, model: str) -> AsyncIterator[bytes]:
        """Give it in pieces, for an upstream that knows the model by this name."""
        ...


_FLAG = (bool, type(None))


class Request(NamedTuple):
    """A request's body and the few fields that decide about it."""

    op: Op
    raw: bytes
    document: dict[str, Any]
    model: str
    stream: bool
    wants_usage: bool
    """The client itself asked for a usage chunk at the end of the stream."""
    client: Client = "openai"
    """The API that the client speaks; ``document`` is always OpenAI's."""
    source: Source | None = None
    """What is sent instead of ``raw``; ``document`` then holds what is small."""
    echo: dict[str, Any] | None = None
    """What an answer to a client of the Responses API repeats of its request."""


def read_object(raw: bytes) -> dict[str, Any]:
    """Read a body.

    Raises:
        BadRequest: not a JSON object.
    """
    try:
        document = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise BadRequest(f"cannot read the body as JSON: {error}") from error
    if not isinstance(document, dict):
        raise BadRequest("cannot read the body: it is not a JSON object")
    return document


def read_request(op: Op, raw: bytes) -> Request:
    """Read what routing needs.

    Raises:
        BadRequest: not a JSON object, or no model in it.
    """
    return request_of(op, raw, read_object(raw))


def request_of(
    op: Op, raw: bytes, document: dict[str, Any], *, client: Client = "openai"
) -> Request:
    """Check the fields that decide about a request.

    Raises:
        BadRequest: one of them is not what it must be.
    """
    model = document.get("model")
    if not isinstance(model, str) or not model:
        raise BadRequest("cannot choose a model: `model` is missing", param="model")
    stream = document.get("stream")
    if not isinstance(stream, _FLAG):
        raise BadRequest("cannot read `stream`: it is not a boolean", param="stream")
    options = document.get("stream_options")
    if options is not None and not isinstance(options, dict):
        raise BadRequest(
            "cannot read `stream_options`: it is not an object", param="stream_options"
        )
    return Request(
        op,
        raw,
        document,
        model,
        bool(stream) and op in STREAMING,
        # Anthropic's clients are always told; they find it in their own events.
        client == "anthropic" or bool(options and options.get("include_usage")),
        client,
    )


def upstream_body(request: Request, model: str | None) -> bytes:
    """Write the body for an upstream that knows the model as ``model``.

    A stream is always asked for its usage, so that it can be accounted for; the
    chunk that brings it is taken out again when the client did not ask.
    """
    changes: dict[str, Any] = {}
    if model is not None and model != request.model:
        changes["model"] = model
    options = request.document.get("stream_options") or {}
    if (
        request.stream
        and request.op in _USAGE_ON_REQUEST
        and not options.get("include_usage")
    ):
        changes["stream_options"] = {**options, "include_usage": True}
    return orjson.dumps({**request.document, **changes}) if changes else request.raw


def error_body(
    status: int,
    message: str,
    *,
    code: str | None = None,
    param: str | None = None,
) -> bytes:
    """Write an error the way OpenAI's clients read it."""
    fallback = (
        "server_error"
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR
        else "invalid_request_error"
    )
    return orjson.dumps(
        {
            "error": {
                "message": message,
                "type": _TYPES.get(status, fallback),
                "param": param,
                "code": code,
            }
        }
    )


def model_body(name: str, owner: str) -> dict[str, Any]:
    # OpenAI's `created` is when a model was trained, which a gateway cannot
    # know; clients need the field to be there.
    return {"id": name, "object": "model", "created": 0, "owned_by": owner}


def models_body(models: Iterable[tuple[str, str]]) -> bytes:
    """Write the list of (public name, owner)."""
    data = [model_body(name, owner) for name, owner in models]
    return orjson.dumps({"object": "list", "data": data})
