"""The OpenAPI document of the clients' surface, written from the table of operations.

Served at ``/openapi.json`` and printed by ``bud gateway openapi``. It asks of a
request what the gateway itself does, and no more: other fields are the upstream's
to judge and pass untouched. Values only.
"""

from __future__ import annotations

from typing import Any

from gateway.batch import ENDPOINTS
from gateway.operations import OPERATIONS, Operation

__all__ = ["document"]

_TEXT = {"type": "string"}
_COUNT = {"type": "integer", "minimum": 0}
_JSON = "application/json"
_ALWAYS = ("400", "401", "404")
_WITH_BODY = ("408", "413", "415")
# An upstream may say anything else as well; what we keep ourselves may not.
_FROM_UPSTREAMS = ("429", "502", "503", "504", "4XX", "5XX")
_FROM_STORE = ("409", "501")
_STORED = ("/v1/files", "/v1/batches", "/v1/responses/")
_BYTES = frozenset({"speech", "content"})
_QUERY: dict[str, dict[str, Any]] = {
    "after": _TEXT,
    "model": {"type": "string", "minLength": 1},
    "limit": {"type": "integer", "minimum": 1, "maximum": 10_000},
    "order": {"enum": ["asc", "desc"]},
    "purpose": _TEXT,
}


def _object(required: dict[str, Any], **optional: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "required": [*required],
        "properties": {**required, **optional},
    }


def _or_null(schema: dict[str, Any]) -> dict[str, Any]:
    return {"anyOf": [schema, {"type": "null"}]}


_NAME = {"type": "string", "minLength": 1}
_FLAG = _or_null({"type": "boolean"})
_TURN = _object({"role": {"enum": ["user", "assistant", "system"]}, "content": _TEXT})
_TURNS = {"type": "array", "items": _TURN}
_ITEMS = {"type": "array", "items": {"type": "object"}}
_PURPOSE = {
    "enum": ["assistants", "batch", "evals", "fine-tune", "user_data", "vision"]
}
_FILE = {"type": "string", "format": "binary"}
_PLAIN_NAMES = {"propertyNames": {"pattern": r"^[A-Za-z0-9_.\[\]-]{1,64}$"}}
"""Of a form's fields, which stand in a head there."""
_SCHEMAS: dict[str, dict[str, Any]] = {
    "ModelRequest": _object(
        {"model": _NAME}, stream=_FLAG, stream_options=_or_null({"type": "object"})
    ),
    "UploadRequest": _object({"model": _NAME}, file=_FILE) | _PLAIN_NAMES,
    "MessagesRequest": _object({"model": _NAME, "messages": _TURNS}, stream=_FLAG),
    "CountRequest": _object({"model": _NAME, "messages": _TURNS}),
    "ResponseRequest": _object(
        {"model": _NAME, "input": _TEXT}, stream=_FLAG, instructions=_or_null(_TEXT)
    ),
    "FileRequest": _object({"file": _FILE, "purpose": _PURPOSE}) | _PLAIN_NAMES,
    "BatchRequest": _object(
        {
            "input_file_id": _NAME,
            "endpoint": {"enum": [*ENDPOINTS]},
            "completion_window": {"const": "24h"},
        },
        metadata=_or_null(
            {
                "type": "object",
                "maxProperties": 16,
                "additionalProperties": _TEXT,
            }
        ),
    ),
    "TokenCount": _object({"input_tokens": _COUNT}),
    "Model": _object(
        {
            "id": _NAME,
            "object": {"const": "model"},
            "created": _COUNT,
            "owned_by": _TEXT,
        }
    ),
    "ModelList": _object(
        {
            "object": {"const": "list"},
            "data": {"type": "array", "items": {"$ref": "#/components/schemas/Model"}},
        }
    ),
    "Page": _object(
        {
            "object": {"const": "list"},
            "data": _ITEMS,
            "first_id": _or_null(_TEXT),
            "last_id": _or_null(_TEXT),
            "has_more": {"type": "boolean"},
        }
    ),
    "File": _object(
        {
            "id": _NAME,
            "object": {"const": "file"},
            "bytes": _COUNT,
            "created_at": _COUNT,
            "filename": _TEXT,
            "purpose": _PURPOSE,
        }
    ),
    "Batch": _object(
        {
            "id": _NAME,
            "object": {"const": "batch"},
            "endpoint": _TEXT,
            "input_file_id": _NAME,
            "status": _NAME,
            "created_at": _COUNT,
            "request_counts": _object(
                dict.fromkeys(("total", "completed", "failed"), _COUNT)
            ),
        }
    ),
    "Response": _object(
        {
            "id": _NAME,
            "object": {"const": "response"},
            "status": _NAME,
            "created_at": _COUNT,
            "model": _NAME,
            "output": _ITEMS,
        }
    ),
    "Deleted": _object({"id": _NAME, "object": _NAME, "deleted": {"type": "boolean"}}),
    "Error": _object(
        {"error": _object({"message": _TEXT, "type": _TEXT}, code={}, param={})}
    ),
}


