"""Messages between the supervisor and its workers: length, then JSON (I/O).

The two share a socket pair that nobody else can reach. Snapshots go down,
acknowledgements and numbers come up.
"""

from __future__ import annotations

import asyncio
from typing import Any

import orjson

__all__ = ["read_message", "write_message"]

_LENGTH_BYTES = 4


async def read_message(reader: asyncio.StreamReader) -> dict[str, Any] | None:
    """Read the next message; None: the other side is gone."""
    try:
        size = await reader.readexactly(_LENGTH_BYTES)
        data = await reader.readexactly(int.from_bytes(size))
    except (asyncio.IncompleteReadError, ConnectionError):
        return None
    message: dict[str, Any] = orjson.loads(data)
    return message


def write_message(writer: asyncio.StreamWriter, message: dict[str, Any]) -> None:
    data = orjson.dumps(message)
    writer.write(len(data).to_bytes(_LENGTH_BYTES) + data)
