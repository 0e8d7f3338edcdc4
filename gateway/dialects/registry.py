"""The APIs that an upstream may speak, and how each says what it can (pure).

A new one is a row here and a module of shapes beside this. Read by the snapshot,
which compiles what does not change, and by the choice of translations.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple
from urllib.parse import quote

from gateway.dialects import (
    StreamTranslator,
    anthropic_upstream,
    bedrock,
    cohere,
    gemini,
)
from gateway.openai import Op

__all__ = ["DIALECTS", "Dialect", "Way"]


class Way(NamedTuple):
    """How one operation is asked for, and what its answers become."""

    path: str
    """Below the base; ``{model}`` is put in."""
    request: Callable[[dict[str, Any], str], bytes]
    answer: Callable[[bytes, int], bytes]
    events: Callable[[], StreamTranslator] | None = None
    stream_path: str | None = None
    """Absent: a stream is asked for in the body."""

    def target(self, model: str, *, stream: bool) -> str:
        path = self.stream_path if stream and self.stream_path else self.path
        return path.replace("{model}", quote(model, safe=""))


class Dialect(NamedTuple):
    base: str
    """Where its paths begin if an address names none."""
    credential: str
    """The start of the line that carries a secret."""
    ways: Mapping[Op, Way]
    lines: bytes = b""


DIALECTS: dict[str, Dialect] = {
    "anthropic": Dialect(
        "/v1",
        "x-api-key:",
        {
            "chat": Way(
                "/messages",
                anthropic_upstream.request,
                anthropic_upstream.answer,
                anthropic_upstream.AnthropicEvents,
            ),
            "tokenize": Way(
                "/messages/count_tokens",
                anthropic_upstream.count_request,
                anthropic_upstream.count_answer,
            ),
        },
        anthropic_upstream.HEAD_LINES,
    ),
    "gemini": Dialect(
        "/v1beta",
        "x-goog-api-key:",
        {
            "chat": Way(
                "/models/{model}:generateContent",
                gemini.request,
                gemini.answer,
                gemini.GeminiEvents,
                "/models/{model}:streamGenerateContent?alt=sse",
            ),
            "embeddings": Way(
                "/models/{model}:batchEmbedContents",
                gemini.embed_request,
                gemini.embed_answer,
            ),
        },
    ),
    "bedrock": Dialect(
        "",
        "authorization: Bearer",
        {
            "chat": Way(
                "/model/{model}/converse",
                bedrock.request,
                bedrock.answer,
                bedrock.BedrockEvents,
                "/model/{model}/converse-stream",
            )
        },
    ),
    "cohere": Dialect(
        "/v2",
        "authorization: Bearer",
        {
            "chat": Way("/chat", cohere.request, cohere.answer, cohere.CohereEvents),
            "embeddings": Way("/embed", cohere.embed_request, cohere.embed_answer),
            "rerank": Way("/rerank", cohere.rerank_request, cohere.rerank_answer),
        },
    ),
}
"""Those that are not OpenAI's own."""
