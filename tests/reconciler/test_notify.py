"""Who is told: a chat over HTTP and a mailbox over SMTP, both on loopback."""

from __future__ import annotations

import asyncio
import json
from email import message_from_bytes
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from aiosmtpd.handlers import Message
from aiosmtpd.smtp import SMTP

from reconciler.notify import Notifier
from reconciler.secrecy import Mask
from schemas.errors import PermanentError
from schemas.notification import Notification
from schemas.objects import Credential


def channel(name: str, *events: str) -> Notification:
    return Notification.model_validate_json(json.dumps({
        "apiVersion": "foundry.bud/v1", "kind": "Notification", "metadata": {"name": name.lower()},
        "spec": {"to": {"env": name}, "events": events},
    }))  # fmt: skip


class Mailbox(Message):
    def __init__(self) -> None:
        super().__init__()
        self.mails: list[Any] = []

    def handle_message(self, message: Any) -> None:
        self.mails.append(message)


async def test_each_channel_gets_its_events_and_no_secret() -> None:
    said: list[Any] = []

    async def chat(request: web.Request) -> web.Response:
        said.append(await request.json())
        return web.Response()

    app = web.Application()
    app.router.add_post("/{path:.*}", chat)
    mailbox = Mailbox()
    loop = asyncio.get_running_loop()
    post = await loop.create_server(lambda: SMTP(mailbox, loop=loop), "127.0.0.1", 0)
    try:
        async with TestServer(app) as server:
            urls = {
                "CHAT": f"json://127.0.0.1:{server.port}/",
                "MAIL": f"mailto://127.0.0.1:{post.sockets[0].getsockname()[1]}/"
                "?from=bud@example.org&to=ops@example.org",
            }
            notifier = Notifier(
                environment="production",
                read=lambda c: urls[str(c.env)],
                mask=Mask(["canary-secret"]),
            )
            notifier.follow(
                [channel("CHAT", "apply", "drift"), channel("MAIL", "failure")]
            )
            await notifier("apply", "plan 1 of canary-secret")
            await notifier("failure", "it failed: canary-secret")
            await notifier("rollback", "nobody asked")
    finally:
        post.close()
        await post.wait_closed()

    [told] = said
    assert told["title"] == "bud production: apply"
    assert told["message"] == "plan 1 of [secret]"
    [mail] = mailbox.mails
    assert "bud production: failure" in mail["subject"]
    [body] = [p.get_payload(decode=True) for p in message_from_bytes(mail.as_bytes()).walk() if p.get_content_type() == "text/plain"]  # fmt: skip
    assert b"it failed: [secret]" in body


async def test_a_channel_that_is_broken_holds_up_no_other() -> None:
    said = []

    async def chat(request: web.Request) -> web.Response:
        said.append(await request.read())
        return web.Response()

    app = web.Application()
    app.router.add_post("/{path:.*}", chat)

    async with TestServer(app) as server:

        def read(credential: Credential) -> str:
            if credential.env == "GONE":
                raise PermanentError("cannot read credential")
            good = f"json://127.0.0.1:{server.port}/"
            return {"GOOD": good, "DEAD": "json://127.0.0.1:1/", "ODD": "no url"}[
                str(credential.env)
            ]

        notifier = Notifier(environment="local", read=read)
        notifier.follow(
            channel(name, "apply") for name in ("GONE", "DEAD", "ODD", "GOOD")
        )
        await notifier("apply", "done")

    assert len(said) == 1


@pytest.mark.parametrize("event", ["", "everything"])
def test_a_channel_asks_for_events_that_exist(event: str) -> None:
    with pytest.raises(ValueError, match="events"):
        channel("CHAT", *([event] if event else []))
