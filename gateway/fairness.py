"""Who is next when a route is full: fair shares per project, and per key in it (pure).

Max-min: a place goes to the project with the fewest requests running, in it to the
key with the fewest, in that to the request that came first. Shares are of places
and not of turns, so a key whose requests take long cannot fill the route with them.
Called by admission; knows no clock.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator
from itertools import count
from typing import Generic, TypeVar

__all__ = ["FairQueue"]

T = TypeVar("T")


class FairQueue(Generic[T]):
    """What waits for a place on one route, and what has one."""

    def __init__(self) -> None:
        self._waiting: dict[str, dict[str, deque[T]]] = {}
        """By project and key; nothing in it is empty."""
        self._running: Counter[str] = Counter()
        self._served: dict[str, int] = {}
        """When a name that has something running was last served, in turns."""
        self._turn = count(1)
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[T]:
        for keys in self._waiting.values():
            for line in keys.values():
                yield from line

    def push(self, key: str, item: T) -> None:
        """Let it wait; ``key`` is ``<project>/<name>``."""
        keys = self._waiting.setdefault(_project(key), {})
        keys.setdefault(key, deque()).append(item)
        self._size += 1

    def first(self) -> tuple[str, T]:
        """Say who is next, without taking it out; there must be one."""
        project = min(self._waiting, key=self._share)
        keys = self._waiting[project]
        key = min(keys, key=self._share)
        return key, keys[key][0]

    def _share(self, name: str) -> tuple[int, int]:
        return self._running[name], self._served.get(name, 0)

    def remove(self, key: str, item: T) -> None:
        project = _project(key)
        keys = self._waiting[project]
        keys[key].remove(item)
        self._size -= 1
        if not keys[key]:
            del keys[key]
        if not keys:
            del self._waiting[project]

    def started(self, key: str) -> None:
        """Count a request in that has a place."""
        for name in (key, _project(key)):
            self._running[name] += 1
            self._served[name] = next(self._turn)

    def ended(self, key: str) -> None:
        for name in (key, _project(key)):
            self._running[name] -= 1
            if not self._running[name]:
                del self._running[name], self._served[name]


def _project(key: str) -> str:
    return key.partition("/")[0]
