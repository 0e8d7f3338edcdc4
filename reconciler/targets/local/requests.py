"""Requests to replicas: the real one that proves an answer, the light one after (I/O).

`replicas.py` asks and looks back later, so that a slow replica holds up nobody.
An open port proves nothing: an engine opens it before its weights are loaded.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

import aiohttp
import orjson

from reconciler.targets.local.records import Instance
from schemas.local import Probe

__all__ = ["Asked", "Requests"]

REAL_S = 60.0
"""A first answer may compile kernels or wait its turn; death is noticed elsewhere."""
LIGHT_S = 5.0
_BODY_LIMIT = 1024 * 1024

_REAL: dict[str, tuple[str, dict[str, object], str]] = {
    "chat": (
        "/v1/chat/completions",
        {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 1},
        "choices",
    ),
    "completion": ("/v1/completions", {"prompt": "Hello", "max_tokens": 1}, "choices"),
    "embedding": ("/v1/embeddings", {"input": "Hello"}, "data"),
}


@dataclass(slots=True)
class Asked:
    """What came of asking one process."""

    pid: int
    at: float = 0.0
    answered: bool = False
    misses: int = 0
    why: str = ""
    """What the last request that was not answered met."""
    task: asyncio.Task[None] | None = field(default=None, repr=False)

    @property
    def asking(self) -> bool:
        return self.task is not None and not self.task.done()


class Requests:
    """One request at a time to each replica; an async context that ends them all."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._asked: dict[str, Asked] = {}
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            # A connection kept open would look like a client when it drains.
            connector=aiohttp.TCPConnector(force_close=True),
            trust_env=False,
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        tasks = [a.task for a in self._asked.values() if a.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert self._session is not None, "entered"
        await self._session.close()

    def about(self, instance: Instance) -> Asked:
        """What is known of this process of the replica; a restart is a new one."""
        known = self._asked.get(instance.id)
        if known is None or known.pid != instance.pid:
            if known is not None and known.task is not None:
                known.task.cancel()
            known = self._asked[instance.id] = Asked(instance.pid)
        return known

    def ask(self, instance: Instance, *, real: bool) -> None:
        """Send a request, and return at once."""
        asked = self.about(instance)
        asked.at = self._clock()
        # Held in `asked`, and not in a TaskGroup: that would wrap the errors of
        # whoever holds this context.
        loop = asyncio.get_running_loop()
        asked.task = loop.create_task(self._note(asked, instance, real=real))

    async def answers(self, instance: Instance) -> bool:
        """Send a real request, and wait for it."""
        self.ask(instance, real=True)
        asked = self.about(instance)
        assert asked.task is not None, "asked above"
        await asked.task
        return asked.misses == 0

    async def _note(self, asked: Asked, instance: Instance, *, real: bool) -> None:
        try:
            await (self._real(instance) if real else self._light(instance))
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            asked.why = str(error) or type(error).__name__
            asked.misses += 1
        else:
            asked.answered, asked.misses, asked.why = True, 0, ""

    async def _real(self, instance: Instance) -> None:
        path, body, proof = _real_request(instance.probe)
        content = await self._send("POST", f"{_base(instance)}{path}", body, REAL_S)
        if not orjson.loads(content).get(proof):
            raise ValueError(f"the answer has no {proof}")

    async def _light(self, instance: Instance) -> None:
        await self._send("GET", f"{_base(instance)}/v1/models", None, LIGHT_S)

    async def _send(
        self, method: str, url: str, body: dict[str, object] | None, timeout_s: float
    ) -> bytes:
        assert self._session is not None, "entered"
        timeout = aiohttp.ClientTimeout(total=timeout_s)
        async with self._session.request(
            method, url, json=body, timeout=timeout
        ) as response:
            content = await response.content.read(_BODY_LIMIT)
            if not response.ok:
                said = content[:200].decode(errors="replace")
                raise ValueError(f"HTTP {response.status}: {said}")
            return content


def _base(instance: Instance) -> str:
    return f"http://127.0.0.1:{instance.port}"


def _real_request(probe: Probe) -> tuple[str, dict[str, object], str]:
    path, body, proof = _REAL[probe.task]
    return path, {"model": probe.model, **body}, proof
