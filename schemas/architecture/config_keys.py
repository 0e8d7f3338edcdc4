"""Reading config.json by key, with every fault collected and none raised early.

``schemas.architecture`` alone uses it. A key that is null counts as absent, as in
transformers; the first name present of several wins.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from schemas.errors import Problem, SpecError

__all__ = ["Keys"]

# Ten times the widest and longest of today's models; beyond it a config is broken,
# or written to make its reader count for ever.
_MOST: Final = 100_000_000


class Keys:
    """A view of one mapping; a view of a nested one shares the list of problems."""

    def __init__(
        self,
        config: Mapping[str, object],
        *,
        file: str,
        path: str = "",
        problems: list[Problem] | None = None,
    ) -> None:
        self._config = config
        self._file = file
        self._path = path
        self._problems: list[Problem] = [] if problems is None else problems

    def inner(self, name: str) -> Keys | None:
        """The mapping under ``name``; None where there is none."""
        value = self._config.get(name)
        if not isinstance(value, Mapping):
            return None
        path = f"{self._path}{name}."
        return Keys(value, file=self._file, path=path, problems=self._problems)

    def with_defaults(self, defaults: Mapping[str, int | bool]) -> Keys:
        present = {
            key: value for key, value in self._config.items() if value is not None
        }
        return Keys(
            {**defaults, **present},
            file=self._file,
            path=self._path,
            problems=self._problems,
        )

    def has(self, *names: str) -> bool:
        return any(self._config.get(name) is not None for name in names)

    def integer(self, *names: str, default: int | None = None, least: int = 0) -> int:
        """The first of ``names`` present; without a default, absence is a problem.

        What stands in for a missing number is 1, so that the rest can be read and
        all problems reported; ``raise_problems`` keeps it from ever getting out.
        """
        for name in names:
            value = self._config.get(name)
            if value is None:
                continue
            if type(value) is not int or not least <= value <= _MOST:
                self.problem(
                    name,
                    f"cannot read {name}: {str(value)[:40]!r} is not a count",
                    f"it must be a whole number from {least} to {_MOST}",
                )
                return max(1, least)
            return value
        if default is None:
            other = f" (or {', '.join(names[1:])})" if names[1:] else ""
            self.problem(
                names[0],
                f"cannot find {names[0]}{other}: the key is missing",
                "give the config.json published with the weights, or name a model of "
                "the catalog as the architecture",
            )
            return 1
        return default

    def flag(self, *names: str, default: bool = False) -> bool:
        for name in names:
            value = self._config.get(name)
            if isinstance(value, bool):
                return value
        return default

    def text(self, *names: str) -> str | None:
        for name in names:
            value = self._config.get(name)
            if isinstance(value, str):
                return value
        return None

    def sequence(self, name: str) -> list[object] | None:
        value = self._config.get(name)
        return list(value) if isinstance(value, list | tuple) else None

    def problem(self, name: str, message: str, hint: str) -> None:
        self._problems.append(
            Problem(
                file=self._file, field=f"{self._path}{name}", message=message, hint=hint
            )
        )

    def raise_problems(self) -> None:
        """Raise SpecError if anything read so far, nested views too, was at fault."""
        if self._problems:
            raise SpecError(self._problems)
