"""The whole error tree. The class says what the reader does next.

    FoundryError            hint: one way out
    ├── SpecError           mend the file: every problem of a commit at once
    ├── TemporaryError      wait: the same call may go through later
    ├── PermanentError      call someone: the same call will fail again
    └── ChainBrokenError    stop: the ledger does not prove what it should

A message reads ``cannot <verb> <noun>: <value found>``, lower case, without a
period and never with a secret in it. Library errors are wrapped once, where
the I/O happens, with ``from``.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

__all__ = [
    "ChainBrokenError",
    "FoundryError",
    "PermanentError",
    "Problem",
    "SpecError",
    "TemporaryError",
]


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Problem:
    """One thing to mend in one file.

    ``line`` and ``column`` count from 1; 0 means the file as a whole.
    ``field`` is a dotted path such as ``spec.parallelism.tensor``.
    """

    file: str
    line: int = 0
    column: int = 0
    field: str = ""
    message: str
    hint: str = ""

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}:{self.column}" if self.line else self.file
        where = f"{place}: {self.field}: " if self.field else f"{place}: "
        return where + self.message + (f"\n  hint: {self.hint}" if self.hint else "")


class FoundryError(Exception):
    """What every deliberate failure is; raise a subclass that says what to do."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint

    def __str__(self) -> str:
        message = super().__str__()
        return f"{message}\nhint: {self.hint}" if self.hint else message


class SpecError(FoundryError):
    """Something written is wrong. Carries every problem, sorted by place."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(sorted(set(problems)))
        count = len(self.problems)
        super().__init__(f"{count} problem{'s' if count != 1 else ''} in the spec")

    def __str__(self) -> str:
        return "\n".join(str(problem) for problem in self.problems)


class TemporaryError(FoundryError):
    """Wait: the cause is expected to pass. ``retry_after_s`` is a lower bound."""

    def __init__(
        self, message: str, *, hint: str = "", retry_after_s: float = 0.0
    ) -> None:
        super().__init__(message, hint=hint)
        self.retry_after_s = retry_after_s


class PermanentError(FoundryError):
    """Call someone: trying again changes nothing."""


class ChainBrokenError(FoundryError):
    """Stop: entry ``seq`` of the ledger is not what the chain says it is."""

    def __init__(
        self, message: str, *, seq: int, expected: str = "", found: str = ""
    ) -> None:
        super().__init__(
            message,
            hint="stop the daemon, keep the store as it is, and compare it with the "
            "last checkpoint exported to git",
        )
        self.seq, self.expected, self.found = seq, expected, found
