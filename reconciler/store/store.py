"""The store: what is owned, planned, run, suspended and recorded (I/O).

One relational database holds it. Calls here block for as long as a small
query takes and may come from any thread; `lead` gives the only way to append to
the ledger and to change the inventory. It decides nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Self

from sqlalchemy import Connection, Engine, delete, insert, select, update

from reconciler.ledger import rfc3339
from reconciler.store import database, leadership, rows, tables
from reconciler.store.database import put, reading, writing
from reconciler.store.journal import Journal
from reconciler.store.log import Log
from reconciler.store.reviews import Reviews
from reconciler.store.shards import Shards
from reconciler.store.values import (
    Decision,
    Frozen,
    Leader,
    Owned,
    Run,
    SavedPlan,
    Suspension,
)
from reconciler.values import Key, Unit
from schemas.errors import PermanentError
from schemas.objects import Ref

__all__ = ["Store", "open_store"]

_MAX_SAID = 1024
"""A reason is for people; a longer one must not stop the ledger at its line's limit."""


def open_store(
    url: str, *, key: Path, origin: str, clock: Callable[[], datetime]
) -> Store:
    """Open a store and bring its schema to head.

    Args:
        url: ``sqlite:///PATH`` or ``postgresql+psycopg://USER@HOST/DATABASE``.
        key: the file of the ledger's private key; made when first needed.
        origin: the ledger's name in checkpoints, such as ``bud/production``; no
            spaces, no ``+``.
        clock: says when; with a zone.

    Raises:
        PermanentError: another scheme, a newer schema, a file that is no database.
        TemporaryError: the server cannot be reached now.
    """
    engine = database.connect(url)
    try:
        database.migrate(engine)
    except BaseException:
        engine.dispose()
        raise
    return Store(engine, key=key, origin=origin, clock=clock)


