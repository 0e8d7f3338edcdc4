"""Which address answers next: one choice at a time, over tiers of targets.

Values in, a choice out; the load it looks at and the random number are
arguments. Called by the exchange before each try.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import NamedTuple, Protocol

from gateway.openai import Op
from gateway.snapshot import Address, Route, Target

__all__ = ["Choice", "Load", "choose"]


class Load(Protocol):
    """What is known of one address right now."""

    @property
    def in_flight(self) -> int: ...


class Choice(NamedTuple):
    target: Target
    address: Address


def choose(
    route: Route,
    op: Op,
    tried: Collection[str],
    loads: Mapping[str, Load],
    random: float,
) -> Choice | None:
    """Choose among the addresses not tried, of the first tier that has one.

    ``random`` is in [0, 1). Within the tier a target is drawn by weight, and of
    its addresses the one with the fewest requests in flight; a target of weight
    0 is used when the others have nothing left.
    """
    for tier in route.tiers:
        open_: list[tuple[Target, list[Address]]] = []
        for target in tier:
            if op not in target.upstream.ops:
                continue
            fresh = [a for a in target.upstream.addresses if a.url not in tried]
            if fresh:
                open_.append((target, fresh))
        if open_:
            target, addresses = _draw(open_, random)
            return Choice(target, _least_busy(addresses, loads, random))
    return None


def _draw(
    targets: list[tuple[Target, list[Address]]], random: float
) -> tuple[Target, list[Address]]:
    total = sum(target.weight for target, _ in targets)
    point = random * total
    for target, addresses in targets:
        point -= target.weight
        if point < 0:
            return target, addresses
    return targets[0]


def _least_busy(
    addresses: list[Address], loads: Mapping[str, Load], random: float
) -> Address:
    if len(addresses) == 1:
        return addresses[0]
    # Start at a random place, so that equals share the work; reuse of the draw's
    # number is harmless once it is scrambled by the count of addresses.
    start = int(random * 7919 * len(addresses)) % len(addresses)
    turned = addresses[start:] + addresses[:start]

    def in_flight(address: Address) -> int:
        load = loads.get(address.url)
        return load.in_flight if load is not None else 0

    return min(turned, key=in_flight)
