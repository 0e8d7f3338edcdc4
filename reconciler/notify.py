"""Telling people: chat, email and whatever else Apprise speaks (I/O: network).

The daemon and the reviewer call it. A channel that does not answer is logged and
holds up nothing; what is told was masked by whoever said it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import structlog

from schemas.errors import FoundryError
from schemas.notification import Notification
from schemas.objects import Credential

__all__ = ["Notifier"]

_log = structlog.get_logger("notify")
# It logs URLs that it cannot read, and those hold passwords.
logging.getLogger("apprise").disabled = True
_TIMEOUT_S = 20.0
_LONGEST = 1500
"""Characters; chats cut what is longer."""


@dataclass(slots=True, kw_only=True)
class Notifier:
    environment: str
    read: Callable[[Credential], str]
    mask: Callable[[str], str] = str
    _channels: tuple[Notification, ...] = field(default=(), init=False)

    def follow(self, channels: Iterable[Notification]) -> None:
        """From now on tell those, as the protected branch says."""
        self._channels = tuple(channels)

    async def __call__(self, event: str, text: str) -> None:
        told = self.mask(text)[:_LONGEST]
        waiting = [
            self._tell(channel, event, told)
            for channel in self._channels
            if event in channel.spec.events
        ]
        await asyncio.gather(*waiting)

    async def _tell(self, channel: Notification, event: str, text: str) -> None:
        title = f"bud {self.environment}: {event}"
        try:
            url = self.read(channel.spec.to)
            async with asyncio.timeout(_TIMEOUT_S):
                # In a thread: Apprise speaks HTTP and SMTP without asyncio.
                sent = await asyncio.to_thread(_send, url, title, text)
        except (FoundryError, TimeoutError) as error:
            sent = False
            _log.warning(
                "cannot open channel", channel=str(channel.ref), error=str(error)
            )
        if not sent:
            _log.warning("not told", channel=str(channel.ref), what=event)


def _send(url: str, title: str, text: str) -> bool:
    # 0.1 s to import, and most that run here tell nobody.
    import apprise  # noqa: PLC0415

    plain, sender = apprise.NotifyFormat.TEXT, apprise.Apprise()
    return sender.add(url) and bool(
        sender.notify(body=text, title=title, body_format=plain)
    )
