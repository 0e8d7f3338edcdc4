"""Reviews beside the daemon: webhooks, looks, polls (I/O).

`bud reconcile` runs it where the environment has `review`. A look that fails is
tried again at the next poll; it never stops the daemon, and the daemon's gate never
waits for it.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

import structlog

from reconciler.review.receiver import Receiver, Wanted
from reconciler.review.reviewer import Reviewer
from schemas.errors import FoundryError, TemporaryError

__all__ = ["reviewing"]

_log = structlog.get_logger("review")
_AGAIN_S = 0.5
"""Half of the first pause before a look that failed is tried again; each is twice as long."""


@asynccontextmanager
async def reviewing(
    reviewer: Reviewer, receiver: Receiver, *, moved: Callable[[], None]
) -> AsyncIterator[int]:
    """Review while the block runs; gives the port of webhooks, 0 without one.

    ``moved`` is called after each look that a webhook asked for: what was merged is
    for the daemon to see.
    """
    stop, settings = asyncio.Event(), reviewer.settings
    async with asyncio.TaskGroup() as group:
        task = group.create_task(_look(reviewer, receiver.wanted, stop, moved))
        try:
            if settings.port or settings.public_url:
                async with receiver.serve(settings.host, settings.port) as port:
                    yield port
            else:
                yield 0
        finally:
            stop.set()
            receiver.wanted.due.set()
            await task
            await reviewer.planner.describer.close()
            await reviewer.forge.close()


async def _look(
    reviewer: Reviewer, wanted: Wanted, stop: asyncio.Event, moved: Callable[[], None]
) -> None:
    everything, pulls, timed_out = True, set[int](), False
    again_s = _AGAIN_S
    while not stop.is_set():
        try:
            if everything:
                await reviewer.look_at_all()
            again = {n for n in sorted(pulls) if not await _one(reviewer, n)}
        except FoundryError as error:
            mask, again = reviewer.planner.pipeline.mask, set()
            _log.warning("cannot review", error=mask(str(error)))
        if not timed_out:
            moved()
        # Jitter: a fleet of daemons must not ask a forge in the same second.
        poll_s = reviewer.settings.poll.seconds * random.uniform(0.8, 1.2)  # noqa: S311
        # A forge tells of a push before its own ref of the pull request has moved.
        again_s = min(2 * again_s, poll_s) if again else _AGAIN_S
        with suppress(TimeoutError):
            async with asyncio.timeout(again_s if again else poll_s):
                await wanted.due.wait()
        timed_out = not wanted.due.is_set()
        pulls, everything = wanted.take()
        everything = everything or (timed_out and not again)
        pulls |= again


async def _one(reviewer: Reviewer, number: int) -> bool:
    """Whether it was looked at, or need not be again before something moves."""
    try:
        await reviewer.look(number)
    except FoundryError as error:
        mask = reviewer.planner.pipeline.mask
        _log.warning("cannot review", pull=number, error=mask(str(error)))
        return not isinstance(error, TemporaryError)
    return True
