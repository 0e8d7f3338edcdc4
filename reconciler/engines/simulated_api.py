"""OpenAI's API as a simulated engine serves it (I/O).

`simulator.py` runs it. Every answer and every chunk names the simulation in its
``system_fingerprint``; it never pretends to be a model. ``Faults`` make it
misbehave, for rehearsals of trouble.

Chat, completions and embeddings, streamed or not, with usage; ``n``, ``stop``,
tools and logprobs are not played.
"""

from __future__ import annotations

import asyncio
import base64
import os
import struct
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import orjson
from aiohttp import web

from reconciler.engines.meters import Meters
from reconciler.engines.rehearsal import Batch, count_tokens, embed, speak

__all__ = ["Faults", "Simulator"]

Json = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Faults:
    """After how many answers trouble starts; 0 is never."""

    not_ready: bool = False
    """Listen, and refuse every request."""
    error_after: int = 0
    """Answer 500 from then on."""
    crash_after: int = 0
    """End the process in the middle of the next request."""
    hang_after: int = 0
    """Never answer again, and keep the connection open."""
    cut_after_tokens: int = 0
    """Drop the connection of each stream after so many tokens."""


class Refusal(Exception):
    """A request this server answers with an error in OpenAI's shape."""

    def __init__(self, status: int, message: str, kind: str) -> None:
        super().__init__(message)
        self.status, self.kind = status, kind


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ask:
    """One request for text."""

    chat: bool
    prompt: str
    tokens: list[str]
    limit: int
    stream: bool
    usage: bool
    id: str

    @property
    def prompt_tokens(self) -> int:
        return count_tokens(self.prompt)

    @property
    def reason(self) -> str:
        return "stop" if len(self.tokens) <= self.limit else "length"

    @property
    def spoken(self) -> list[str]:
        return self.tokens[: self.limit]


