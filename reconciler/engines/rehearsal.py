"""How long a simulated engine takes, and what it says: no server, no clock of its own.

The simulator asks it for everything that a GPU would decide: how many sequences
run at once, how long the first token and each further one take, and the text.
The timing follows the performance model's prediction for the planned load and is
scaled from there; it is a rehearsal, never a measurement.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from hashlib import sha256

__all__ = ["Batch", "Timing", "count_tokens", "embed", "speak"]

_WORDS = """
a the this that one some each every fleet model token batch queue cache
prompt node engine route request answer system network budget window signal
buffer runs waits starts stops grows falls holds moves serves reads writes
keeps sends fast slow warm cold small large early late steady simple open
shared spare and or but so then while until before after near over under
within across
""".split()  # noqa: SIM905 - a list of 65 quoted words is harder to read
# English averages about four characters a token with current tokenizers; a
# rehearsal needs a count that grows as the text does, not the exact one.
_CHARACTERS_PER_TOKEN = 4
_NATURAL_LENGTH = (24, 96)
"""Tokens after which an answer ends by itself, when the client lets it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """What was predicted for the planned load, in milliseconds."""

    ttft_ms: float
    """At ``input_tokens``; a prompt of half the length takes half of it."""
    tpot_ms: float
    """With ``concurrency`` sequences running."""
    tpot_alone_ms: float
    """With one sequence running."""
    input_tokens: int
    concurrency: int
    scale: float = 1.0
    """Multiplies every wait: 0.01 plays a minute in 0.6 s."""

    def first_token_s(self, prompt_tokens: int) -> float:
        share = prompt_tokens / self.input_tokens
        return self.ttft_ms * share * self.scale / 1000

    def next_token_s(self, running: int) -> float:
        """Between the two predictions a line; beyond the planned load, in step with it.

        Past the plan a step is bound by arithmetic, so its time grows with the batch.
        """
        if running >= self.concurrency:
            milliseconds = self.tpot_ms * running / self.concurrency
        else:
            part = (running - 1) / (self.concurrency - 1)
            milliseconds = self.tpot_alone_ms + part * (
                self.tpot_ms - self.tpot_alone_ms
            )
        return milliseconds * self.scale / 1000


@dataclass(slots=True)
class Batch:
    """The sequences that run at once; the rest waits, first come first served."""

    timing: Timing
    places: int
    context: int
    running: int = 0
    waiting: int = 0
    tokens: int = 0
    _free: asyncio.Semaphore = field(init=False)

    def __post_init__(self) -> None:
        self._free = asyncio.Semaphore(self.places)

    @property
    def cache_usage(self) -> float:
        """The share of the cache in use, 0 to 1."""
        return self.tokens / (self.places * self.context)

    @asynccontextmanager
    async def place(self, tokens: int) -> AsyncIterator[None]:
        """Hold a place of the batch, and cache for ``tokens``."""
        self.waiting += 1
        try:
            await self._free.acquire()
        finally:
            self.waiting -= 1
        self.running += 1
        self.tokens += tokens
        try:
            yield
        finally:
            self.running -= 1
            self.tokens -= tokens
            self._free.release()

    async def prefill(self, prompt_tokens: int) -> None:
        await asyncio.sleep(self.timing.first_token_s(prompt_tokens))

    async def decode(self) -> None:
        await asyncio.sleep(self.timing.next_token_s(max(1, self.running)))


def count_tokens(text: str) -> int:
    return max(1, -(-len(text) // _CHARACTERS_PER_TOKEN))


def speak(prompt: str, seed: int) -> list[str]:
    """The tokens of an answer; the same prompt and seed give the same ones, for ever."""
    source = random.Random(f"{seed}:{prompt}")  # noqa: S311 - text, not a secret
    length = source.randint(*_NATURAL_LENGTH)
    words = source.choices(_WORDS, k=length)
    return [words[0].capitalize(), *(f" {word}" for word in words[1:-1]), "."]


def embed(text: str, dimensions: int) -> list[float]:
    """A unit vector that depends on nothing but the text."""
    seed = sha256(text.encode()).digest()
    source = random.Random(seed)  # noqa: S311 - a vector, not a secret
    vector = [source.gauss() for _ in range(dimensions)]
    norm = sum(x * x for x in vector) ** 0.5
    return [x / norm for x in vector]
