"""The text of the gateway's two files: TOML and JSON, read and written.

The renderer writes one object at a time with `dump_table`, the same bytes for
equal values, so that the file as a whole is its tables in order. The gateway
reads with `load` and `load_addresses`. Nothing here opens a file.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator, Mapping
from datetime import datetime

from pydantic import BaseModel, ValidationError

from schemas.errors import Problem, SpecError
from schemas.gateway import Addresses, GatewayConfig

__all__ = [
    "dump",
    "dump_addresses",
    "dump_table",
    "json_schema",
    "load",
    "load_addresses",
]

_BARE = re.compile(r"[A-Za-z0-9_-]+")


def dump(config: GatewayConfig) -> str:
    """Write the whole file: the listener first, then each family by name."""
    tables = [dump_table("gateway", config.gateway)]
    for family in ("projects", "keys", "upstreams", "routes"):
        objects: Mapping[str, BaseModel] = getattr(config, family)
        tables += [
            dump_table(f"{family}.{_key(name)}", objects[name])
            for name in sorted(objects)
        ]
    return "\n".join(tables)


def dump_table(path: str, model: BaseModel) -> str:
    """Write one table, ``path`` being its header such as ``routes."team/chat"``.

    Fields stand in the order of the model, nested values inline, and what
    equals its default is left out: equal models give equal bytes.
    """
    values = model.model_dump(exclude_defaults=True, exclude_none=True)
    lines = [f"{_key(name)} = {_value(value)}" for name, value in values.items()]
    return "\n".join([f"[{path}]", *lines, ""])


def dump_addresses(addresses: Addresses) -> str:
    """Write the discovery file, sorted and with one final newline."""
    return json.dumps(addresses.model_dump(), indent=1, sort_keys=True) + "\n"


def json_schema() -> str:
    """Write the schema of the config for editors, such as Taplo's."""
    schema = GatewayConfig.model_json_schema()
    return json.dumps(schema, indent=2, sort_keys=True) + "\n"


def load(text: str, *, file: str = "gateway.toml") -> GatewayConfig:
    """Read the config.

    Raises:
        SpecError: with every problem of the file.
    """
    try:
        return GatewayConfig.model_validate(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise SpecError(
            [Problem(file=file, message=f"cannot read TOML: {error}")]
        ) from error
    except ValidationError as error:
        raise SpecError(_problems(error, file)) from error


def load_addresses(text: str, *, file: str = "addresses.json") -> Addresses:
    """Read the discovery file.

    Raises:
        SpecError: with every problem of the file.
    """
    try:
        return Addresses.model_validate_json(text)
    except ValidationError as error:
        raise SpecError(_problems(error, file)) from error


def _problems(error: ValidationError, file: str) -> Iterator[Problem]:
    for found in error.errors(include_url=False):
        steps = [step for step in found["loc"] if step != "[key]"]
        message = found["msg"].removeprefix("Value error, ")
        yield Problem(
            file=file,
            field=".".join(_key(str(step)) for step in steps),
            message=message[:1].lower() + message[1:],
        )


def _key(name: str) -> str:
    return name if _BARE.fullmatch(name) else _value(name)


def _value(value: object) -> str:
    match value:
        case bool() | int() | float():
            return repr(value).lower()
        case str():
            # JSON's escapes are TOML's, but for DEL, which TOML wants escaped.
            return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
        case datetime():
            return value.isoformat().replace("+00:00", "Z")
        case list() | tuple():
            return "[" + ", ".join(_value(item) for item in value) + "]"
        case dict():
            pairs = (f"{_key(name)} = {_value(item)}" for name, item in value.items())
            return "{ " + ", ".join(pairs) + " }" if value else "{}"
        case _:
            return _value(str(value))
