"""Who drives which shard, with a fencing token for each (I/O).

`Store.shards` is one of these. A claim raises the shard's token; a journal that is
shared compares the tokens of its claims within the transaction of every append. So a
replica that was thought dead and wakes writes nothing more into the ledger, and without
an intent there it applies nothing. Whether a holder is dead is not decided here.
"""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy import Connection, Engine, insert, select, update

from reconciler.store.database import reading, writing
from reconciler.store.tables import shards
from reconciler.store.values import Holder

__all__ = ["Shards", "fenced_off"]


class Shards:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def holders(self) -> dict[str, Holder]:
        """Each shard that was ever claimed; an empty name holds nothing any more."""
        with reading(self._engine, "read shards") as connection:
            return {
                row.name: Holder(name=row.holder, token=row.token)
                for row in connection.execute(select(shards))
            }

    def claim(self, shard: str, holder: str, seen: Holder | None) -> int | None:
        """Take a shard from who was ``seen`` to hold it; None if it moved since.

        Returns the token that deposes every earlier holder.
        """
        token = seen.token + 1 if seen else 1
        row = {"name": shard, "holder": holder, "token": token}
        mine = shards.c.name == shard
        with writing(self._engine, "claim shard") as connection:
            if seen is not None:
                mine &= shards.c.token == seen.token
                done = connection.execute(update(shards).where(mine).values(row))
                return token if done.rowcount == 1 else None
            if connection.execute(select(shards).where(mine)).first() is None:
                connection.execute(insert(shards), row)
                return token
            return None

    def release(self, shard: str, token: int) -> None:
        """Let the next replica take a shard at once; one that was lost stays lost."""
        mine = (shards.c.name == shard) & (shards.c.token == token)
        with writing(self._engine, "release shard") as connection:
            connection.execute(update(shards).where(mine).values(holder=""))


def fenced_off(connection: Connection, claims: Mapping[str, int]) -> frozenset[str]:
    """Within a writing transaction: the shards that somebody else claimed since."""
    found = connection.execute(select(shards.c.name, shards.c.token))
    return frozenset(n for n, token in found if claims.get(n, token) != token)
