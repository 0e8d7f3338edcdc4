"""Options: layouts with replicas, cost, prediction and every constraint's margin.

Both optimizers build them here and choose from them in ``choose``. A margin is
the natural logarithm of (value / limit): above zero is a violation, and its size
says by how much, in the same measure for a latency and for a memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

from reconciler.optimizer.layouts import Layouts, Numbers
from reconciler.optimizer.prediction import Prediction, Predictor, memory, tail
from reconciler.optimizer.task import Candidate, Goal, Pool, Task

__all__ = ["Options", "evaluate", "join", "replica_counts", "room"]

HOURS_PER_MONTH = 730.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Rows over all pools and precisions of one task."""

    task: Task
    layouts: Layouts
    replicas: Numbers
    pool: Numbers
    """Index into ``task.pools``."""
    precision: Numbers
    """Index into ``task.precisions``."""
    prediction: Prediction
    memory_margin: Numbers
    capacity_margin: Numbers
    """Devices wanted against devices there are, or allowed."""

    def __len__(self) -> int:
        return len(self.replicas)

    def take(self, keep: np.ndarray[tuple[int], np.dtype[np.generic]]) -> Options:
        return Options(
            task=self.task,
            layouts=self.layouts.take(keep),
            replicas=self.replicas[keep],
            pool=self.pool[keep],
            precision=self.precision[keep],
            prediction=self.prediction.take(keep),
            memory_margin=self.memory_margin[keep],
            capacity_margin=self.capacity_margin[keep],
        )

    @property
    def devices(self) -> Numbers:
        return self.layouts.gpus * self.replicas

    @property
    def usd_per_h(self) -> Numbers:
        """Zero where the price is not known."""
        price = np.array([pool.price_usd_per_h or 0.0 for pool in self.task.pools])
        each: Numbers = price[self.pool.astype(int)]
        return each * self.devices

    @property
    def tokens_per_s(self) -> Numbers:
        """Output tokens of all replicas, at the predicted mean latency."""
        return self._rate(self.prediction.ttft_ms, self.prediction.tpot_ms)

    @property
    def tokens_per_s_lo(self) -> Numbers:
        return self._rate(self.prediction.ttft_bound, self.prediction.tpot_bound)

    def _rate(self, ttft: Numbers, tpot: Numbers) -> Numbers:
        outputs = self.task.output_tokens
        return self.task.concurrency * outputs / (ttft + tpot * (outputs - 1)) * 1e3

    def margins(self) -> dict[str, Numbers]:
        """Every hard constraint by its name, as a person would write it."""
        task = self.task
        margins = {"memory": self.memory_margin, "devices": self.capacity_margin}
        for name, goal, value in self._goals():
            if goal.hard:
                margins[name] = _margin(value, goal, name)
        if task.limits.max_usd_per_month is not None:
            monthly = self.usd_per_h * HOURS_PER_MONTH
            limit = task.limits.max_usd_per_month
            margins[f"cost <= {limit:g} USD a month"] = np.log(
                np.maximum(monthly, 1e-9) / max(limit, 1e-9)
            )
        return margins

    def soft_excess(self) -> Numbers:
        """By how much soft targets are missed, added up; zero where none is."""
        excess = np.zeros(len(self))
        for name, goal, value in self._goals():
            if not goal.hard:
                excess += np.maximum(_margin(value, goal, name), 0.0)
        return excess

    def _goals(self) -> list[tuple[str, Goal, Numbers]]:
        """Each goal with what is compared with it: the bound that is exceeded once
        in four, at the goal's percentile; never the mean."""
        goals, p, found = self.task.goals, self.prediction, []
        if goals.ttft_ms is not None:
            first = p.ttft_bound * tail(goals.ttft_ms.percentile, first=True)
            found.append((_name("ttft", goals.ttft_ms), goals.ttft_ms, first))
        if goals.tpot_ms is not None:
            each = p.tpot_bound * tail(goals.tpot_ms.percentile, first=False)
            found.append((_name("tpot", goals.tpot_ms), goals.tpot_ms, each))
        if goals.e2e_ms is not None:
            percentile = goals.e2e_ms.percentile
            whole = p.ttft_bound * tail(percentile, first=True)
            whole = whole + p.tpot_bound * tail(percentile, first=False) * (
                self.task.output_tokens - 1
            )
            found.append((_name("e2e", goals.e2e_ms), goals.e2e_ms, whole))
        if goals.tokens_per_s is not None:
            goal = goals.tokens_per_s
            name = f"throughput >= {goal.value:g} tok/s"
            found.append((name, goal, self.tokens_per_s_lo))
        return found

    def candidate(self, index: int) -> Candidate:
        """One row as a value that a lock file or a person can read."""
        pool = self.task.pools[int(self.pool[index])]
        p = self.prediction
        numbers = {
            name: float(getattr(p, name)[index])
            for name in (
                "ttft_ms",
                "ttft_lo",
                "ttft_hi",
                "tpot_ms",
                "tpot_lo",
                "tpot_hi",
            )
        }
        numbers["concurrency"] = float(share_of(self.task, self.replicas)[index])
        steps = self.task.output_tokens - 1
        numbers["e2e_ms"] = numbers["ttft_ms"] + steps * numbers["tpot_ms"]
        numbers["tokens_per_s"] = float(self.tokens_per_s[index])
        numbers["tokens_per_s_lo"] = float(self.tokens_per_s_lo[index])
        row = {
            f.name: int(getattr(self.layouts, f.name)[index]) for f in fields(Layouts)
        }
        priced = pool.price_usd_per_h is not None
        return Candidate(
            cluster=pool.cluster,
            node_pool=pool.name,
            gpu=pool.gpu,
            precision=self.task.precisions[int(self.precision[index])],
            replicas=int(self.replicas[index]),
            usd_per_h=float(self.usd_per_h[index]) if priced else None,
            prediction=numbers,
            **row,
        )


