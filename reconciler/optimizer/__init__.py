"""The optimizer: what an Endpoint leaves open, and how it would perform.

``optimizer_for`` gives the method that the Endpoint names; both answer a ``Task``
with a ``Decision``. docs/optimizer.md explains the models and their errors.
"""

from __future__ import annotations

from functools import cache
from typing import Literal

from reconciler.optimizer.heuristic import Heuristic
from reconciler.optimizer.regressor import Regressor
from reconciler.optimizer.task import Candidate, Decision, Infeasible, Optimizer, Task

__all__ = [
    "Candidate",
    "Decision",
    "Heuristic",
    "Infeasible",
    "Optimizer",
    "Regressor",
    "Task",
    "optimizer_for",
]


@cache
def optimizer_for(method: Literal["regressor", "heuristic"]) -> Optimizer:
    """The optimizer of a method."""
    return Regressor() if method == "regressor" else Heuristic()
