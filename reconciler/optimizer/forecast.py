"""`bud optimizer predict`: a CSV file of configurations. (I/O)

One line out for each line in, in order, whatever a line says: an unknown model, GPU
or engine is the nearest known with the widest band, never an error.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np

from reconciler.optimizer.calibration import Calibration
from reconciler.optimizer.performance import Estimate, PerformanceModel, Regime
from reconciler.optimizer.rows import (
    Row,
    cases_of,
    memory_of_rows,
    read_rows,
    row_of,
)
from schemas.catalog import Catalog

__all__ = ["COLUMNS", "estimates_of", "forecast"]

COLUMNS: Final = (
    "ttft_ms",
    "ttft_lo",
    "ttft_hi",
    "tpot_ms",
    "tpot_lo",
    "tpot_hi",
    "fits",
    "memory_gib",
)


def forecast(
    source: Path,
    output: Path,
    model: PerformanceModel,
    catalog: Catalog,
    *,
    calibration: Calibration | None = None,
) -> list[Row]:
    """Predict every line of ``source`` into ``output``; return what was understood."""
    rows = [row_of(line, catalog) for line in read_rows(source)]
    lines: list[tuple[object, ...]] = []
    if rows:
        found = estimates_of(rows, model)
        if calibration is not None:
            found = calibration.apply(cases_of(rows), found)
        ttft, tpot = found["ttft"], found["tpot"]
        numbers = zip(
            ttft.value,
            ttft.low,
            ttft.high,
            tpot.value,
            tpot.low,
            tpot.high,
            strict=True,
        )
        lines = [
            (*(f"{value:.4f}" for value in six), str(fits).lower(), f"{gib:.3f}")
            for six, (fits, gib) in zip(numbers, memory_of_rows(rows), strict=True)
        ]
    with output.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(lines)
    return rows


def estimates_of(rows: Sequence[Row], model: PerformanceModel) -> dict[str, Estimate]:
    """TTFT and TPOT of rows; what had to be assumed has the widest band."""
    cases = cases_of(rows)
    found = model.predict(cases)
    assumed = np.array([bool(row.assumed) for row in rows])
    for name, estimate in found.items():
        band = model.bands[name][Regime.OUTSIDE, False]
        low = np.minimum(estimate.low, estimate.value * np.exp(band.low))
        high = np.maximum(estimate.high, estimate.value * np.exp(band.high))
        found[name] = Estimate(
            value=estimate.value,
            bound=estimate.bound,
            low=np.where(assumed, low, estimate.low),
            high=np.where(assumed, high, estimate.high),
        )
    return found