def document() -> dict[str, Any]:
    paths: dict[str, dict[str, Any]] = {}
    for operation in OPERATIONS:
        method = operation.method.lower()
        paths.setdefault(operation.path, {})[method] = _described(operation)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Bud gateway",
            "version": "1",
            "description": "The OpenAI API, in front of what was deployed.",
        },
        "paths": paths,
        "security": [{"key": []}, {"anthropic": []}],
        "components": {
            "schemas": _SCHEMAS,
            "responses": {
                "Error": {
                    "description": "Why not",
                    "content": {_JSON: {"schema": _schema("Error")}},
                }
            },
            "securitySchemes": {
                "key": {"type": "http", "scheme": "bearer"},
                "anthropic": {"type": "apiKey", "in": "header", "name": "x-api-key"},
            },
        },
    }


def _described(operation: Operation) -> dict[str, Any]:
    named = [part[1:-1] for part in operation.path.split("/") if part[:1] == "{"]
    described: dict[str, Any] = {
        "operationId": operation.id,
        "summary": operation.summary,
        "parameters": [
            *(
                {"name": name, "in": "path", "required": True, "schema": _NAME}
                for name in named
            ),
            *(
                {"name": name, "in": "query", "schema": _QUERY[name]}
                for name in operation.query
            ),
        ],
        "responses": _answers(operation),
    }
    if operation.body is not None:
        kind = "multipart/form-data" if operation.form else _JSON
        described["requestBody"] = {
            "required": True,
            "content": {kind: {"schema": _schema(operation.body)}},
        }
    return described


def _answers(operation: Operation) -> dict[str, Any]:
    good: dict[str, Any] = {_JSON: {}}
    if operation.answer is not None:
        good = {_JSON: {"schema": _schema(operation.answer)}}
    elif operation.id in _BYTES:
        good = {"*/*": {}}
    if operation.upstream and operation.answer is None:
        good = {**good, "text/event-stream": {}}
    refusals: tuple[str, ...] = _ALWAYS
    if operation.body is not None:
        refusals += _WITH_BODY
    if operation.upstream:
        refusals += _FROM_UPSTREAMS
    elif operation.path.startswith(_STORED):
        refusals += _FROM_STORE
    # What was made here can be looked at and deleted by the id that it was given;
    # not everything can be cancelled.
    links = {
        other.id: {"operationId": other.id, "parameters": {"id": "$response.body#/id"}}
        for other in OPERATIONS
        if other.path.startswith(operation.path + "/{id}") and other.method != "POST"
    }
    return {
        "200": {"description": "Done", "content": good, "links": links},
        **{code: {"$ref": "#/components/responses/Error"} for code in refusals},
    }


def _schema(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}
