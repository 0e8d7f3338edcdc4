"""Limits by leases: what a worker may let through, and what all may together.

The supervisor's `Authority` owns each limit and hands out slices of it; a
worker's `Slices` admit requests from the slices it holds and asks for more. A
slice is taken off the limit before it is used, so however many workers there
are, together they never admit more than the limit; what a slice leaves unused
goes back. An answer that costs more than was reserved leaves a debt, which the
next slice pays first. Pure: time is an argument.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Literal, NamedTuple, TypeAlias

__all__ = [
    "NANO",
    "Amounts",
    "Authority",
    "Grant",
    "Kind",
    "Limiter",
    "Purse",
    "Slices",
    "settle",
    "slice_of",
    "take",
    "window_of",
]

Kind: TypeAlias = Literal["requests", "tokens", "concurrent", "budget"]
Amounts: TypeAlias = Mapping[Kind, int]
PERIODS = ("day", "month")
NANO = 10**9
"""Money is counted in billionths of a dollar, so that a token has a price."""
_MINUTE_S = 60.0
_SLICES = 20
"""A slice is this part of a limit, shared by the workers: small enough that one
worker cannot sit on what another needs, large enough to be asked for rarely."""


class Limiter(NamedTuple):
    """One limit of one scope; make it with `of`."""

    id: str
    scope: str
    """What is limited, such as ``key team/ci``."""
    kind: Kind
    limit: int
    """A minute's requests or tokens, requests at once, or nano-dollars."""
    per: str = "month"
    """Of a budget: ``day`` or ``month``, in UTC."""

    @classmethod
    def of(cls, scope: str, kind: Kind, limit: int, per: str = "month") -> Limiter:
        name = f"{scope}:{per if kind == 'budget' else kind}"
        return cls(name, scope, kind, limit, per)

    @property
    def is_rate(self) -> bool:
        """Refilled with time; what is not is lent, or spent."""
        return self.kind in {"requests", "tokens"}

    def describe(self) -> str:
        match self.kind:
            case "requests":
                return f"{self.limit} requests a minute"
            case "tokens":
                return f"{self.limit} tokens a minute"
            case "concurrent":
                return f"{self.limit} requests at once"
            case "budget":
                return f"a budget of {self.limit / NANO:g} USD a {self.per}"


class Held:
    """What a worker holds of one limit; below zero it is in debt."""

    __slots__ = ("amount",)

    def __init__(self) -> None:
        self.amount = 0


Purse: TypeAlias = tuple[tuple[Kind, Held, Limiter], ...]
"""What a worker holds of all limits that a request is under."""


class Slices:
    """A worker's side: what it holds of each limit."""

    def __init__(self) -> None:
        self._held: dict[str, Held] = {}
        self._before: dict[str, int] = {}
        """What it held when `surplus` was last asked."""

    def held(self, name: str) -> Held:
        held = self._held.get(name)
        if held is None:
            held = self._held[name] = Held()
        return held

    def purse(self, limiters: Iterable[Limiter]) -> Purse:
        return tuple((one.kind, self.held(one.id), one) for one in limiters)

    def missing(self, limiter: Limiter, amount: int) -> int:
        """Count what must be granted before ``amount`` can be taken."""
        return max(0, amount - self.held(limiter.id).amount)

    def put(self, name: str, amount: int) -> None:
        """Add a grant."""
        self.held(name).amount += amount

    def surplus(self) -> Iterator[tuple[str, int]]:
        """Take out what is as it was the last time, to give it back."""
        before = self._before
        self._before = {name: held.amount for name, held in self._held.items()}
        for name, amount in self._before.items():
            if amount > 0 and before.get(name) == amount:
                self._held[name].amount = 0
                yield name, amount


def take(purse: Purse, amounts: Amounts) -> Limiter | None:
    """Take all that a request needs, or nothing; give the limiter that lacks it."""
    for kind, held, limiter in purse:
        if held.amount < amounts[kind]:
            return limiter
    for kind, held, _ in purse:
        held.amount -= amounts[kind]
    return None


def settle(purse: Purse, reserved: Amounts, actual: Amounts) -> None:
    """Give back what was reserved and not used; what was used beyond is a debt."""
    for kind, held, _ in purse:
        held.amount += reserved[kind] - actual[kind]


class Grant(NamedTuple):
    amount: int
    retry_after_s: float
    """If nothing was granted: when it is worth asking again."""
    reachable: bool = True
    """False: nobody could be asked, and so nothing is admitted."""


@dataclass(slots=True)
class _Bucket:
    """A rate: a minute's worth at most, refilled steadily."""

    level: float
    at: float


@dataclass(slots=True)
class _Pool:
    """A stock that is lent (requests at once) or spent (money)."""

    window: str = ""
    spent: int = 0
    out: dict[int, int] = field(default_factory=dict)
    """Lent to each worker, not yet spent or given back."""


