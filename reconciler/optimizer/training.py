"""`bud optimizer train`: from measured rows to the artefact. (I/O: reads the data)

The rows are e2e_silicon_train.csv's clean ones. One physical run that two dumps
list, under DeepSeek-R1's and V3's name for one, counts once; runs of one
configuration under several engine versions share one configuration's weight.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from reconciler.optimizer.artefact import write_model
from reconciler.optimizer.cases import Cases, family_of
from reconciler.optimizer.conformal import SPLITS, LeftOut, bands_of, leave_out
from reconciler.optimizer.layouts import Numbers
from reconciler.optimizer.performance import PerformanceModel, fit_model
from reconciler.optimizer.rows import Row, cases_of, numbers, read_rows, row_of
from schemas.catalog import Catalog

__all__ = ["FILE", "ORIGIN", "Measured", "left_out", "read_measured", "train"]

FILE: Final = "e2e_silicon_train.csv"
ORIGIN: Final[Mapping[str, Any]] = {
    "data": "aiconfigurator-core 0.12.0 silicon_sample, aggregated rows, the training part",
    "attribution": "NVIDIA AIConfigurator (Apache-2.0); SemiAnalysis InferenceX "
    "(Apache-2.0), unofficial copy",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """Unique physical runs with what was measured of them."""

    rows: list[Row]
    lines: list[dict[str, str]]
    cases: Cases
    ttft: Numbers
    tpot: Numbers
    weights: Numbers


def read_measured(folder: Path, catalog: Catalog) -> Measured:
    """Read the clean rows, each physical run once, as the median of its repeats."""
    lines = [line for line in read_rows(folder / FILE) if line.get("clean") == "True"]
    groups: dict[tuple[object, ...], list[int]] = defaultdict(list)
    rows = [row_of(line, catalog) for line in lines]
    for index, row in enumerate(rows):
        groups[(*_configuration(row), row.version)].append(index)
    firsts = [indices[0] for indices in groups.values()]
    kept = [rows[i] for i in firsts]
    runs: dict[tuple[object, ...], int] = defaultdict(int)
    for row in kept:
        runs[_configuration(row)] += 1

    def medians(name: str) -> Numbers:
        column = numbers(lines, name)
        return np.array([float(np.median(column[i])) for i in groups.values()])

    return Measured(
        rows=kept,
        lines=[lines[i] for i in firsts],
        cases=cases_of(kept),
        ttft=medians("ttft_ms"),
        tpot=medians("tpot_ms"),
        weights=np.array([1 / runs[_configuration(row)] for row in kept]),
    )


def left_out(data: Measured, *, seed: int) -> dict[str, LeftOut]:
    """Every run as predicted without its configuration, curve, cell and model."""
    return {
        split.name: leave_out(
            split, data.cases, data.ttft, data.tpot, data.weights, seed=seed
        )
        for split in SPLITS
    }


def train(
    folder: Path, output: Path, catalog: Catalog, *, seed: int
) -> PerformanceModel:
    """Train on ``folder`` and write the artefact to ``output``."""
    data = read_measured(folder, catalog)
    measured = {"ttft": data.ttft, "tpot": data.tpot}
    found = left_out(data, seed=seed)
    model = fit_model(
        data.cases,
        data.ttft,
        data.tpot,
        data.weights,
        bands=bands_of(found, data.cases, measured, data.weights),
        seed=seed,
    )
    origin = {**ORIGIN, "rows": len(data.rows), "seed": seed}
    write_model(model, output, origin=origin)
    return model


def _configuration(row: Row) -> tuple[object, ...]:
    return (
        family_of(row.architecture),
        row.gpu,
        row.engine,
        row.precision,
        row.tensor,
        row.pipeline,
        row.data,
        row.expert,
        row.input_tokens,
        row.output_tokens,
        row.concurrency,
    )