class Store:
    def __init__(
        self, engine: Engine, *, key: Path, origin: str, clock: Callable[[], datetime]
    ) -> None:
        self.log = Log(engine, key, origin)
        self.reviews = Reviews(engine, clock)
        self.shards = Shards(engine)
        self._engine, self._clock = engine, clock

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def close(self) -> None:
        self._engine.dispose()

    @contextmanager
    def lead(self, owner: str) -> Iterator[Journal]:
        """Be the one writer until the block is left.

        Raises:
            TemporaryError: somebody else is; says who.
            ChainBrokenError: the ledger's end is not what was signed.
        """
        with leadership.hold(self._engine) as connection:
            leader = leadership.take_over(connection, owner, self._clock())
            with self._journal(connection, leader) as journal:
                yield journal

    @contextmanager
    def share(self) -> Iterator[Journal]:
        """Write beside other replicas, each for the shards that it claimed.

        Raises:
            TemporaryError: somebody leads alone; says who.
            ChainBrokenError: the ledger's end is not what was signed.
        """
        with leadership.hold(self._engine, shared=True) as connection:
            leader = leadership.current_leader(self._engine)
            with self._journal(connection, leader, claims={}) as journal:
                yield journal

    @contextmanager
    def _journal(
        self,
        connection: Connection,
        leader: Leader,
        claims: Mapping[str, int] | None = None,
    ) -> Iterator[Journal]:
        with writing(connection, "read ledger"):
            end = self.log.end(connection)
            signer = self.log.signer(connection)
        journal = Journal(
            connection,
            generation=leader.generation,
            signer=signer,
            clock=self._clock,
            end=end,
            log=self.log,
            claims=claims,
        )
        try:
            yield journal
        finally:
            journal.close()

    def leader(self) -> Leader:
        """Who led last; it may have ended since."""
        return leadership.current_leader(self._engine)

    def inventory(self) -> dict[Key, Owned]:
        """Everything we own, whether or not anything still asks for it."""
        with reading(self._engine, "read inventory") as connection:
            found = map(rows.to_owned, connection.execute(select(tables.inventory)))
            return {owned.key: owned for owned in found}

    def save_plan(self, digest: str, document: bytes) -> None:
        """Keep a plan to be used once; the same plan again changes nothing."""
        row = {"digest": digest, "document": document, "created_at": self._clock()}
        with writing(self._engine, "save plan") as connection:
            put(connection, tables.plans, row, replace=False)

    def plan(self, digest: str) -> SavedPlan | None:
        with reading(self._engine, "read plan") as connection:
            found = select(tables.plans).where(tables.plans.c.digest == digest)
            row = connection.execute(found).mappings().one_or_none()
            return SavedPlan(**row) if row else None

    def use_plan(self, digest: str, by: str) -> SavedPlan:
        """Take a plan for applying: exactly one caller ever gets it.

        Raises:
            PermanentError: it is not there, or was used.
        """
        plans = tables.plans
        with writing(self._engine, "use plan") as connection:
            taken = connection.execute(
                update(plans)
                .where(plans.c.digest == digest, plans.c.used_at.is_(None))
                .values(used_at=self._clock(), used_by=by)
            )
        plan = self.plan(digest)
        if plan is None:
            raise PermanentError(
                f"cannot use plan: no plan {digest} is kept here", hint="plan again"
            )
        if taken.rowcount != 1:
            raise PermanentError(
                f"cannot use plan: {digest} was used by {plan.used_by} "
                f"at {plan.used_at:%Y-%m-%d %H:%M:%S}Z",
                hint="a plan is used once; plan again",
            )
        return plan

    def start_run(self, run: Run) -> None:
        with writing(self._engine, "start run") as connection:
            connection.execute(insert(tables.runs), asdict(run))

    def end_run(self, run: Run) -> None:
        """Raises: PermanentError: it was not started, or has ended."""
        with writing(self._engine, "end run") as connection:
            ended = connection.execute(
                update(tables.runs)
                .where(tables.runs.c.id == run.id, tables.runs.c.ended_at.is_(None))
                .values(asdict(run))
            )
            if ended.rowcount != 1:
                raise PermanentError(f"cannot end run: {run.id} is not running")

    def runs(self, *, environment: str = "", limit: int = 20) -> list[Run]:
        """The newest first."""
        found = select(tables.runs).order_by(tables.runs.c.started_at.desc())
        if environment:
            found = found.where(tables.runs.c.environment == environment)
        with reading(self._engine, "read runs") as connection:
            started = connection.execute(found.limit(limit)).mappings()
            return [Run(**row) for row in started]

    def former(self, ref: Ref) -> dict[Key, Unit]:
        """What lived of an object before what lives of it now."""
        columns = tables.former.c
        found = select(tables.former).where(
            columns.kind == ref.kind,
            columns.project == ref.project,
            columns.name == ref.name,
        )
        with reading(self._engine, "read former revisions") as connection:
            units = [rows.to_unit(r, r.digest) for r in connection.execute(found)]
            return {unit.key: unit for unit in units}

    def suspend(self, suspension: Suspension) -> None:
        """Leave an object alone until the suspension expires; replaces an earlier one."""
        row = rows.of_suspension(suspension)
        until = rfc3339(suspension.expires_at)
        said = f"suspend {suspension.ref} until {until}: {suspension.reason}"
        with writing(self._engine, "suspend") as connection:
            put(connection, tables.suspensions, row, replace=True)
            self._decide(connection, suspension.actor, said)

    def resume(self, ref: Ref, actor: str) -> bool:
        """Whether it was suspended."""
        columns = tables.suspensions.c
        ended = delete(tables.suspensions).where(
            columns.kind == ref.kind,
            columns.project == ref.project,
            columns.name == ref.name,
        )
        with writing(self._engine, "resume") as connection:
            was = connection.execute(ended).rowcount == 1
            if was:
                self._decide(connection, actor, f"resume {ref}")
            return was

    def suspensions(self, now: datetime) -> dict[Ref, Suspension]:
        """Those in force."""
        current = select(tables.suspensions).where(
            tables.suspensions.c.expires_at > now
        )
        with reading(self._engine, "read suspensions") as connection:
            found = map(rows.to_suspension, connection.execute(current))
            return {suspension.ref: suspension for suspension in found}

    def freeze(self, items: Iterable[Frozen], actor: str, said: str) -> None:
        """Never apply these digests again by themselves; replaces earlier reasons."""
        with writing(self._engine, "freeze") as connection:
            for item in items:
                put(connection, tables.frozen, rows.of_frozen(item), replace=True)
            self._decide(connection, actor, said)

    def thaw(self, digests: Iterable[str], actor: str, said: str) -> int:
        """How many of them were frozen."""
        doomed = delete(tables.frozen).where(tables.frozen.c.digest.in_([*digests]))
        with writing(self._engine, "thaw") as connection:
            thawed = connection.execute(doomed).rowcount
            if thawed:
                self._decide(connection, actor, said)
            return thawed

    def frozen(self) -> dict[str, Frozen]:
        with reading(self._engine, "read frozen") as connection:
            found = map(rows.to_frozen, connection.execute(select(tables.frozen)))
            return {item.digest: item for item in found}

    def decisions(self) -> list[Decision]:
        """Those that are not in the ledger yet, oldest first."""
        waiting = select(tables.decisions).order_by(tables.decisions.c.id)
        with reading(self._engine, "read decisions") as connection:
            return [Decision(**row) for row in connection.execute(waiting).mappings()]

    def decide(self, actor: str, said: str) -> None:
        """Have it recorded what somebody decided, or was refused."""
        with writing(self._engine, "record decision") as connection:
            self._decide(connection, actor, said)

    def _decide(self, connection: Connection, actor: str, said: str) -> None:
        """Leave word for the leader, who alone may append to the ledger."""
        row = {"at": self._clock(), "actor": actor, "said": said[:_MAX_SAID]}
        connection.execute(insert(tables.decisions), row)
