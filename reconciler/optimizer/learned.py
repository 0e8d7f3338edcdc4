"""The learned predictor: the shipped performance model behind the search's seam.

REGRESSOR believes all of it, HEURISTIC its fitted arithmetic alone. What runs on
CPUs was never measured: there it is plain arithmetic with the widest band.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from reconciler.optimizer import artefact
from reconciler.optimizer.calibration import Calibration
from reconciler.optimizer.cases import make_cases
from reconciler.optimizer.layouts import Layouts, Numbers
from reconciler.optimizer.performance import PerformanceModel
from reconciler.optimizer.prediction import AnalyticPredictor, Prediction
from reconciler.optimizer.task import Pool, Task
from schemas.architecture import Precision

__all__ = ["LearnedPredictor"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnedPredictor:
    analytic: AnalyticPredictor = field(default_factory=AnalyticPredictor)
    calibration: Calibration = field(default_factory=lambda: Calibration(tracks={}))
    """The team's own; an input of its own to a decision, no part of ``identity``."""

    @property
    def model(self) -> PerformanceModel:
        """Read when something is predicted: a plan only asks for the identity."""
        return artefact.shipped()

    @property
    def identity(self) -> str:
        return f"learned/1+{artefact.shipped_digest()}+{self.analytic.identity}"

    def predict(
        self,
        task: Task,
        pool: Pool,
        precision: Precision,
        layouts: Layouts,
        *,
        concurrency: Numbers,
    ) -> Prediction:
        if pool.gpu is None:
            return self.analytic.predict(
                task, pool, precision, layouts, concurrency=concurrency
            )
        cases = make_cases(task, pool, precision, layouts, concurrency=concurrency)
        found = self.calibration.apply(cases, self.model.predict(cases))
        ttft, tpot = found["ttft"], found["tpot"]
        points = self.model.points(cases.take(np.arange(1)))
        return Prediction(
            ttft_ms=ttft.value,
            ttft_lo=ttft.low,
            ttft_bound=ttft.bound,
            ttft_hi=ttft.high,
            tpot_ms=tpot.value,
            tpot_lo=tpot.low,
            tpot_bound=tpot.bound,
            tpot_hi=tpot.high,
            points=np.full(len(layouts), points[0]),
        )
