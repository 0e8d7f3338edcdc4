"""Asks whoever can tell whether texts are sound, and puts it together (I/O).

Patterns and personal data are looked for in the inspector's process, other
judgements come from an upstream's moderation. Called by the gate.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from typing import Any, NamedTuple, TypeAlias

import orjson

from gateway.exchange import Exchange
from gateway.gating import Guard
from gateway.inspector import Inspector, Unjudged
from gateway.metrics import Metrics
from gateway.openai import Op
from gateway.sift import Span

__all__ = ["Ask", "Judge", "Unjudged", "Verdict"]

Ask: TypeAlias = Callable[
    [Exchange, str, Op, dict[str, Any]], Coroutine[Any, Any, bytes | None]
]
"""Ask an upstream on behalf of an exchange; None: it did not answer well."""
_OUTCOMES = {"block": "blocked", "redact": "redacted", "flag": "flagged"}


class Verdict(NamedTuple):
    blocked: str | None
    """The guardrail that did."""
    flagged: list[str]
    spans: list[list[Span]]
    """To be redacted, of each text."""


class Judge:
    def __init__(self, inspector: Inspector, ask: Ask, metrics: Metrics) -> None:
        self._inspector, self._ask, self._metrics = inspector, ask, metrics

    async def judge(
        self,
        exchange: Exchange,
        guards: Sequence[Guard],
        texts: list[str],
        *,
        whole: bool = True,
    ) -> Verdict:
        """Judge texts by all guards; ``whole``: they are all that there is.

        Raises:
            Unjudged: a guard that must be asked could not be.
        """
        if not whole:
            for guard in guards:
                self._fail(exchange, guard, Unjudged("it is too large to be held"))
        spans: list[list[Span]] = [[] for _ in texts]
        flagged: list[str] = []
        if not any(texts):
            return Verdict(None, flagged, spans)
        for guard, found in await self._findings(exchange, guards, texts):
            if not any(found):
                continue
            self._count(exchange, guard, _OUTCOMES[guard.action])
            if guard.action == "block":
                return Verdict(guard.name, flagged, spans)
            if guard.action == "flag":
                flagged.append(guard.name)
            else:
                for mine, more in zip(spans, found, strict=True):
                    mine.extend(more)
        return Verdict(None, flagged, spans)

    async def _findings(
        self, exchange: Exchange, guards: Sequence[Guard], texts: list[str]
    ) -> list[tuple[Guard, list[list[Span]]]]:
        """Give what each guard found; ours first, they cost less."""
        ours = [guard for guard in guards if guard.moderation is None]
        findings: list[tuple[Guard, list[list[Span]]]] = []
        if ours:
            try:
                found = await self._inspector.find(ours, texts)
                findings += zip(ours, found, strict=True)
            except Unjudged as error:
                for guard in ours:
                    self._fail(exchange, guard, error)
        for guard in guards:
            if guard.moderation is not None:
                try:
                    bad = await self._moderate(exchange, guard.moderation, texts)
                except Unjudged as error:
                    self._fail(exchange, guard, error)
                else:
                    spans = [Span(0, len(texts[0]), guard.name)] if bad else []
                    findings.append((guard, [spans]))
        return findings

    def _fail(self, exchange: Exchange, guard: Guard, error: Unjudged) -> None:
        self._count(exchange, guard, "failed")
        if not guard.open:
            raise Unjudged(f"the guardrail {guard.name!r} failed: {error}") from error

    async def _moderate(
        self, exchange: Exchange, upstream: str, texts: list[str]
    ) -> bool:
        asked = {"input": [text for text in texts if text]}
        answer = await self._ask(exchange, upstream, "moderations", asked)
        try:
            results = orjson.loads(answer or b"")["results"]
            return any(result["flagged"] for result in results)
        except (orjson.JSONDecodeError, KeyError, TypeError) as error:
            raise Unjudged(f"{upstream!r} gave no judgement") from error

    def _count(self, exchange: Exchange, guard: Guard, outcome: str) -> None:
        self._metrics.add(
            "bud_gateway_guardrail_total", exchange.route.name, guard.name, outcome
        )

    def count_cache(self, exchange: Exchange, *, hit: bool) -> None:
        name = "hit" if hit else "miss"
        self._metrics.add("bud_gateway_cache_total", exchange.route.name, name)
