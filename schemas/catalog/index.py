"""Entries by name, alias and near miss.

The catalog is made of these. It never decides which entry was meant: a name that
is not known is an error with the nearest names in its hint.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Generic, TypeVar

from schemas.errors import PermanentError

__all__ = ["Index"]

T = TypeVar("T")


class Index(Generic[T]):
    """A mapping from key to entry that also knows aliases, in any letter case.

    Raises:
        ValueError: a name stands for two entries.
    """

    def __init__(
        self,
        noun: str,
        entries: Mapping[str, T],
        aliases: Mapping[str, tuple[str, ...]] = MappingProxyType({}),
    ) -> None:
        self._noun = noun
        self._entries = dict(entries)
        self._keys: dict[str, str] = {}
        for key in entries:
            for name in (key, *aliases.get(key, ())):
                other = self._keys.setdefault(name.casefold(), key)
                if other != key:
                    raise ValueError(f"{noun} {name!r} names both {other} and {key}")

    def __iter__(self) -> Iterator[T]:
        return iter(self._entries.values())

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, name: str) -> bool:
        return name.casefold() in self._keys

    def get(self, name: str) -> T | None:
        key = self._keys.get(name.casefold())
        return None if key is None else self._entries[key]

    def find(self, name: str) -> T:
        """The entry called ``name``.

        Raises:
            PermanentError: there is none; the hint has the nearest names.
        """
        entry = self.get(name)
        if entry is None:
            near = ", ".join(self.nearest(name))
            raise PermanentError(
                f"cannot find {self._noun}: {name!r} is not in the catalog",
                hint=f"did you mean {near}?" if near else "docs/catalog.md adds one",
            )
        return entry

    def nearest(self, name: str, count: int = 3) -> tuple[str, ...]:
        """Keys that are spelled most like ``name``, or have such an alias."""
        found = difflib.get_close_matches(name.casefold(), self._keys, n=3 * count)
        return tuple(dict.fromkeys(self._keys[match] for match in found))[:count]
