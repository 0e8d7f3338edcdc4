"""The one table of what clients may ask for, and of what is said of it.

The aiohttp application takes its routes from it, `openapi` writes the document
of the surface from it, and the edge's hot paths are those of `openai`. Pure.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from gateway.openai import PATH_OF, UPLOADS, Op

__all__ = ["COUNT_TOKENS", "OPENAPI", "OPERATIONS", "REALTIME", "Operation"]

COUNT_TOKENS = "/v1/messages/count_tokens"
OPENAPI = "/openapi.json"
REALTIME = PATH_OF["realtime"].decode()


class Operation(NamedTuple):
    """One method of one path."""

    id: str
    method: Literal["GET", "POST", "DELETE"]
    path: str
    """Its parameters in braces."""
    summary: str
    body: str | None = None
    """The schema of its JSON or, if ``form``, of its form; None: it has none."""
    answer: str | None = None
    """The schema of what it answers with; None: what the upstream says."""
    query: tuple[str, ...] = ()
    """Names of its query's parameters."""
    form: bool = False
    upstream: bool = False
    """An upstream answers, within the limits of key, project and route."""


_SUMMARIES: dict[Op, str] = {
    "chat": "Answer a conversation",
    "completions": "Go on with a text",
    "embeddings": "Embed texts",
    "moderations": "Judge texts",
    "rerank": "Order documents by a question",
    "score": "Score pairs of texts",
    "classify": "Classify texts",
    "tokenize": "Count and list the tokens of a text or conversation",
    "detokenize": "Write tokens as text",
    "images": "Draw images",
    "image-edits": "Edit images",
    "image-variations": "Vary an image",
    "speech": "Speak a text",
    "transcriptions": "Write down speech",
    "translations": "Write down speech in English",
}
_PAGE = ("after", "limit", "order")


def _asked(op: Op) -> Operation:
    form = op in UPLOADS
    path, summary = PATH_OF[op].decode(), _SUMMARIES[op]
    body = "UploadRequest" if form else "ModelRequest"
    return Operation(op, "POST", path, summary, body, None, (), form, upstream=True)


OPERATIONS: tuple[Operation, ...] = (
    *(_asked(op) for op in _SUMMARIES),
    Operation(
        "messages",
        "POST",
        "/v1/messages",
        "Answer a conversation, as Anthropic's API does",
        "MessagesRequest",
        upstream=True,
    ),
    Operation(
        "count-tokens",
        "POST",
        COUNT_TOKENS,
        "Count the tokens of a conversation, as Anthropic's API does",
        "CountRequest",
        "TokenCount",
        upstream=True,
    ),
    Operation(
        "realtime",
        "GET",
        REALTIME,
        "Begin a session: a websocket, in OpenAI's Realtime API",
        query=("model",),
        upstream=True,
    ),
    Operation("models", "GET", "/v1/models", "List models", answer="ModelList"),
    Operation("model", "GET", "/v1/models/{model}", "Describe a model", answer="Model"),
    Operation(
        "create-response",
        "POST",
        "/v1/responses",
        "Answer an input, and keep the answer",
        "ResponseRequest",
        upstream=True,
    ),
    Operation(
        "response", "GET", "/v1/responses/{id}", "Get a response", answer="Response"
    ),
    Operation(
        "delete-response",
        "DELETE",
        "/v1/responses/{id}",
        "Delete a response",
        answer="Deleted",
    ),
    Operation(
        "cancel-response",
        "POST",
        "/v1/responses/{id}/cancel",
        "Cancel a response in the background",
        answer="Response",
    ),
    Operation(
        "input-items",
        "GET",
        "/v1/responses/{id}/input_items",
        "List what a response was made of",
        answer="Page",
        query=_PAGE,
    ),
    Operation(
        "create-file",
        "POST",
        "/v1/files",
        "Keep a file",
        "FileRequest",
        "File",
        form=True,
    ),
    Operation(
        "files", "GET", "/v1/files", "List files", None, "Page", (*_PAGE, "purpose")
    ),
    Operation("file", "GET", "/v1/files/{id}", "Describe a file", answer="File"),
    Operation(
        "delete-file", "DELETE", "/v1/files/{id}", "Delete a file", answer="Deleted"
    ),
    Operation("content", "GET", "/v1/files/{id}/content", "Read a file"),
    Operation(
        "create-batch", "POST", "/v1/batches", "Run a batch", "BatchRequest", "Batch"
    ),
    Operation("batches", "GET", "/v1/batches", "List batches", None, "Page", _PAGE),
    Operation("batch", "GET", "/v1/batches/{id}", "Describe a batch", answer="Batch"),
    Operation(
        "cancel-batch",
        "POST",
        "/v1/batches/{id}/cancel",
        "Cancel a batch",
        answer="Batch",
    ),
)