class Simulator:
    """The handlers; one instance is one engine process."""

    def __init__(
        self,
        *,
        alias: str,
        rehearses: str,
        batch: Batch,
        faults: Faults,
        seed: int = 0,
        dimensions: int = 384,
    ) -> None:
        self._alias, self._seed, self._dimensions = alias, seed, dimensions
        self._batch, self._faults = batch, faults
        self._fingerprint = f"simulated-{rehearses}"
        self._answered = 0
        self._meters = Meters(alias, batch)

    def application(self) -> web.Application:
        app = web.Application(middlewares=[self._refusals])
        app.router.add_get("/health", self._health)
        app.router.add_get("/v1/models", self._models)
        app.router.add_get("/metrics", self._metrics)
        app.router.add_post("/v1/chat/completions", self._speak)
        app.router.add_post("/v1/completions", self._speak)
        app.router.add_post("/v1/embeddings", self._embed)
        return app

    @web.middleware
    async def _refusals(self, request: web.Request, handler: Any) -> web.StreamResponse:
        try:
            if request.method == "POST":
                await self._misbehave()
            response: web.StreamResponse = await handler(request)
        except Refusal as refusal:
            error = {"message": str(refusal), "type": refusal.kind, "code": None}
            return _json({"error": error}, status=refusal.status)
        self._answered += request.method == "POST"
        return response

    async def _misbehave(self) -> None:
        faults, answered = self._faults, self._answered
        if faults.not_ready:
            raise Refusal(503, "simulated loading", "server_error")
        if faults.crash_after and answered >= faults.crash_after:
            print("simulated crash", file=sys.stderr, flush=True)  # noqa: T201
            os._exit(70)
        if faults.hang_after and answered >= faults.hang_after:
            await asyncio.Event().wait()
        if faults.error_after and answered >= faults.error_after:
            raise Refusal(500, "simulated failure", "server_error")

    async def _health(self, _: web.Request) -> web.Response:
        return web.Response()

    async def _models(self, _: web.Request) -> web.Response:
        model = {"id": self._alias, "object": "model", "owned_by": self._fingerprint}
        return _json({"object": "list", "data": [{**model, "created": 0}]})

    async def _metrics(self, _: web.Request) -> web.Response:
        return web.Response(body=self._meters.page(), content_type="text/plain")

    async def _embed(self, request: web.Request) -> web.Response:
        body = await self._body(request)
        given = body.get("input")
        texts = [given] if isinstance(given, str) else given
        if not isinstance(texts, list) or not all(isinstance(t, str) for t in texts):
            raise _invalid("input must be a string or a list of strings")
        tokens = sum(map(count_tokens, texts))
        async with self._batch.place(tokens):
            await self._batch.prefill(tokens)
        self._meters.prompt(tokens)
        plain = body.get("encoding_format", "float") == "float"
        return _json(
            {
                "object": "list",
                "model": self._alias,
                "system_fingerprint": self._fingerprint,
                "data": [
                    {
                        "object": "embedding",
                        "index": index,
                        "embedding": vector if plain else _packed(vector),
                    }
                    for index, text in enumerate(texts)
                    for vector in (embed(text, self._dimensions),)
                ],
                "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
            }
        )

    async def _speak(self, request: web.Request) -> web.StreamResponse:
        ask = self._ask(await self._body(request), chat="chat" in request.path)
        if ask.stream:
            return await self._stream(request, ask)
        async for _ in self._play(ask):
            pass
        text = "".join(ask.spoken)
        said: Json = (
            {"message": {"role": "assistant", "content": text}}
            if ask.chat
            else {"text": text}
        )
        choice = {"index": 0, "finish_reason": ask.reason, "logprobs": None, **said}
        kind = "chat.completion" if ask.chat else "text_completion"
        return _json(self._envelope(ask, kind, [choice]) | {"usage": _usage(ask)})

    async def _stream(self, request: web.Request, ask: _Ask) -> web.StreamResponse:
        response = web.StreamResponse(
            headers={"Content-Type": "text/event-stream", "Cache-Control": "no-cache"}
        )
        await response.prepare(request)
        kind = "chat.completion.chunk" if ask.chat else "text_completion"

        async def send(said: Json | None, reason: str | None = None) -> None:
            choices = [] if said is None else [{"index": 0, "finish_reason": reason}]
            chunk = self._envelope(ask, kind, [c | (said or {}) for c in choices])
            if said is None:
                chunk["usage"] = _usage(ask)
            await response.write(b"data: " + orjson.dumps(chunk) + b"\n\n")

        if ask.chat:
            await send({"delta": {"role": "assistant", "content": ""}})
        sent = 0
        async for token in self._play(ask):
            await send({"delta": {"content": token}} if ask.chat else {"text": token})
            sent += 1
            if sent == self._faults.cut_after_tokens and request.transport is not None:
                request.transport.abort()
                return response
        await send({"delta": {}} if ask.chat else {"text": ""}, ask.reason)
        if ask.usage:
            await send(None)
        await response.write(b"data: [DONE]\n\n")
        return response

    async def _play(self, ask: _Ask) -> AsyncIterator[str]:
        """Yield each token when a GPU would have."""
        arrived = time.monotonic()
        spoken = ask.spoken
        async with self._batch.place(ask.prompt_tokens + len(spoken)):
            started = time.monotonic()
            await self._batch.prefill(ask.prompt_tokens)
            self._meters.first(started - arrived, time.monotonic() - arrived)
            self._meters.prompt(ask.prompt_tokens)
            for index, token in enumerate(spoken):
                if index:
                    before = time.monotonic()
                    await self._batch.decode()
                    self._meters.between(time.monotonic() - before)
                self._meters.token()
                yield token
        self._meters.done(ask.reason, time.monotonic() - arrived)

    def _envelope(self, ask: _Ask, kind: str, choices: list[Json]) -> Json:
        return {
            "id": ask.id,
            "object": kind,
            "created": int(time.time()),  # noqa: TID251 - the protocol's own field
            "model": self._alias,
            "system_fingerprint": self._fingerprint,
            "choices": choices,
        }

    async def _body(self, request: web.Request) -> Json:
        try:
            body = orjson.loads(await request.read())
        except orjson.JSONDecodeError as error:
            raise _invalid(f"the body is not JSON: {error}") from error
        if not isinstance(body, dict):
            raise _invalid("the body is not an object")
        if body.get("model") != self._alias:
            raise Refusal(
                404, f"The model `{body.get('model')}` does not exist.", "NotFoundError"
            )
        return body

    def _ask(self, body: Json, *, chat: bool) -> _Ask:
        prompt = _conversation(body) if chat else body.get("prompt")
        if not isinstance(prompt, str):
            raise _invalid("prompt must be a string")
        room = self._batch.context - count_tokens(prompt)
        wanted = body.get("max_completion_tokens") or body.get("max_tokens")
        limit = room if wanted is None else wanted
        if not isinstance(limit, int) or limit < 1 or limit > room:
            raise _invalid(
                f"This model's maximum context length is {self._batch.context} tokens, "
                f"of which the prompt takes {count_tokens(prompt)}; found "
                f"max_tokens {wanted}"
            )
        tokens = speak(prompt, self._seed if (s := body.get("seed")) is None else s)
        if body.get("ignore_eos"):
            tokens = (tokens * (limit // len(tokens) + 1))[:limit]
        options = body.get("stream_options") or {}
        return _Ask(
            chat=chat,
            prompt=prompt,
            tokens=tokens,
            limit=limit,
            stream=bool(body.get("stream")),
            usage=bool(options.get("include_usage")),
            id=f"{'chatcmpl' if chat else 'cmpl'}-{uuid4().hex}",
        )


def _conversation(body: Json) -> str:
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise _invalid("messages must be a list that is not empty")
    if not all(isinstance(m, dict) and "role" in m for m in messages):
        raise _invalid("each message needs a role")
    return "\n".join(f"{m['role']}: {m.get('content')}" for m in messages)


def _usage(ask: _Ask) -> Json:
    prompt, spoken = ask.prompt_tokens, len(ask.spoken)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": spoken,
        "total_tokens": prompt + spoken,
    }


def _invalid(message: str) -> Refusal:
    return Refusal(400, message, "invalid_request_error")


def _packed(vector: list[float]) -> str:
    """OpenAI's base64 form: 32-bit floats, little-endian."""
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()


def _json(body: Json, status: int = 200) -> web.Response:
    return web.Response(
        body=orjson.dumps(body), status=status, content_type="application/json"
    )
