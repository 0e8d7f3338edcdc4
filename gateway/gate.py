"""The gate of a route that has guardrails or a cache (I/O).

It stands between such an exchange and its client: looks at the request before
anybody is asked, gives an answer that is kept, and looks at a new one before it
is given and kept. One coroutine for each request; the straight path knows
nothing of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Sequence
from http import HTTPStatus
from typing import Any

import orjson
import structlog

from gateway.answer import Framing
from gateway.cache import MAX_KEPT, Cache, Kept, cache_key
from gateway.cold.call import Broken, Call, Reply
from gateway.dialects.choose import error_for
from gateway.exchange import Exchange
from gateway.gating import Guard
from gateway.http1 import LAST_CHUNK, chunk, response_head
from gateway.judge import Judge, Unjudged
from gateway.semantic import Neighbours, Place
from gateway.sift import Sift, Span, redact
from gateway.texts import Part, parts_of

__all__ = ["Gate", "Gated"]

_OK = 200
_LEFT = 499
_STEP, _MODERATED_STEP = 64, 512
"""Characters of a stream that are judged at a time: of a call to another server
there should be few."""
_EVENTS = "text/event-stream"
_log = structlog.get_logger("gateway")


class Gated(Call):
    """The client of one exchange, as the exchange sees it."""

    def __init__(self, gate: Gate, exchange: Exchange) -> None:
        """Step between an exchange and its client."""
        super().__init__()
        self._gate = gate
        self.exchange = exchange
        self.client, exchange.client = exchange.client, self
        self.framing = exchange.framing
        exchange.framing = Framing(keep_alive=True, chunked=False)
        self.status = 0
        """Of its record; 0: it is not over."""
        self.begun = False

    def settled(self, status: int) -> None:
        """Hear that the exchange is over, before its last bytes come."""
        self.status = status
        if status == _LEFT:
            self.cut()
        if not self.begun:
            self._gate.begin(self)  # refused before it began


class Gate:
    """All gated requests of one worker."""

    def __init__(
        self,
        judge: Judge,
        cache: Cache,
        neighbours: Neighbours,
        start: Callable[[Exchange], None],
    ) -> None:
        self._judge, self._cache, self._neighbours = judge, cache, neighbours
        self._start = start
        self.tasks: set[asyncio.Task[None]] = set()

    def begin(self, gated: Gated) -> None:
        gated.begun = True
        assert gated.exchange is not None
        self._spawn(self._run(gated, gated.exchange))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def _run(self, gated: Gated, exchange: Exchange) -> None:
        passage = _Passage(gated, exchange)
        try:
            if not exchange.over:
                await self._enter(passage)
            await self._leave(passage)
        except Broken:
            gated.client.cut()
        except Exception:  # noqa: BLE001
            # Whatever is wrong here must not leave a client without an end.
            _log.exception("gate failed", request=exchange.request_id.decode("ascii"))
            gated.close()
            gated.client.cut()

    # On its way in.

    async def _enter(self, passage: _Passage) -> None:
        exchange = passage.exchange
        guards = [guard for guard in exchange.route.guards if guard.on_input]
        if guards and not await self._look_at_request(passage, guards):
            return
        caching = exchange.route.caching
        # A response has an identity that clients ask for: none is given twice.
        request = exchange.request
        if caching is not None and request.source is None and request.echo is None:
            key = passage.key = cache_key(
                exchange.key, exchange.route, exchange.request
            )
            kept = await self._cache.get(key)
            if kept is None and caching.embeddings is not None:
                passage.place = await self._neighbours.place(exchange, caching)
                near = passage.place and passage.place.nearest(caching.similarity)
                kept = await self._cache.get(near) if near else None
            if exchange.over:
                return
            self._judge.count_cache(exchange, hit=kept is not None)
            if kept is not None:
                passage.key = None
                exchange.serve(kept.kind, kept.body, b"x-bud-cache: hit\r\n")
                return
        if not exchange.over:
            self._start(exchange)

    async def _look_at_request(
        self, passage: _Passage, guards: Sequence[Guard]
    ) -> bool:
        """Judge the request; false: it was refused, or its client has left."""
        exchange = passage.exchange
        request = exchange.request
        parts = list(parts_of(request.document))
        try:
            verdict = await self._judge.judge(
                exchange, guards, _texts(parts), whole=request.source is None
            )
        except Unjudged as error:
            if not exchange.over:
                exchange.refuse(
                    HTTPStatus.SERVICE_UNAVAILABLE,
                    f"cannot check the request: {error}",
                    code="guardrail_unavailable",
                )
            return False
        if exchange.over:
            return False
        passage.flagged += verdict.flagged
        if verdict.blocked is not None:
            exchange.refuse(
                HTTPStatus.BAD_REQUEST,
                f"the request was blocked by the guardrail {verdict.blocked!r}",
                code="content_filter",
            )
            return False
        if _redact(parts, verdict.spans):
            raw = orjson.dumps(request.document)
            exchange.request = request._replace(raw=raw)
        return True

    # On its way out.

    async def _leave(self, passage: _Passage) -> None:
        gated = passage.gated
        reply = await gated.reply()
        if reply.status == _OK and reply.fields.get("content-type", "").startswith(
            _EVENTS
        ):
            kept = await self._pass_stream(passage, reply)
        else:
            kept = await self._pass_plain(passage, reply)
        key, caching = passage.key, passage.exchange.route.caching
        if kept is None or key is None or caching is None or gated.status != _OK:
            return
        await self._cache.put(key, kept, ttl_s=caching.ttl_s)
        if passage.place is not None:
            passage.place.keep(key)

    async def _pass_plain(self, passage: _Passage, reply: Reply) -> Kept | None:
        status, body = reply.status, await passage.gated.whole()
        guards = [g for g in passage.exchange.route.guards if g.on_output]
        if guards and status == _OK:
            status, body = await self._look_at_answer(passage, guards, body)
        passage.write_head(reply, status, length=len(body), rest=body)
        passage.gated.client.finish()
        if status != _OK or len(body) > MAX_KEPT:
            return None
        return Kept(reply.fields.get("content-type", "").encode("latin-1"), body)

    async def _look_at_answer(
        self, passage: _Passage, guards: Sequence[Guard], body: bytes
    ) -> tuple[int, bytes]:
        try:
            document = orjson.loads(body)
        except orjson.JSONDecodeError:
            return _OK, body  # sounds and pictures
        parts = list(parts_of(document)) if isinstance(document, dict) else []
        try:
            verdict = await self._judge.judge(passage.exchange, guards, _texts(parts))
        except Unjudged as error:
            return passage.refusal(
                HTTPStatus.SERVICE_UNAVAILABLE,
                f"cannot check the answer: {error}",
                code="guardrail_unavailable",
            )
        passage.flagged += verdict.flagged
        if verdict.blocked is not None:
            return passage.refusal(
                HTTPStatus.BAD_REQUEST,
                f"the answer was blocked by the guardrail {verdict.blocked!r}",
                code="content_filter",
            )
        if _redact(parts, verdict.spans):
            return _OK, orjson.dumps(document)
        return _OK, body

    async def _pass_stream(self, passage: _Passage, reply: Reply) -> Kept | None:
        gated = passage.gated
        guards = [g for g in passage.exchange.route.guards if g.on_output]
        passage.write_head(reply, reply.status, length=None)
        sift = Sift() if guards else None
        kept: list[bytes] = []
        size = 0
        async for part in gated.body():
            out = part
            if sift is not None:
                judged = await self._sift(passage, guards, sift, part)
                if judged is None:
                    return None
                out = judged
            passage.write(out)
            if passage.key is not None and size <= MAX_KEPT:
                kept.append(out)
                size += len(out)
        if sift is not None:
            rest = await self._sift(passage, guards, sift, None)
            if rest is None:
                return None
            passage.write(rest)
            kept.append(rest)
        passage.end()
        body = b"".join(kept)
        return Kept(_EVENTS.encode(), body) if len(body) <= MAX_KEPT else None

    async def _sift(
        self, passage: _Passage, guards: Sequence[Guard], sift: Sift, data: bytes | None
    ) -> bytes | None:
        """Give what is safe by now; None: the stream was ended here."""
        moderated = any(guard.moderation is not None for guard in guards)
        if data is not None:
            sift.push(data)
            if sift.fresh < (_MODERATED_STEP if moderated else _STEP):
                return b""
        texts = sift.texts()
        try:
            verdict = await self._judge.judge(
                passage.exchange, guards, list(texts.values())
            )
        except Unjudged as error:
            passage.break_off(
                f"cannot check the answer: {error}", "guardrail_unavailable"
            )
            return None
        if verdict.blocked is not None:
            reason = f"the answer was blocked by the guardrail {verdict.blocked!r}"
            passage.break_off(reason, "content_filter")
            return None
        spans = dict(zip(texts, verdict.spans, strict=True))
        return sift.release(spans, last=data is None)


class _Passage:
    """One gated request: what is to be told to its client, and how."""

    def __init__(self, gated: Gated, exchange: Exchange) -> None:
        self.gated, self.exchange = gated, exchange
        self.flagged: list[str] = []
        self.key: bytes | None = None
        """Under which its answer is to be kept."""
        self.place: Place | None = None
        """Among the prompts that were embedded."""

    def write_head(
        self, reply: Reply, status: int, *, length: int | None, rest: bytes = b""
    ) -> None:
        framing = self.gated.framing
        lines = "".join(f"{name}: {value}\r\n" for name, value in reply.fields.items())
        if self.key is not None:
            lines += "x-bud-cache: miss\r\n"
        if self.flagged:
            lines += f"x-bud-flagged: {', '.join(dict.fromkeys(self.flagged))}\r\n"
        head = response_head(
            status,
            lines.encode("latin-1"),
            length=length,
            keep_alive=framing.keep_alive,
            chunked=framing.chunked,
        )
        self.gated.client.write(head + rest)

    def write(self, data: bytes) -> None:
        if data:
            coded = self.gated.framing.chunked
            self.gated.client.write(chunk(data) if coded else data)

    def end(self) -> None:
        if self.gated.framing.chunked:
            self.gated.client.write(LAST_CHUNK)
        self.gated.client.finish()

    def refusal(
        self, status: HTTPStatus, message: str, *, code: str
    ) -> tuple[int, bytes]:
        self.key = None
        return status, error_for(
            self.exchange.request.client, status, message, code=code
        )

    def break_off(self, message: str, code: str) -> None:
        """End a stream with an event that clients raise, and stop the upstream."""
        self.gated.close()
        client = self.exchange.request.client
        body = error_for(client, HTTPStatus.BAD_REQUEST, message, code=code)
        name = b"event: error\n" if client == "anthropic" else b""
        self.write(name + b"data: " + body + b"\n\n")
        self.end()


def _texts(parts: Iterable[Part]) -> list[str]:
    return [part.text for part in parts]


def _redact(parts: Sequence[Part], spans: Sequence[list[Span]]) -> bool:
    """Put placeholders where something was found; false: nothing was."""
    for part, found in zip(parts, spans, strict=True):
        if found:
            part.put(redact(part.text, found))
    return any(spans)
