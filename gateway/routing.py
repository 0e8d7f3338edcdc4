"""Which address answers next: one choice at a time, over tiers of targets.

Values in, a choice out; what is known of the addresses, the time and the random
number are arguments. Called by the exchange before each try.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from typing import Any

from gateway.health import Health
from gateway.openai import Request
from gateway.snapshot import Choice, Route

__all__ = ["Choice", "affinity_of", "choose"]

_PREFIX_CHARS = 2048
"""Of the prompt: long enough to tell system prompts apart, and what follows a
common one is cached behind it."""
_OVERLOAD = 1.25
"""Bounded load (Mirrokni, Thorup, Zadimoghaddam 2017): an address may carry this
much more than the mean before affinity gives way."""


def choose(
    route: Route,
    request: Request,
    tried: Collection[str],
    healths: Mapping[str, Health],
    *,
    now: float,
    random: float,
) -> Choice | None:
    """Choose among the addresses not tried, of the first tier that has a sound one.

    When no tier has a sound one, the first that has any. ``random`` is in [0, 1).
    """
    rest: list[Choice] = []
    for tier in route.choices.get(request.op, ()):
        if len(tier) == 1 and not tried and _is_sound(tier[0], healths, now):
            return tier[0]
        open_ = [c for c in tier if c.address.url not in tried]
        sound = [c for c in open_ if _is_sound(c, healths, now)]
        if sound:
            return (
                sound[0]
                if len(sound) == 1
                else _pick(route.strategy, sound, request, healths, random, now)
            )
        rest = rest or open_
    if not rest:
        return None
    return _pick(route.strategy, rest, request, healths, random, now)


def _is_sound(choice: Choice, healths: Mapping[str, Health], now: float) -> bool:
    health = healths.get(choice.address.url)
    return health is None or health.usable(now)


def _pick(
    strategy: str,
    choices: list[Choice],
    request: Request,
    healths: Mapping[str, Health],
    random: float,
    now: float,
) -> Choice:
    turned = _turn(choices, random)  # equals share the work
    match strategy:
        case "least-load":
            return min(
                turned, key=lambda c: _told(c, healths, now) / (c.target.weight or 1)
            )
        case "least-latency":
            # Two at random, the better one: all would run to the best of yesterday.
            return min(turned[:2], key=lambda c: _expected(c, healths))
        case "cost":
            return min(turned, key=lambda c: (_price(c), _load(c, healths)))
        case "prefix-affinity" | "sticky":
            return _closest(affinity_of(strategy, request), choices, healths)
        case _:
            return _draw(turned, healths, random)


def _turn(choices: list[Choice], random: float) -> list[Choice]:
    # The digits of the draw that decide nothing else.
    start = int(random * 7919 * len(choices)) % len(choices)
    return choices[start:] + choices[:start]


def _load(choice: Choice, healths: Mapping[str, Health]) -> int:
    health = healths.get(choice.address.url)
    return health.in_flight if health is not None else 0


def _told(choice: Choice, healths: Mapping[str, Health], now: float) -> float:
    health = healths.get(choice.address.url)
    return health.load(now) if health is not None else 0.0


def _expected(choice: Choice, healths: Mapping[str, Health]) -> float:
    health = healths.get(choice.address.url)
    return 0.0 if health is None else health.latency_s * (health.in_flight + 1)


def _price(choice: Choice) -> int:
    price = choice.target.upstream.price
    return price.input + price.output


def _draw(
    choices: list[Choice], healths: Mapping[str, Health], random: float
) -> Choice:
    """Draw a target by weight, and of its addresses take the least busy.

    A target of weight 0 is used when the others have nothing left.
    """
    targets = list(dict.fromkeys(choice.target for choice in choices))
    targets.sort(key=lambda target: target.lines)  # the draw must not turn with them
    point = random * sum(target.weight for target in targets)
    drawn = targets[0]
    for target in targets:
        point -= target.weight
        if point < 0:
            drawn = target
            break
    mine = [choice for choice in choices if choice.target is drawn]
    return min(mine, key=lambda c: _load(c, healths))


def _closest(
    affinity: bytes, choices: list[Choice], healths: Mapping[str, Health]
) -> Choice:
    """Take the address that the hash prefers and that is not overloaded.

    Rendezvous hashing: when an address comes or goes, only its own share moves.
    """

    def rank(choice: Choice) -> bytes:
        url = choice.address.url.encode()
        return hashlib.blake2b(affinity + url, digest_size=8).digest()

    loads = [_load(choice, healths) for choice in choices]
    bound = _OVERLOAD * (sum(loads) + 1) / len(choices)
    fitting = [c for c, load in zip(choices, loads, strict=True) if load < bound]
    return max(fitting or choices, key=rank)


def affinity_of(strategy: str, request: Request) -> bytes:
    """Say what should stay together: a session, or prompts with one beginning."""
    document = request.document
    if strategy == "sticky":
        for field in ("prompt_cache_key", "session_id", "user"):
            value = document.get(field)
            if isinstance(value, str) and value:
                return value.encode("utf-8", "surrogatepass")
    text = ""
    for part in _prompt(document):
        text += part
        if len(text) >= _PREFIX_CHARS:
            break
    return text[:_PREFIX_CHARS].encode("utf-8", "surrogatepass")


def _prompt(document: dict[str, Any]) -> list[str]:
    messages = document.get("messages")
    if isinstance(messages, list):
        contents = [m.get("content") for m in messages[:4] if isinstance(m, dict)]
    else:
        contents = [document.get("prompt") or document.get("input")]
    return [c if isinstance(c, str) else repr(c)[:_PREFIX_CHARS] for c in contents]
