"""Keeping: more or fewer replicas of what already runs.

`resolve` asks here first when nothing but the number of replicas moved. Each
replica then has another share of the load, and the best layout for that share may
be another one; but to change it would replace every replica that serves. Pure.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from reconciler.optimizer.task import Decision, Fixed, Infeasible, Optimizer, Task
from schemas.resolution import Resolution

__all__ = ["keep", "only_replicas"]


def only_replicas(moved: Collection[str], former: Resolution) -> bool:
    """Whether these parts of the inputs move when somebody scales, and no others.

    On a node without accelerators replicas share its threads and memory: there the
    machine that each sees moves with their number.
    """
    shared = {"nodePools"} if former.gpu is None else set()
    return "replicas" in moved and {"replicas"} | shared >= set(moved)


def keep(task: Task, optimizer: Optimizer, former: Resolution) -> Decision | None:
    """Decide with ``former``'s replicas as they are; None if that is not feasible."""
    pools = tuple(
        pool
        for pool in task.pools
        if (pool.cluster, pool.name) == (former.cluster, former.node_pool)
    )
    narrow = replace(
        task,
        pools=pools,
        precisions=tuple(p for p in task.precisions if p == former.precision),
        fixed=Fixed(
            tensor=former.tensor,
            pipeline=former.pipeline,
            data=former.data,
            expert=former.expert,
            max_batch=former.max_batch,
            chunk=former.chunk,
            context=former.context,
            replicas=task.fixed.replicas,
        ),
    )
    try:
        kept = optimizer.decide(narrow)
    except Infeasible:
        return None
    return replace(
        kept, notes=(*kept.notes, "replicas as they were: only their number moved")
    )
