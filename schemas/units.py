"""Units as types: a target in milliseconds cannot be read as seconds.

A quantity is written with its unit (``200ms``, ``16GiB``, ``12.5 USD``); a bare
number is refused, because the reader cannot know what it counts. Each type
holds one canonical number and offers it only under a name that says the unit.
"""

from __future__ import annotations

import re
from decimal import Decimal
from functools import total_ordering
from typing import Any, ClassVar, Self

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, core_schema

__all__ = ["Bytes", "Duration", "Money", "Quantity", "TokenRate"]


@total_ordering
class Quantity:
    """A number with its unit; immutable, ordered, hashed by its canonical value.

    Raises:
        ValueError: the text has no unit, an unknown one, or is negative.
    """

    __slots__ = ("_text", "_value")

    units: ClassVar[dict[str, Decimal]]
    """Unit -> how many canonical units one of it is."""
    noun: ClassVar[str]
    example: ClassVar[str]

    def __init__(self, text: str) -> None:
        match = re.fullmatch(
            r"([0-9]{1,15}(?:\.[0-9]{1,9})?)\s*(\S{1,12})", text.strip()
        )
        if match is None or match[2] not in self.units:
            known = ", ".join(self.units)
            raise ValueError(
                f"cannot read {text[:80]!r} as {self.noun}: write a number and a unit "
                f"({known}), such as {self.example}"
            )
        self._value = Decimal(match[1]) * self.units[match[2]]
        self._text = f"{match[1]}{match[2]}"

    def __str__(self) -> str:
        return self._text

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._text!r})"

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and self._value == other._value

    def __lt__(self, other: Self) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return self._value < other._value

    def __hash__(self) -> int:
        return hash((type(self), self._value))

    @classmethod
    def __get_pydantic_core_schema__(
        cls, source: type[Any], handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(
            cls._validate, serialization=core_schema.to_string_ser_schema()
        )

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        units = "|".join(re.escape(unit) for unit in cls.units)
        return {
            "type": "string",
            "pattern": rf"^\d+(\.\d+)?\s*({units})$",
            "examples": [cls.example],
        }

    @classmethod
    def _validate(cls, value: object) -> Self:
        if isinstance(value, cls):
            return value
        if isinstance(value, str):
            return cls(value)
        raise ValueError(
            f"cannot read {value!r} as {cls.noun}: a bare number has no unit, "
            f"write it as {cls.example}"
        )


class Duration(Quantity):
    """A length of time, such as ``200ms`` or ``1.5h``."""

    __slots__ = ()
    noun, example = "a duration", "200ms"
    units: ClassVar = {
        "us": Decimal("0.000001"),
        "ms": Decimal("0.001"),
        "s": Decimal(1),
        "m": Decimal(60),
        "h": Decimal(3600),
        "d": Decimal(86400),
    }

    @property
    def seconds(self) -> float:
        return float(self._value)

    @property
    def ms(self) -> float:
        return float(self._value * 1000)


class Bytes(Quantity):
    """An amount of memory or storage, such as ``80GiB`` or ``1TB``."""

    __slots__ = ()
    noun, example = "a size", "16GiB"
    units: ClassVar = {
        "B": Decimal(1),
        **{f"{p}B": Decimal(1000) ** (i + 1) for i, p in enumerate("kMGTP")},
        **{f"{p}iB": Decimal(1024) ** (i + 1) for i, p in enumerate("KMGTP")},
    }

    @property
    def bytes(self) -> int:
        return int(self._value)

    @property
    def gib(self) -> float:
        return float(self._value / 1024**3)


class TokenRate(Quantity):
    """A flow of tokens, such as ``400tok/s``."""

    __slots__ = ()
    noun, example = "a token rate", "400tok/s"
    units: ClassVar = {"tok/s": Decimal(1), "tok/min": Decimal(1) / 60}

    @property
    def tokens_per_s(self) -> float:
        return float(self._value)


class Money(Quantity):
    """An amount in one currency, such as ``1500USD``. Currencies never mix."""

    __slots__ = ()
    noun, example = "an amount of money", "1500USD"
    # One currency only: prices in the catalog are list prices in US dollars, and
    # a rate between currencies would be an input that nobody pinned.
    units: ClassVar = {"USD": Decimal(1)}

    @property
    def usd(self) -> Decimal:
        return self._value
