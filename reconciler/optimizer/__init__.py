"""The optimizer: what an Endpoint leaves open, and how it would perform.

``optimizer_for`` gives the method that the Endpoint names; both answer a ``Task``
with a ``Decision``. docs/optimizer.md explains the models and their errors.
"""

from __future__ import annotations

from typing import Literal

from reconciler.optimizer.calibration import Calibration
from reconciler.optimizer.heuristic import Heuristic
from reconciler.optimizer.learned import LearnedPredictor
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


def optimizer_for(
    method: Literal["regressor", "heuristic"], calibration: Calibration | None = None
) -> Optimizer:
    """The optimizer of a method, told what a team measured itself."""
    if method == "heuristic":
        return Heuristic()
    if calibration is None:
        return Regressor()
    return Regressor(predictor=LearnedPredictor(calibration=calibration))
