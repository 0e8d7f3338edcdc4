"""The supervisor's books: every record read once, every limit kept (I/O).

Reads what the workers append, charges it to the scopes it belongs to, answers
for dead workers, and saves how far it has come, so that what was spent is
known after a restart. It never sees a request.
"""

from __future__ import annotations

import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson

from gateway.accounts import record_line
from gateway.limits import Authority
from gateway.spool import (
    FINISHED,
    IN_FLIGHT,
    RECORDS,
    Tail,
    left_finished,
    left_in_flight,
)

__all__ = ["Books"]

_STATE = "state.json"
_DAY_S = 86_400


class Books:
    """Reads the records of a folder and keeps an `Authority` informed."""

    def __init__(
        self,
        folder: Path,
        authority: Authority,
        hear: Callable[[dict[str, Any]], None] | None = None,
    ) -> None:
        self.folder, self._authority = folder, authority
        self._hear = hear
        """Is told each record."""
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._tails: dict[str, Tail] = {}
        self._workers: dict[str, int] = {}
        self._saved: bytes = b""
        self.gateway = uuid.uuid4().hex
        """Who this is to the gateways that share limits; stays the same."""
        self._restore()
        for end in (IN_FLIGHT, FINISHED):
            for path in folder.glob("*" + end):
                self.bury(path.name.removesuffix(end))

    def _restore(self) -> None:
        try:
            state = orjson.loads((self.folder / _STATE).read_bytes())
        except FileNotFoundError:
            return
        self._authority.restore(
            {name: (window, spent) for name, (window, spent) in state["spent"].items()}
        )
        self.gateway = state.get("gateway", self.gateway)
        for name, offset in state["read"].items():
            self._tails[name] = Tail(self.folder / name, offset)

    def employ(self, worker: int) -> str:
        """Name the files of a new worker."""
        name = f"{time.time_ns()}-{worker}"
        self._workers[name] = worker
        return name

    def bury(self, name: str) -> None:
        """Record what a dead worker had in flight; then its leases are free."""
        left = self.folder / (name + IN_FLIGHT), self.folder / (name + FINISHED)
        path = self.folder / f"{name}.lost{RECORDS}"
        if any(file.exists() for file in left) and not path.exists():
            lines = b"".join(map(record_line, self._lost(name, *left)))
            # Whole or not at all: killed here, all of it is done again.
            if lines:
                fresh = path.with_suffix(".new")
                fresh.write_bytes(lines)
                fresh.replace(path)
        for file in left:
            file.unlink(missing_ok=True)
        self.read()
        if name in self._workers:
            self._authority.forget(self._workers.pop(name))

    def _lost(
        self, name: str, in_flight: Path, finished: Path
    ) -> Iterator[dict[str, Any]]:
        """Give the records of a dead worker that are in none of its files."""
        files = sorted(self.folder.glob(f"{name}.[0-9]*{RECORDS}"))
        done = {record["id"] for record in Tail(files[-1]).read()} if files else set()
        if finished.exists():
            for record in left_finished(finished):
                if record["id"] not in done:
                    done.add(record["id"])
                    yield record
        if in_flight.exists():
            for record, chunks in left_in_flight(in_flight):
                if record["id"] not in done:
                    yield _unfinished(record, chunks)

    def read(self) -> None:
        """Charge what was appended since the last time."""
        for path in self.folder.glob("*" + RECORDS):
            tail = self._tails.setdefault(path.name, Tail(path))
            if path.stat().st_size == tail.offset:
                continue
            worker = self._workers.get(path.name.split(".")[0], 0)
            # Windows are whole days: what is added up first needs no other.
            costs: defaultdict[tuple[str, str, int], int] = defaultdict(int)
            for record in tail.read():
                day = int(record["at"] // _DAY_S)
                costs[record["key"], record["route"], day] += record["cost_nano_usd"]
                if self._hear is not None:
                    self._hear(record)
            for (key, route, day), cost in costs.items():
                self._charge(key, route, cost, worker=worker, at=day * _DAY_S)
        self._save()

    def _charge(
        self, key: str, route: str, cost: int, *, worker: int, at: float
    ) -> None:
        project = key.partition("/")[0]
        for scope in (f"key {key}", f"project {project}", f"route {route}"):
            self._authority.spent(scope, cost, worker=worker, at=at)

    def _save(self) -> None:
        state = orjson.dumps(
            {
                "gateway": self.gateway,
                "spent": self._authority.spending(),
                "read": {
                    name: tail.offset
                    for name, tail in self._tails.items()
                    if tail.path.exists()
                },
            }
        )
        if state == self._saved:
            return
        fresh = self.folder / (_STATE + ".new")
        fresh.write_bytes(state)
        fresh.replace(self.folder / _STATE)
        self._saved = state


def _unfinished(record: dict[str, Any], chunks: int) -> dict[str, Any]:
    """Complete the record of a request whose worker died: what is known is counted."""
    price_in, price_out = record.pop("price")
    cost = record["input"] * price_in + chunks * price_out
    return {
        **record,
        "status": 0,
        "output": chunks,
        "estimated": True,
        "cost_nano_usd": -(-cost // 1_000_000),
    }
