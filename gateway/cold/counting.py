"""Anthropic's ``count_tokens``, in front of any upstream that can count (I/O).

The request becomes a chat request, and its upstream tokenizes that with its own
template: vLLM's ``/tokenize``, or the count of Anthropic's own API.
"""

from __future__ import annotations

import orjson
from aiohttp import web
from aiohttp.typedefs import Handler

from gateway.cold.call import Broken
from gateway.cold.relay import ColdRuntime
from gateway.cold.stored import answer, body_of
from gateway.dialects import anthropic_client
from gateway.openai import read_object, request_of

__all__ = ["handlers"]

_OK = 200


def handlers(runtime: ColdRuntime) -> dict[str, Handler]:
    async def count_tokens(request: web.Request) -> web.Response:
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
        count = read_object(whole).get("count")
        if not isinstance(count, int):
            raise Broken  # whoever answered was not asked what we asked
        return answer({"input_tokens": count})

    return {"count-tokens": count_tokens}