class Authority:
    """The supervisor's side: all limits, whoever asks."""

    def __init__(self) -> None:
        self._buckets: dict[str, _Bucket] = {}
        self._pools: dict[str, _Pool] = {}

    def grant(
        self, limiter: Limiter, *, worker: int, need: int, workers: int, now: float
    ) -> Grant:
        """Lend ``worker`` a slice with at least ``need``, or nothing.

        ``now`` is in seconds since the epoch.
        """
        want = slice_of(limiter, need, workers)
        if limiter.is_rate:
            return self._from_bucket(limiter, need, want, now)
        return self._from_pool(limiter, worker, need, want, now)

    def _from_bucket(self, limiter: Limiter, need: int, want: int, now: float) -> Grant:
        rate = limiter.limit / _MINUTE_S
        bucket = self._buckets.setdefault(limiter.id, _Bucket(limiter.limit, now))
        bucket.level += max(0.0, now - bucket.at) * rate
        bucket.level = min(bucket.level, limiter.limit)
        bucket.at = now
        if need > limiter.limit and bucket.level >= limiter.limit:
            # Larger than a whole minute's worth: alone it may pass, or it never
            # could; the debt then keeps all others waiting for as long.
            bucket.level -= need
            return Grant(need, 0.0)
        if bucket.level < need:
            lacking = min(need, limiter.limit) - bucket.level
            return Grant(0, lacking / rate if rate else _MINUTE_S)
        amount = min(want, int(bucket.level))
        bucket.level -= amount
        return Grant(amount, 0.0)

    def _from_pool(
        self, limiter: Limiter, worker: int, need: int, want: int, now: float
    ) -> Grant:
        pool = self._pools.setdefault(limiter.id, _Pool())
        reset = 1.0  # a request that runs now may end any time
        if limiter.kind == "budget":
            window, end = window_of(limiter.per, now)
            reset = end - now
            if pool.window != window:
                pool.window, pool.spent = window, 0
        left = limiter.limit - pool.spent - sum(pool.out.values())
        if left < need:
            return Grant(0, reset)
        amount = min(want, left)
        pool.out[worker] = pool.out.get(worker, 0) + amount
        return Grant(amount, 0.0)

    def pools(self) -> Iterator[tuple[str, str]]:
        """Name what is lent or spent, and the window that it is in."""
        yield from ((name, pool.window) for name, pool in self._pools.items())

    def standing(self, name: str, window: str) -> tuple[int, int]:
        """Say what was spent in a window, and what is lent."""
        pool = self._pools.get(name)
        if pool is None:
            return 0, 0
        spent = pool.spent if pool.window == window else 0
        return spent, sum(pool.out.values())

    def lend(self, name: str, window: str, *, worker: int, amount: int) -> None:
        """Note a slice that was granted elsewhere."""
        pool = self._pools.setdefault(name, _Pool())
        if pool.window != window:
            pool.window, pool.spent = window, 0
        if amount:
            pool.out[worker] = pool.out.get(worker, 0) + amount

    def give_back(self, name: str, *, worker: int, amount: int) -> None:
        if name in self._buckets:
            self._buckets[name].level += amount
        elif name in self._pools:
            out = self._pools[name].out
            out[worker] = out.get(worker, 0) - amount

    def spent(self, scope: str, amount: int, *, worker: int, at: float) -> None:
        """Count money that a record says was spent; ``worker`` owes so much less."""
        for per in PERIODS:
            pool = self._pools.setdefault(f"{scope}:{per}", _Pool())
            window, _ = window_of(per, at)
            if window > pool.window:
                pool.window, pool.spent = window, 0
            if window == pool.window:
                pool.spent += amount
            if worker in pool.out:
                pool.out[worker] -= amount

    def forget(self, worker: int) -> None:
        """Take back what a worker that is gone still held."""
        for pool in self._pools.values():
            pool.out.pop(worker, None)

    def spending(self) -> dict[str, tuple[str, int]]:
        """Give what each scope spent, as (window, nano-dollars)."""
        return {
            name: (pool.window, pool.spent)
            for name, pool in self._pools.items()
            if pool.window
        }

    def restore(self, spending: Mapping[str, tuple[str, int]]) -> None:
        """Take up what `spending` gave."""
        for name, (window, spent) in spending.items():
            self._pools[name] = _Pool(window=window, spent=spent)


def slice_of(limiter: Limiter, need: int, workers: int) -> int:
    """Say how much is lent at a time."""
    return max(need, limiter.limit // (_SLICES * workers))


def window_of(per: str, now: float) -> tuple[str, float]:
    """Name the budget window that ``now`` is in, and say when it ends."""
    day = datetime.fromtimestamp(now, UTC).replace(hour=0, minute=0, second=0)
    day = day.replace(microsecond=0)
    if per == "day":
        return day.strftime("%Y-%m-%d"), (day + timedelta(days=1)).timestamp()
    following = (day.replace(day=1) + timedelta(days=32)).replace(day=1)
    return day.strftime("%Y-%m"), following.timestamp()
