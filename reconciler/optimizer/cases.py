"""Cases: configurations as columns of arithmetic and of labels.

What the learned parts of the performance model see, the same whether a case was
measured, is asked for in a CSV, or is considered by the search. Pure.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from reconciler.optimizer.layouts import Layouts, Numbers
from reconciler.optimizer.prediction import analyse, memory
from reconciler.optimizer.roofline import TERMS
from reconciler.optimizer.task import Pool, Task
from schemas.architecture import Architecture, Precision

__all__ = ["LABELS", "Cases", "family_of", "join_cases", "make_cases"]

Texts = np.ndarray[tuple[int], np.dtype[np.str_]]
Mask = np.ndarray[tuple[int], np.dtype[np.bool_]]

LABELS: Final = (
    "family",
    "shape",
    "gpu",
    "engine",
    "version",
    "precision",
    "ranks",
    "kind",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cases:
    """``columns`` are numbers that physics gives; ``labels`` say which it is."""

    columns: Mapping[str, Numbers]
    labels: Mapping[str, Texts]

    def __len__(self) -> int:
        return len(self.columns["concurrency"])

    def __getitem__(self, name: str) -> Numbers:
        return self.columns[name]

    def label(self, *names: str) -> Texts:
        """Several labels as one, row by row."""
        joined = self.labels[names[0]].astype(object)
        for name in names[1:]:
            joined = joined + "|" + self.labels[name].astype(object)
        return joined.astype(str)

    def take(self, keep: np.ndarray[tuple[int], np.dtype[np.generic]]) -> Cases:
        return Cases(
            columns={name: values[keep] for name, values in self.columns.items()},
            labels={name: values[keep] for name, values in self.labels.items()},
        )


def make_cases(
    task: Task,
    pool: Pool,
    precision: Precision,
    layouts: Layouts,
    *,
    concurrency: Numbers,
) -> Cases:
    """The cases of one task on one pool, one a layout."""
    served = analyse(task, pool, precision, layouts, concurrency=concurrency)
    shape = task.architecture
    ones = np.ones(len(layouts))
    table = memory(task, pool, precision, layouts)
    columns = {
        "ttft": served.ttft_ms,
        "tpot": served.tpot_ms,
        "prefill": served.prefill_ms,
        "decode": served.decode_ms,
        "marginal": served.marginal_ms,
        "share": served.prefill_share,
        "waiting": served.waiting_ms,
        "running": served.running,
        "concurrency": concurrency,
        "input": ones * task.input_tokens,
        "output": ones * task.output_tokens,
        "devices": layouts.gpus,
        "tensor": layouts.tensor,
        "pipeline": layouts.pipeline,
        "data": layouts.data,
        "expert": layouts.expert,
        "places": table.sequences * layouts.data / concurrency,
        "layers": ones * shape.layers,
        "hidden": ones * shape.hidden,
        "active": ones * shape.active_parameters / 1e9,
        "total": ones * shape.parameters.total / 1e9,
        "experts": ones * (shape.experts.routed if shape.experts else 0),
        "latent": ones * (shape.latent is not None),
        "state": ones * shape.state_layers / shape.layers,
        "bandwidth": ones * pool.device.bandwidth_gb_s,
        "compute": ones * pool.device.compute(precision),
        "bits": ones * precision.bits,
        "release": ones * _release(task.engine_version),
    }
    for name in TERMS:
        columns[f"decode_{name}"] = served.decode_terms[name]
        columns[f"prefill_{name}"] = served.prefill_terms[name]
    texts = {
        "family": family_of(shape),
        "shape": _shape(shape),
        "gpu": pool.gpu or "cpu",
        "engine": task.engine,
        "version": task.engine_version or "",
        "precision": precision.value,
    }
    labels = {name: np.full(len(layouts), text) for name, text in texts.items()}
    ranks = zip(
        layouts.tensor, layouts.pipeline, layouts.data, layouts.expert, strict=True
    )
    labels["ranks"] = np.array([".".join(str(int(n)) for n in row) for row in ranks])
    labels["kind"] = np.where(layouts.data > 1, "data", "").astype(object) + np.where(
        layouts.expert > 1, "expert", ""
    )
    labels["kind"] = labels["kind"].astype(str)
    return Cases(columns=columns, labels=labels)


def join_cases(parts: Sequence[Cases]) -> Cases:
    """All rows of several parts, in their order."""
    return Cases(
        columns={
            name: np.concatenate([part.columns[name] for part in parts])
            for name in parts[0].columns
        },
        labels={
            name: np.concatenate([part.labels[name] for part in parts])
            for name in LABELS
        },
    )


def family_of(shape: Architecture) -> str:
    """The same for models that compute alike: DeepSeek-R1 and V3, a base model and
    whatever was tuned from it, at any precision."""
    facts = f"{shape.layers} {shape.hidden} {shape.heads} {shape.parameters.total}"
    return hashlib.sha256(facts.encode()).hexdigest()[:8]


def _shape(shape: Architecture) -> str:
    parts = ["experts" if shape.experts else "dense"]
    parts += ["latent"] if shape.latent else []
    parts += ["state"] if shape.state_layers else []
    return "+".join(parts)


def _release(version: str | None) -> float:
    """A version as one number that grows with it; zero where it is not said."""
    found = re.match(r"(\d+)\.(\d+)(?:\.(\d+))?", version or "")
    if found is None:
        return 0.0
    major, minor, patch = (int(part or 0) for part in found.groups())
    return 100.0 * major + minor + patch / 20
