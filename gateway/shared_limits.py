"""Limits of several gateways, kept together in Valkey (I/O).

The supervisor asks here instead of its own `Authority` alone. A slice is taken off
the shared limit in one step before it is used, so however many gateways there
are, together they admit no more than the limit. What a gateway has spent and
lent it says as its own total, never as a difference: it can be said twice, and a
server that lost everything knows it again with the next word of each gateway.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterator
from typing import Any, cast

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from gateway.limits import Authority, Grant, Limiter, window_of

__all__ = ["SharedLimits"]

_LIMIT_S = 0.25
"""A request waits for a lease; longer than this, and the server counts as gone."""
_ALIVE_S = 10
"""What a gateway that is not heard of for so long had lent is free again."""
_HEARTBEAT_S = 2.0
_KEEP_S = 40 * 86_400
"""Longer than the longest budget window."""
_UNREACHABLE = (RedisError, OSError, TimeoutError)

# As `Authority` does it, by the server's clock.
_BUCKET = """
local t = redis.call('TIME')
local now = tonumber(t[1]) + tonumber(t[2]) / 1e6
local limit, need, want = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local rate = limit / 60
local had = redis.call('HMGET', KEYS[1], 'level', 'at')
local level = (tonumber(had[1]) or limit) + math.max(0, now - (tonumber(had[2]) or now)) * rate
level = math.min(limit, level)
local amount, retry = 0, 0
if need > limit and level >= limit then amount = need
elseif level < need then retry = (math.min(need, limit) - level) / rate
else amount = math.min(want, math.floor(level)) end
level = level - amount
redis.call('HSET', KEYS[1], 'level', string.format('%.6f', level), 'at', string.format('%.6f', now))
redis.call('EXPIRE', KEYS[1], math.ceil((limit - level) / rate) + 60)
return {string.format('%d', amount), string.format('%.3f', retry)}
"""
_RETURN = """
if redis.call('EXISTS', KEYS[1]) == 1 then
  redis.call('HINCRBYFLOAT', KEYS[1], 'level', ARGV[1])
end
"""
_POOL = """
local t = redis.call('TIME')
local now, me = tonumber(t[1]), ARGV[4]
redis.call('ZADD', KEYS[3], now + tonumber(ARGV[7]), me)
redis.call('HSET', KEYS[1], me, ARGV[5])
redis.call('EXPIRE', KEYS[1], ARGV[8])
local used = tonumber(ARGV[6])
for _, spent in ipairs(redis.call('HVALS', KEYS[1])) do used = used + tonumber(spent) end
local out = redis.call('HGETALL', KEYS[2])
for i = 1, #out, 2 do
  if out[i] ~= me then
    local until_ = redis.call('ZSCORE', KEYS[3], out[i])
    if until_ and tonumber(until_) >= now then used = used + tonumber(out[i + 1])
    else redis.call('HDEL', KEYS[2], out[i]) end
  end
