"""What one worker knows of each address: its connections and its health (I/O).

Made by the worker and lent to its tries. An address that the config no longer
names is forgotten once nothing is left of it.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Mapping

from gateway.attempt import Attempt
from gateway.health import Health, Reported
from gateway.pool import Pool
from gateway.snapshot import Address, Trust
from gateway.tls import context_of

__all__ = ["AddressBook"]

_IDLE_S = 60.0
"""Below the 75 s after which common servers close an idle connection."""


class AddressBook:
    """All addresses that were ever asked, by URL."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, *, wanted: Callable[[str], bool]
    ) -> None:
        self._loop, self._wanted = loop, wanted
        self._tls: dict[Trust, ssl.SSLContext] = {}
        self._pools: dict[str, Pool] = {}
        self.healths: dict[str, Health] = {}

    def health(self, url: str) -> Health:
        health = self.healths.get(url)
        if health is None:
            health = self.healths[url] = Health()
        return health

    def hear(self, loads: Mapping[str, tuple[float, float, float]], now: float) -> None:
        """Take what engines say of themselves."""
        for url, load in loads.items():
            self.health(url).hear(Reported(*load), now)

    def connect(
        self, address: Address, attempt: Attempt, *, limit_s: float, fresh: bool
    ) -> None:
        pool = self._pools.get(address.url)
        if pool is not None and address.tls and pool.address.trust != address.trust:
            pool.retire()  # what we show, or whom we believe, is another by now
            pool = None
        if pool is None:
            tls = self.tls_of(address) if address.tls else None
            pool = Pool(address, self._loop, tls, wanted=self._wanted)
            self._pools[address.url] = pool
        pool.lend(attempt, limit_s=limit_s, fresh=fresh)

    def tls_of(self, address: Address) -> ssl.SSLContext:
        context = self._tls.get(address.trust)
        if context is None:
            context = self._tls[address.trust] = context_of(address.trust)
        return context

    def close_idle(self) -> None:
        """Close what may carry no request any more."""
        for url, pool in self._pools.items():
            if not self._wanted(url):
                pool.close_idle()

    def sweep(self, now: float) -> None:
        """Close what nobody needed for long, and forget what is gone."""
        for url, pool in list(self._pools.items()):
            pool.close_idle(before=now - _IDLE_S)
            if pool.empty and not self._wanted(url):
                del self._pools[url]
                self.healths.pop(url, None)

    def abort(self) -> None:
        for pool in self._pools.values():
            pool.abort()
