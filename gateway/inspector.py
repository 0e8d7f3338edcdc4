"""A process that looks at texts, so that the data path never waits for it (I/O).

One for each worker, started with the first text. It dies with its worker, and
when it takes too long it is killed and the next text starts another.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import threading
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

from gateway.gating import Guard
from gateway.sift import Span

__all__ = ["Inspector", "Unjudged"]

_START_S = 30.0
"""Of a process, on a machine that starts many things at once."""
_LIMIT_S = 2.0
"""Far more than a prompt of 100,000 tokens takes; what takes longer is an attack."""


class Unjudged(Exception):
    """Nobody could say whether a text is sound."""


class Inspector:
    def __init__(self) -> None:
        self._pool: ProcessPoolExecutor | None = None
        self._ready: asyncio.Future[object] | None = None

    def start(self) -> ProcessPoolExecutor:
        """Have a process there before the first text comes."""
        if self._pool is None:
            # Never forked: a copy of the worker would hold its sockets open.
            context = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(1, context, initializer=_end_with_parent)
            loop = asyncio.get_running_loop()
            self._ready = loop.run_in_executor(self._pool, _warm)
            self._ready.add_done_callback(
                lambda ready: ready.cancelled() or ready.exception()
            )
        return self._pool

    async def find(
        self, guards: Sequence[Guard], texts: Sequence[str]
    ) -> list[list[list[Span]]]:
        """Look for what each guard looks for in each text.

        Raises:
            Unjudged: it took too long, or its process died.
        """
        loop, pool = asyncio.get_running_loop(), self.start()
        try:
            assert self._ready is not None
            async with asyncio.timeout(_START_S):
                await asyncio.shield(self._ready)
            async with asyncio.timeout(_LIMIT_S):
                return await loop.run_in_executor(pool, _find, guards, texts)
        except (TimeoutError, BrokenProcessPool) as error:
            self._drop(pool)
            raise Unjudged(str(error) or "it took too long") from error

    def _drop(self, pool: ProcessPoolExecutor) -> None:
        if self._pool is pool:
            self._pool = None
        for process in list((pool._processes or {}).values()):  # noqa: SLF001  it has no way to be told
            process.kill()
        pool.shutdown(wait=False, cancel_futures=True)

    def close(self) -> None:
        if self._pool is not None:
            self._drop(self._pool)


def _end_with_parent() -> None:
    """A worker that is killed cannot tell this process to stop: watch for it."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(0)

    threading.Thread(target=watch, daemon=True).start()


def _warm() -> None:
    """Load what is loaded with the first text of each kind."""
    kinds = "email", "phone", "card", "ssn", "iban"
    _find([Guard("", True, True, None, kinds, None, "", False)], ["+1 415 555 2671"])


def _find(guards: Sequence[Guard], texts: Sequence[str]) -> list[list[list[Span]]]:
    # The patterns and the numbering plans of the world stay out of the worker.
    from gateway.guards import find  # noqa: PLC0415

    return find(guards, texts)
