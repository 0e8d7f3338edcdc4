"""Batches as values: what one is, which lines it has, what its results look like.

Called by the handlers that make batches and by the executor that runs them.
Shapes and limits are OpenAI's. Bytes and documents in and out.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import orjson

from gateway.openai import PATH_OF, Op, Request, request_of

__all__ = [
    "ENDPOINTS",
    "MAX_BYTES",
    "MAX_LINES",
    "Line",
    "batch_body",
    "failed_line",
    "moved",
    "read_line",
    "request_from",
    "result_line",
    "scan",
]

_OPS: tuple[Op, ...] = (
    "chat",
    "completions",
    "embeddings",
    "moderations",
    "rerank",
    "score",
    "classify",
)
ENDPOINTS: dict[str, Op] = {PATH_OF[op].decode(): op for op in _OPS}
MAX_LINES = 50_000
MAX_BYTES = 200 << 20
_MAX_ERRORS = 20
"""Told of one file; whoever has more than these has one mistake many times."""
_MAX_ID = 512


class Line(NamedTuple):
    """Where one request of a batch is."""

    custom_id: str
    start: int
    stop: int


def batch_body(
    name: str, given: dict[str, Any], *, now: int, expires_at: int
) -> dict[str, Any]:
    """Describe a batch that has just been asked for."""
    times = (
        "in_progress_at",
        "finalizing_at",
        "completed_at",
        "failed_at",
        "expired_at",
        "cancelling_at",
        "cancelled_at",
    )
    return {
        "id": name,
        "object": "batch",
        "endpoint": given["endpoint"],
        "errors": None,
        "input_file_id": given["input_file_id"],
        "completion_window": given["completion_window"],
        "status": "validating",
        "output_file_id": None,
        "error_file_id": None,
        "created_at": now,
        "expires_at": expires_at,
        **dict.fromkeys(times),
        "request_counts": {"total": 0, "completed": 0, "failed": 0},
        "metadata": given.get("metadata"),
    }


def moved(
    body: dict[str, Any], status: str, *, now: int, **more: Any
) -> dict[str, Any]:
    """Bring a batch to its next status."""
    return {**body, "status": status, f"{status}_at": now, **more}


def scan(
    data: Iterable[bytes], endpoint: str
) -> tuple[list[Line], list[dict[str, Any]]]:
    """Read a file's lines: the requests, and what is wrong with any of them."""
    lines: list[Line] = []
    errors: list[dict[str, Any]] = []
    seen: set[str] = set()
    at = 0
    for number, raw in enumerate(data, 1):
        start, at = at, at + len(raw)
        if not raw.strip():
            continue
        try:
            custom_id = _check(read_line(raw), endpoint, seen)
        except ValueError as error:
            errors.append(_error("invalid_request", str(error), number))
            if len(errors) >= _MAX_ERRORS:
                break
            continue
        seen.add(custom_id)
        lines.append(Line(custom_id, start, at))
        if len(lines) > MAX_LINES:
            errors.append(
                _error("too_many_lines", f"more than {MAX_LINES} requests", number)
            )
            break
    if not lines and not errors:
        errors.append(_error("empty_file", "the file holds no request", None))
    return lines, errors


def read_line(raw: bytes) -> dict[str, Any]:
    """Raises: ValueError: it is no JSON object."""
    document = orjson.loads(raw)
    if not isinstance(document, dict):
        raise ValueError("the line is not a JSON object")  # noqa: TRY004  one class for all
    return document


def _check(document: dict[str, Any], endpoint: str, seen: set[str]) -> str:
    custom_id, body = document.get("custom_id"), document.get("body")
    if not isinstance(custom_id, str) or not 0 < len(custom_id) <= _MAX_ID:
        raise ValueError(f"custom_id {custom_id!r} is not a name")
    if custom_id in seen:
        raise ValueError(f"custom_id {custom_id!r} is there twice")
    if document.get("method") != "POST":
        raise ValueError(f"method {document.get('method')!r} is not POST")
    if document.get("url") != endpoint:
        raise ValueError(f"url {document.get('url')!r} is not the batch's {endpoint}")
    if not isinstance(body, dict) or not isinstance(body.get("model"), str):
        raise ValueError("body is not a request with a model")  # noqa: TRY004  one class for all
    if body.get("stream"):
        raise ValueError("stream cannot be true in a batch")
    return custom_id


def _error(code: str, message: str, line: int | None) -> dict[str, Any]:
    return {"code": code, "message": message, "line": line, "param": None}


def request_from(document: dict[str, Any]) -> Request:
    """Make the request of a checked line.

    Raises:
        BadRequest: its fields are not what they must be.
    """
    body = document["body"]
    return request_of(ENDPOINTS[document["url"]], orjson.dumps(body), body)


def result_line(
    name: str, custom_id: str, *, status: int, request_id: str, body: bytes
) -> bytes:
    """Write what an upstream answered."""
    try:
        said = orjson.loads(body)
    except orjson.JSONDecodeError:
        said = body.decode("utf-8", "replace")
    response = {"status_code": status, "request_id": request_id, "body": said}
    return _line(name, custom_id, response, None)


def failed_line(name: str, custom_id: str, code: str, message: str) -> bytes:
    """Write that a request was never answered, and why."""
    return _line(name, custom_id, None, {"code": code, "message": message})


def _line(
    name: str,
    custom_id: str,
    response: dict[str, Any] | None,
    error: dict[str, Any] | None,
) -> bytes:
    line = {"id": name, "custom_id": custom_id, "response": response, "error": error}
    return orjson.dumps(line) + b"\n"
