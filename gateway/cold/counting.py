"""Anthropic's ``count_tokens``, in front of any upstream that can count (I/O).

The request becomes a chat request, and its upstream tokenizes that with its own
template: vLLM's ``/tokenize``, or the count of Anthropic's own API.
"""

from __future__ import annotations

import orjson
from aiohttp import web

from gateway.cold.relay import ColdRuntime
from gateway.cold.stored import answer, body_of
from gateway.dialects import anthropic_client
from gateway.openai import read_object, request_of

__all__ = ["COUNT_TOKENS", "add_routes"]

COUNT_TOKENS = "/v1/messages/count_tokens"
_OK = 200


def add_routes(app: web.Application, runtime: ColdRuntime) -> None:
    async def count(request: web.Request) -> web.Response:
        chat = anthropic_client.chat_request(await body_of(request))
        names = ("model", "messages", "tools")
        document = {name: chat[name] for name in names if name in chat}
        what = request_of("tokenize", orjson.dumps(document), document)
        call = runtime.call(request["key"], what, request["fields"])
        try:
            reply, whole = await call.reply(), await call.whole()
        finally:
            call.close()
        if reply.status != _OK:
            body = anthropic_client.answer(whole, reply.status)
            return web.Response(
                status=reply.status, body=body, content_type="application/json"
            )
        return answer({"input_tokens": read_object(whole)["count"]})

    app.router.add_post(COUNT_TOKENS, count)
