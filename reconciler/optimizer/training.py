"""`bud optimizer train`: from measured rows to the artefact. (I/O: reads the data)

The rows are e2e_silicon_train.csv's clean ones. One physical run that two dumps
list, under DeepSeek-R1's and V3's name for one, counts once; runs of one
configuration under several engine versions share one configuration's weight. A run
that would take more arithmetic than its GPUs can do is not what it says.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from reconciler.optimizer.artefact import write_model
from reconciler.optimizer.cases import Cases, Mask, family_of
from reconciler.optimizer.conformal import bands_of
from reconciler.optimizer.layouts import Numbers
from reconciler.optimizer.leaving import SPLITS, Runs, leave_out
from reconciler.optimizer.performance import PerformanceModel, fit_model
from reconciler.optimizer.rows import Row, cases_of, numbers, read_rows, row_of
from schemas.catalog import Catalog

__all__ = ["FILE", "ORIGIN", "Measured", "read_measured", "train"]

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
    runs: Runs
    impossible: int
    """Runs that were left out: they promise more than the GPUs' peak."""


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

    cases, ttft, tpot = cases_of(kept), medians("ttft_ms"), medians("tpot_ms")
    weights = np.array([1 / runs[_configuration(row)] for row in kept])
    keep = _possible(cases, ttft, tpot)
    places = np.flatnonzero(keep)
    return Measured(
        rows=[kept[i] for i in places],
        lines=[lines[firsts[i]] for i in places],
        runs=Runs(
            cases=cases.take(keep),
            ttft=ttft[keep],
            tpot=tpot[keep],
            weights=weights[keep],
        ),
        impossible=len(keep) - len(places),
    )


def _possible(cases: Cases, ttft: Numbers, tpot: Numbers) -> Mask:
    """Whether two operations a token and active parameter fit into the time that the
    requests took, at the peak of the datasheet."""
    tokens = cases["concurrency"] * (cases["input"] + cases["output"])
    seconds = (ttft + cases["output"] * tpot) / 1e3
    needed = 2e-3 * tokens * cases["active"] / seconds / cases["devices"]
    possible: Mask = needed <= cases["compute"]
    return possible


def train(
    folder: Path, output: Path, catalog: Catalog, *, seed: int
) -> PerformanceModel:
    """Train on ``folder`` and write the artefact to ``output``."""
    data = read_measured(folder, catalog)
    runs = data.runs
    found = {split.name: leave_out(split, runs, seed=seed) for split in SPLITS}
    model = fit_model(
        runs.cases,
        runs.ttft,
        runs.tpot,
        runs.weights,
        bands=bands_of(found, runs),
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
