"""What an exchange asks of the world: the client, a connection, the worker.

The edge, the upstream side and the worker fulfil these with sockets; tests do
with lists of bytes.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import TYPE_CHECKING, NamedTuple, Protocol

from gateway.health import Health, RetryBudget
from gateway.metrics import Metrics
from gateway.snapshot import Address, Route, Snapshot, Upstream
from gateway.usage import Usage

if TYPE_CHECKING:
    from gateway.attempt import Attempt
    from gateway.exchange import Exchange

__all__ = ["Client", "Connection", "Runtime", "Settled"]


class Client(Protocol):
    """The edge's side of one request."""

    def write(self, data: bytes) -> None: ...
    def finish(self) -> None:
        """The answer is whole."""
        ...

    def cut(self) -> None:
        """The answer can not be completed: close without a word."""
        ...


class Connection(Protocol):
    """An upstream connection that carries one try at a time."""

    reused: bool

    def send(self, data: bytes, attempt: Attempt) -> None: ...
    def upload(self, parts: AsyncIterator[bytes], *, chunked: bool) -> None:
        """Send a body behind the head, as fast as the upstream takes it."""
        ...

    def abort(self) -> None: ...
    def pause(self) -> None: ...
    def resume(self) -> None: ...


class Runtime(Protocol):
    """What the worker lends to its exchanges."""

    snapshot: Snapshot
    metrics: Metrics

    def retries(self, route: Route) -> RetryBudget: ...
    @property
    def healths(self) -> Mapping[str, Health]:
        """By address; none: nothing is known of it."""
        ...

    def health(self, url: str) -> Health: ...
    def now(self) -> float: ...
    def wall(self) -> float:
        """Seconds since the epoch."""
        ...

    def random(self) -> float: ...
    def connect(
        self, address: Address, attempt: Attempt, *, limit_s: float, fresh: bool
    ) -> None:
        """Lend an idle connection at once or open one; `connected` is called."""
        ...

    def wait(self, exchange: Exchange, seconds: float | None) -> None:
        """Call `resume` after so long, or as soon as the snapshot changes."""
        ...

    def settled(self, exchange: Exchange, outcome: Settled) -> None: ...


class Settled(NamedTuple):
    """All there is to know of a request that is over."""

    upstream: Upstream | None
    status: int
    """As the client saw it; 499: the client left first."""
    usage: Usage
    cost: int
    """In nano-dollars."""
    estimated: bool
    """The upstream did not say what was used."""
    seconds: float
    first_seconds: float | None
    chunks: int
    """Of a stream; 0: the answer was none."""
