"""A leader to be killed: appends for ever, printing each entry once it is durable."""

from __future__ import annotations

import asyncio
import resource
import sys
from datetime import UTC, datetime
from itertools import count
from pathlib import Path

from reconciler.ledger import Draft
from reconciler.store import Journal, Owned, Ownership, open_store
from reconciler.values import Key, Unit
from schemas.objects import Ref

TASKS = 8


async def append(journal: Journal, task: int) -> None:
    for number in count():
        key = Key("local", Ref("Endpoint", "default", f"{task}-{number}"))
        draft = Draft(
            actor="appender",
            commit="c" * 40,
            plan="p" * 64,
            step=f"create {key.ref}",
            target=str(key),
            outcome="intended",
        )
        owned = Owned(
            unit=Unit(key=key, content=b"x", digest="d" * 64), state=Ownership.PENDING
        )
        (entry,) = await journal.intend([draft], [owned])
        sys.stdout.write(f"{entry.seq} {key.ref.name}\n")
        sys.stdout.flush()


async def main(url: str, key: str) -> None:
    def clock() -> datetime:
        return datetime.now(UTC)  # noqa: TID251

    opened = open_store(url, key=Path(key), origin="bud/test", clock=clock)
    with opened as store, store.lead("appender") as journal:
        async with asyncio.TaskGroup() as group:
            for task in range(TASKS):
                group.create_task(append(journal, task))


if __name__ == "__main__":
    limit = int(sys.argv[3])
    # Past it the kernel refuses to write, as a full disk would; -1 is no limit.
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    asyncio.run(main(*sys.argv[1:3]))
