"""One of several daemons of an environment: what is its to drive, and when no more (I/O).

`bud reconcile --replica` makes one; the pipeline asks it what this process drives. Who
is alive is read off Leases of the management cluster, who drives what is computed from
that by everybody alike (`sharding`), and a shard is claimed in the store, whose tokens
fence off whoever drove it before. It never takes a shard from a replica that lives: that
one gives it up, and drops the run it has in hand, before it is taken.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import asynccontextmanager, suppress

import structlog

from reconciler.sharding import HOME, assign, shard_of
from reconciler.store import Journal, Shards
from reconciler.targets.kubernetes.lease import Lease
from reconciler.values import Key
from schemas.errors import FoundryError, TemporaryError

__all__ = ["Replica"]

_log = structlog.get_logger("replica")

_RENEWALS = 5
_PATIENCE = 3
"""In the length of a Lease: so often it is renewed, and so long one renewal may take."""


class Replica:
    def __init__(self, lease: Lease, shards: Shards, journal: Journal) -> None:
        self._lease, self._shards, self._journal = lease, shards, journal
        self._known: frozenset[str] = frozenset({HOME})
        """Shards of the last look."""
        self._ours: frozenset[str] = frozenset()
        """Those of them that are ours, as the replicas are now."""

    @property
    def claims(self) -> Mapping[str, int]:
        return self._journal.claims or {}

    def drives(self, target: str) -> bool:
        shard = shard_of(target)
        return self._lease.held and shard in self._ours and shard in self.claims

    async def settle(self, targets: Collection[str], in_hand: Collection[Key]) -> None:
        """Give up what is another's now, and claim what nobody alive holds."""
        self._known = frozenset({HOME, *map(shard_of, targets)})
        self._share()
        if not self._lease.held:
            self._journal.claims = {}
            return
        for shard in (
            self.claims.keys() - self._ours - {shard_of(key.target) for key in in_hand}
        ):
            token = self.claims[shard]
            self._journal.claims = {s: t for s, t in self.claims.items() if s != shard}
            self._shards.release(shard, token)
            _log.info("released", shard=shard)
        holders = self._shards.holders()
        # Whatever somebody claimed from us, thinking us dead, is lost until we claim it.
        self._journal.claims = {
            s: t for s, t in self.claims.items() if holders[s].token == t
        }
        # Read after the holders: whoever held a shard then had its Lease before.
        await self._lease.look()
        self._share()
        alive = {*self._lease.alive.values()} - {self._lease.identity}
        for shard in sorted(self._ours - self.claims.keys()):
            seen = holders.get(shard)
            if seen is not None and seen.name in alive:
                continue  # it lives, and gives it up once it has seen us
            given = self._shards.claim(shard, self._lease.identity, seen)
            if given is not None:
                self._journal.claims = {**self.claims, shard: given}
                _log.info("claimed", shard=shard, token=given)

    @asynccontextmanager
    async def keeping(self, moved: Callable[[], None]) -> AsyncIterator[None]:
        """Hold the Lease while the block runs; ``moved`` when there may be another
        share. At its end everything is given up, so that nobody need wait.

        Raises:
            FoundryError: it cannot be had.
        """
        try:
            await self._begin()
            async with asyncio.TaskGroup() as group:
                renewing = group.create_task(self._renew(moved))
                yield
                renewing.cancel()
        finally:
            claims, self._journal.claims = self.claims, {}
            with suppress(FoundryError):
                for shard, token in claims.items():
                    self._shards.release(shard, token)
                await self._lease.release()
            await self._lease.close()

    async def _begin(self) -> None:
        """Take the Lease; a process of this name that was killed may still hold it."""
        for _ in range(2 * _RENEWALS):
            with suppress(TemporaryError):
                await self._lease.renew()
                return
            await asyncio.sleep(self._lease.seconds / _RENEWALS)
        await self._lease.renew()

    async def _renew(self, moved: Callable[[], None]) -> None:
        pause = self._lease.seconds / _RENEWALS
        while True:
            await asyncio.sleep(pause * random.uniform(0.8, 1.0))  # noqa: S311 - jitter
            if not self._lease.held:
                # Whatever we drove may be another's: claimed anew, or not at all.
                self._journal.claims = {}
            try:
                async with asyncio.timeout(self._lease.seconds / _PATIENCE):
                    await self._lease.renew()
            except (FoundryError, TimeoutError) as error:
                _log.warning("cannot renew", reason=str(error) or "no answer in time")
            self._share()
            if not self._lease.held or self.claims.keys() != self._ours:
                moved()

    def _share(self) -> None:
        given = assign(self._known, self._lease.alive)
        mine = self._lease.replica
        self._ours = frozenset(s for s, replica in given.items() if replica == mine)
