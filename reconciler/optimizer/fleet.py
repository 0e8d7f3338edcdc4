"""Fleet: several endpoints placed together on shared pools, for the least cost.

Each endpoint's feasible options are thinned to those worth having; a mixed-integer
program (HiGHS, through SciPy) then picks one for each so that no pool runs out of
nodes. A replica within a node takes GPUs of one; nodes are counted as GPUs that can
be packed, since replicas are powers of two. Pure and deterministic.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from reconciler.optimizer.choose import feasible, order
from reconciler.optimizer.coefficients import Matrix
from reconciler.optimizer.layouts import Numbers
from reconciler.optimizer.task import Candidate, Infeasible, Optimizer, Task

__all__ = ["Fleet", "place"]

KEPT: Final = 40
"""Options of an endpoint on each pool that the program may pick from."""
Chosen = np.ndarray[tuple[int], np.dtype[np.bool_]]
# Dollars an hour that a GPU without a price counts for, so that fewer are taken.
UNPRICED_USD: Final = 1e-3


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """One choice for every endpoint, and what they cost together."""

    chosen: Mapping[str, Candidate]
    usd_per_h: float
    used: Mapping[str, int]
    """Pool (``cluster/name``) -> devices taken."""
    capacity: Mapping[str, int]


def place(asked: Sequence[tuple[Task, Optimizer]]) -> Fleet:
    """Choose for all tasks at once, each by its own optimizer's options.

    Raises:
        Infeasible: some task has no option of its own, or together they do not fit.
    """
    tasks = [task for task, _ in asked]
    offers = [(task, *_offers(task, optimizer)) for task, optimizer in asked]
    capacity: dict[str, int] = {}
    for task in tasks:
        for pool in task.pools:
            capacity[f"{pool.cluster}/{pool.name}"] = pool.devices
    flat = [
        (number, candidate, where, taken)
        for number, (_, candidates, taken_by, places) in enumerate(offers)
        for candidate, taken, where in zip(candidates, taken_by, places, strict=True)
    ]
    spent = np.array([_spent(candidate, taken) for _, candidate, _, taken in flat])
    one_each = np.zeros((len(tasks), len(flat)))
    within = np.zeros((len(capacity), len(flat)))
    pools = sorted(capacity)
    for column, (number, _, where, taken) in enumerate(flat):
        one_each[number, column] = 1
        within[pools.index(where), column] = taken
    room = np.array([capacity[name] for name in pools])
    taken_or_not = _least(spent, one_each, within, room)
    if taken_or_not is None:
        raise Infeasible(_short(tasks, flat, pools, capacity), ())
    picked = [flat[i] for i in np.flatnonzero(taken_or_not)]
    used = dict.fromkeys(pools, 0)
    for _, _, where, taken in picked:
        used[where] += taken
    return Fleet(
        chosen={tasks[number].name: candidate for number, candidate, _, _ in picked},
        usd_per_h=sum(candidate.usd_per_h or 0.0 for _, candidate, _, _ in picked),
        used=used,
        capacity=capacity,
    )


def _least(
    spent: Numbers, one_each: Matrix, within: Matrix, room: Numbers
) -> Chosen | None:
    """Which columns to take for the least ``spent``: one in each row of ``one_each``,
    no more than ``room`` in each of ``within``; ``None`` if that cannot be."""
    # SciPy takes as long to import as all else that a verb needs.
    from scipy.optimize import (  # type: ignore[import-untyped]  # noqa: PLC0415
        Bounds,
        LinearConstraint,
        milp,
    )

    solved = milp(
        spent,
        constraints=[
            LinearConstraint(one_each, 1, 1),
            LinearConstraint(within, -np.inf, room),
        ],
        integrality=np.ones(len(spent)),
        bounds=Bounds(0, 1),
    )
    if solved.x is None:
        return None
    binary: Chosen = solved.x > 0.5  # noqa: PLR2004 - between no and yes
    return binary


def _offers(
    task: Task, optimizer: Optimizer
) -> tuple[list[Candidate], list[int], list[str]]:
    """The cheapest options of each pool, at most one of a number of devices."""
    options = optimizer.consider(task)
    good = None if options is None else feasible(options)
    if options is None or good is None or not good.any():
        raise Infeasible(f"{task.name} alone: no option meets every constraint", ())
    ranked = order(options)
    seen: dict[tuple[int, int], int] = {}
    for index in ranked[good[ranked]]:
        key = (int(options.pool[index]), int(options.devices[index]))
        seen.setdefault(key, int(index))
    found: list[Candidate] = []
    taken: list[int] = []
    places: list[str] = []
    for (pool, devices), index in sorted(seen.items())[: KEPT * len(task.pools)]:
        machines = task.pools[pool]
        found.append(options.candidate(index))
        taken.append(devices)
        places.append(f"{machines.cluster}/{machines.name}")
    return found, taken, places


def _spent(candidate: Candidate, devices: int) -> float:
    return (candidate.usd_per_h or 0.0) + UNPRICED_USD * devices


def _short(
    tasks: Sequence[Task],
    flat: Sequence[tuple[int, Candidate, str, int]],
    pools: Sequence[str],
    capacity: Mapping[str, int],
) -> str:
    """Name what runs out: the least that all need, against what there is."""
    least = sum(
        min(taken for number, _, _, taken in flat if number == task)
        for task in range(len(tasks))
    )
    there = ", ".join(f"{name} has {capacity[name]}" for name in pools)
    return f"devices: {len(tasks)} endpoints need at least {least} together; {there}"
