"""How busy the engines say they are (I/O).

The supervisor asks each address of a least-load route for its Prometheus metrics
and tells the workers, which otherwise know only what they send themselves. An
engine without such metrics, or that does not answer, is judged by that alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

from gateway.health import Reported
from gateway.snapshot import Snapshot

__all__ = ["Engines", "read_load"]

_LIMIT_S = 1.0
_MAX_BYTES = 4 << 20
_RUNNING = frozenset(
    {
        "vllm:num_requests_running",
        "sglang:num_running_reqs",
        "llamacpp:requests_processing",
    }
)
_WAITING = frozenset(
    {"vllm:num_requests_waiting", "sglang:num_queue_reqs", "llamacpp:requests_deferred"}
)
_KV = frozenset(
    {
        "vllm:kv_cache_usage_perc",
        "vllm:gpu_cache_usage_perc",  # as vLLM called it before 0.10
        "sglang:token_usage",
        "llamacpp:kv_cache_usage_ratio",
    }
)
"""Shares between 0 and 1, whatever they are called."""


def read_load(text: str) -> Reported | None:
    """Read an engine's metrics; None: they do not say how busy it is."""
    running = waiting = kv = 0.0
    told = False
    try:
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                if sample.name in _RUNNING:
                    running, told = running + sample.value, True
                elif sample.name in _WAITING:
                    waiting, told = waiting + sample.value, True
                elif sample.name in _KV:
                    kv, told = max(kv, sample.value), True
    except (ValueError, IndexError, KeyError):
        return None  # not Prometheus' text after all
    return Reported(running, waiting, kv) if told else None


def asked_of(snapshot: Snapshot) -> set[str]:
    """Name the addresses whose load decides about something."""
    return {
        choice.address.url
        for route in snapshot.routes.values()
        if route.strategy == "least-load"
        for tiers in route.choices.values()
        for tier in tiers
        if len(tier) > 1
        for choice in tier
        if choice.target.upstream.dialect == "openai"
    }


class Engines:
    """Asks, again and again."""

    def __init__(self, tell: Callable[[dict[str, Reported]], None]) -> None:
        self._tell = tell

    async def run(self, snapshot: Callable[[], Snapshot], every_s: float) -> None:
        timeout = aiohttp.ClientTimeout(total=_LIMIT_S)
        async with aiohttp.ClientSession(timeout=timeout) as session:
            while True:
                urls = asked_of(snapshot())
                if urls:
                    self._tell(await self._ask(session, urls))
                await asyncio.sleep(every_s)

    async def _ask(
        self, session: aiohttp.ClientSession, urls: Iterable[str]
    ) -> dict[str, Reported]:
        listed = sorted(urls)
        asked: list[Awaitable[Reported | None]] = [_one(session, url) for url in listed]
        answers = await asyncio.gather(*asked)
        return {
            url: answer
            for url, answer in zip(listed, answers, strict=True)
            if answer is not None
        }


async def _one(session: aiohttp.ClientSession, url: str) -> Reported | None:
    try:
        async with session.get(
            f"{url.removesuffix('/v1')}/metrics", allow_redirects=False
        ) as answer:
            if answer.status != 200:  # noqa: PLR2004
                return None
            text = await answer.content.read(_MAX_BYTES)
    except (aiohttp.ClientError, OSError, TimeoutError):
        return None
    return read_load(text.decode("utf-8", "replace"))