def evaluate(
    task: Task,
    predictor: Predictor,
    *,
    pool: int,
    precision: int,
    layouts: Layouts,
    replicas: Numbers,
) -> Options:
    """Predict every row and measure it against memory and devices."""
    machines, weights = task.pools[pool], task.precisions[precision]
    table = memory(task, machines, weights, layouts)
    concurrency = share_of(task, replicas)
    return Options(
        task=task,
        layouts=layouts,
        replicas=replicas,
        pool=np.full(len(layouts), float(pool)),
        precision=np.full(len(layouts), float(precision)),
        prediction=predictor.predict(
            task, machines, weights, layouts, concurrency=concurrency
        ),
        memory_margin=np.log(table.needed / table.available),
        capacity_margin=_capacity(task, machines, layouts, replicas),
    )


def share_of(task: Task, replicas: Numbers) -> Numbers:
    """Requests that one replica has at once."""
    share: Numbers = np.ceil(task.concurrency / np.maximum(replicas, 1.0))
    return share


def join(parts: Sequence[Options]) -> Options:
    """All rows of several parts of the same task."""

    def glue(name: str) -> Numbers:
        return np.concatenate([getattr(part, name) for part in parts])

    def columns(name: str, kind: type[Layouts | Prediction]) -> dict[str, Numbers]:
        return {
            f.name: np.concatenate([getattr(getattr(p, name), f.name) for p in parts])
            for f in fields(kind)
        }

    return Options(
        task=parts[0].task,
        layouts=Layouts(**columns("layouts", Layouts)),
        prediction=Prediction(**columns("prediction", Prediction)),
        replicas=glue("replicas"),
        pool=glue("pool"),
        precision=glue("precision"),
        memory_margin=glue("memory_margin"),
        capacity_margin=glue("capacity_margin"),
    )


def replica_counts(task: Task, most: int) -> tuple[int, ...]:
    """Numbers of replicas worth trying, up to ``most``.

    One by one to 16, then in steps of an eighth: a fleet of 100 is not tuned to
    the last replica.
    """
    if task.fixed.replicas is not None:
        return (task.fixed.replicas,)
    low, high = task.autoscaled or (1, most)
    high = min(high, most, task.limits.max_replicas or high, max(task.concurrency, 1))
    counts, count = [], max(low, 1)
    while count <= max(high, 1):
        counts.append(count)
        count += max(1, count // 8)
    return tuple(counts)


def room(pool: Pool, layouts: Layouts) -> Numbers:
    """Replicas that fit on a pool: within nodes where one does, else on whole ones."""
    gpus, per_node = layouts.gpus, pool.gpus_per_node
    within = pool.nodes * np.floor(per_node / gpus)
    across = np.floor(pool.nodes / np.ceil(gpus / per_node))
    return np.where(gpus <= per_node, within, across)


def _capacity(task: Task, pool: Pool, layouts: Layouts, replicas: Numbers) -> Numbers:
    wanted = np.maximum(replicas, 1.0)
    # Half a replica stands for none, so that the margin stays finite.
    margin = np.log(wanted / np.maximum(room(pool, layouts), 0.5))
    if task.limits.max_gpus is not None:
        allowed = np.log(layouts.gpus * wanted / task.limits.max_gpus)
        margin = np.maximum(margin, allowed)
    return margin


def _name(what: str, goal: Goal) -> str:
    percentile = f" p{goal.percentile}" if goal.percentile is not None else ""
    return f"{what}{percentile} <= {goal.value:g} ms"


def _margin(value: Numbers, goal: Goal, name: str) -> Numbers:
    ratio = value / max(goal.value, 1e-9)
    return np.log(1 / ratio if name.startswith("throughput") else ratio)
