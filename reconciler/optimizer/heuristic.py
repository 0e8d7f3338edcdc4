"""HEURISTIC: memory arithmetic, tensor and pipeline ranks, in milliseconds.

Every layout that fits is timed by arithmetic alone; batch and chunk are not
searched but set. REGRESSOR searches both and believes measurements.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from reconciler.optimizer.answers import answer
from reconciler.optimizer.options import Options
from reconciler.optimizer.prediction import AnalyticPredictor, Predictor
from reconciler.optimizer.sizing import sized
from reconciler.optimizer.task import Decision, Task

__all__ = ["Heuristic"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Heuristic:
    predictor: Predictor = field(default_factory=AnalyticPredictor)

    @property
    def identity(self) -> str:
        return f"heuristic/1+{self.predictor.identity}"

    def decide(self, task: Task) -> Decision:
        return answer(task, self, self.predictor)

    def consider(self, task: Task) -> Options | None:
        """Every layout that fits, with the batch and chunk it would get."""
        return sized(task, self.predictor)
