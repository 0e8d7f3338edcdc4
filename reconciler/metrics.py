"""What the daemon counts, for Prometheus. It never decides and never blocks."""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)

from reconciler.ordering import Waits
from reconciler.plan import Plan
from reconciler.values import Outcome

__all__ = ["Metrics"]


class Metrics:
    """One registry for one daemon."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._runs = Counter(
            "bud_reconcile_runs",
            "Passes of the line",
            ["result"],
            registry=self._registry,
        )
        self._seconds = Histogram(
            "bud_reconcile_seconds", "Of one pass", registry=self._registry
        )
        self._steps = Counter(
            "bud_reconcile_steps", "Steps applied", ["target", "outcome"],
            registry=self._registry,
        )  # fmt: skip
        self._objects = Gauge(
            "bud_objects", "Objects observed at targets", registry=self._registry
        )
        self._drifted = Gauge(
            "bud_drifted_objects", "Objects that drifted", registry=self._registry
        )
        self._blocked = Gauge(
            "bud_blocked_objects",
            "Changes held back",
            ["reason"],
            registry=self._registry,
        )
        self._planned = Gauge(
            "bud_last_plan_timestamp_seconds", "When a plan was last made",
            registry=self._registry,
        )  # fmt: skip

    @contextmanager
    def run(self) -> Iterator[None]:
        """Count one pass and time it."""
        started, result = perf_counter(), "failed"
        try:
            yield
            result = "done"
        finally:
            self._seconds.observe(perf_counter() - started)
            self._runs.labels(result).inc()

    def planned(self, made: Plan, objects: int) -> None:
        self._objects.set(objects)
        self._drifted.set(len(made.drift))
        tally = Tally(item.waits for item in made.blocked)
        for reason in Waits:
            self._blocked.labels(reason).set(tally[reason])
        self._planned.set_to_current_time()

    def applied(self, outcomes: tuple[Outcome, ...]) -> None:
        for outcome in outcomes:
            self._steps.labels(outcome.key.target, outcome.kind).inc()

    def text(self) -> bytes:
        """In Prometheus' text format."""
        return generate_latest(self._registry)