end
local left, need = tonumber(ARGV[1]) - used, tonumber(ARGV[2])
local amount = 0
if left >= need then amount = math.min(left, tonumber(ARGV[3])) end
redis.call('HSET', KEYS[2], me, string.format('%d', tonumber(ARGV[6]) + amount))
redis.call('EXPIRE', KEYS[2], ARGV[8])
return string.format('%d', amount)
"""
_HOLDERS = "{bud}:holders"
_log = structlog.get_logger("gateway")


class SharedLimits:
    """One gateway's word on the limits that it shares."""

    def __init__(
        self, client: Redis, authority: Authority, *, holder: str, fails_open: bool
    ) -> None:
        self._client, self._authority = client, authority
        self._holder, self._open = holder, fails_open
        self._bucket = client.register_script(_BUCKET)
        self._return = client.register_script(_RETURN)
        self._pool = client.register_script(_POOL)
        self._turns: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._said: dict[str, tuple[str, int, int]] = {}
        self._said_at = 0.0
        self.up = True

    async def grant(
        self, limiter: Limiter, *, worker: int, need: int, want: int, now: float
    ) -> Grant | None:
        """Take a slice off the shared limit; None: this gateway is on its own."""
        try:
            async with self._turns[limiter.id], asyncio.timeout(_LIMIT_S):
                if limiter.is_rate:
                    grant = await self._from_bucket(limiter, need, want)
                else:
                    grant = await self._from_pool(limiter, worker, need, want, now)
        except _UNREACHABLE as error:
            self._hear(up=False, error=repr(error))
            return None if self._open else Grant(0, 1.0, reachable=False)
        self._hear(up=True)
        return grant

    async def _from_bucket(self, limiter: Limiter, need: int, want: int) -> Grant:
        amount, retry = cast(
            "list[bytes]",
            await self._bucket(
                keys=[_key("rate", limiter.id)], args=[limiter.limit, need, want]
            ),
        )
        return Grant(int(amount), float(retry))

    async def _from_pool(
        self, limiter: Limiter, worker: int, need: int, want: int, now: float
    ) -> Grant:
        window, reset = "", 1.0
        if limiter.kind == "budget":
            window, end = window_of(limiter.per, now)
            reset = end - now
        spent, out = self._authority.standing(limiter.id, window)
        amount = int(
            cast(
                "bytes",
                await self._pool(
                    keys=[*_pool_keys(limiter.id, window), _HOLDERS],
                    args=[
                        limiter.limit,
                        need,
                        want,
                        self._holder,
                        spent,
                        out,
                        _ALIVE_S,
                        _KEEP_S,
                    ],
                ),
            )
        )
        self._authority.lend(limiter.id, window, worker=worker, amount=amount)
        return Grant(amount, 0.0 if amount else reset)

    async def give_back(self, name: str, amount: int) -> None:
        """Return what was taken of a rate and not used."""
        try:
            async with asyncio.timeout(_LIMIT_S):
                await self._return(keys=[_key("rate", name)], args=[amount])
        except _UNREACHABLE as error:
            self._hear(up=False, error=repr(error))

    async def publish(self, now: float) -> None:
        """Say what changed since the last time, and that this gateway lives."""
        changed = {
            name: standing
            for name, standing in self._standings()
            if self._said.get(name) != standing
        }
        if not changed and now - self._said_at < _HEARTBEAT_S:
            return
        if now - self._said_at >= _HEARTBEAT_S:
            changed = dict(self._standings())  # all of it, should it have been lost
        pipe = self._client.pipeline(transaction=False)
        pipe.zadd(_HOLDERS, {self._holder: int(now) + _ALIVE_S})
        for name, (window, spent, out) in changed.items():
            for key, amount in zip(_pool_keys(name, window), (spent, out), strict=True):
                pipe.hset(key, self._holder, str(amount))
                pipe.expire(key, _KEEP_S)
        try:
            async with asyncio.timeout(_LIMIT_S):
                await pipe.execute()
        except _UNREACHABLE as error:
            self._hear(up=False, error=repr(error))
            return
        self._hear(up=True)
        self._said |= changed
        self._said_at = now

    def _standings(self) -> Iterator[tuple[str, tuple[str, int, int]]]:
        for name, window in self._authority.pools():
            yield name, (window, *self._authority.standing(name, window))

    def _hear(self, *, up: bool, error: str = "") -> None:
        if up != self.up:
            self.up = up
            tell: Any = _log.info if up else _log.error
            tell("shared limits", reachable=up, error=error)

    async def close(self) -> None:
        await self._client.aclose()


def _key(kind: str, name: str) -> str:
    # One slot of a cluster: a script may only touch keys that are together.
    return f"{{bud}}:{kind}:{name}"


def _pool_keys(name: str, window: str) -> tuple[str, str]:
    return _key("spent", f"{name}:{window}"), _key("out", name)
