"""REGRESSOR: every parameter, believed as far as it was measured.

A space that can be listed is listed; only a larger one (several pools, precisions
and many replicas) is searched genetically. The upper end of the interval has to meet
a hard target, never the mean.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from reconciler.optimizer.answers import answer
from reconciler.optimizer.genetic import search
from reconciler.optimizer.learned import LearnedPredictor
from reconciler.optimizer.options import Options
from reconciler.optimizer.prediction import Predictor
from reconciler.optimizer.space import space_of
from reconciler.optimizer.task import Decision, Task

__all__ = ["LISTED", "Regressor"]

# Choices that are listed one by one: about half a second of one core.
LISTED: Final = 20_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Regressor:
    predictor: Predictor = field(default_factory=LearnedPredictor)

    @property
    def identity(self) -> str:
        return f"regressor/1+{self.predictor.identity}"

    def decide(self, task: Task) -> Decision:
        return answer(task, self, self.predictor)

    def consider(self, task: Task) -> Options | None:
        """All options of a small space, or what was bred of a large one."""
        space = space_of(task)
        if not space.blocks:
            return None
        if space.size <= LISTED:
            choices = space.sensible(space.everything())
            return space.options(choices, self.predictor) if len(choices) else None
        return search(space, self.predictor, seed=task.seed)
