"""Rows of a CSV that describe configurations, as cases. (I/O: reads CSV files)

``bud optimizer predict`` and the training read the columns of one schema: model,
gpu, backend, backend_version, precision, isl, osl, concurrency, gpus, tp, pp,
attn_dp, ep. Nothing in a row is an error: what the catalog does not know is taken
for the nearest thing it does, and said so in ``Row.assumed``.
"""

from __future__ import annotations

import csv
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import numpy as np

from reconciler.optimizer.cases import Cases, join_cases, make_cases
from reconciler.optimizer.device import Device
from reconciler.optimizer.layouts import Layouts, Numbers, chunk_of
from reconciler.optimizer.names import architecture_of
from reconciler.optimizer.prediction import memory
from reconciler.optimizer.task import Pool, Task
from schemas.architecture import Architecture, Precision
from schemas.catalog import Catalog
from schemas.errors import PermanentError

__all__ = ["Row", "cases_of", "memory_of_rows", "numbers", "read_rows", "row_of"]

Engine = Literal["vllm", "sglang", "trtllm", "llamacpp"]

_ENGINES: Final[Mapping[str, Engine]] = {
    "vllm": "vllm",
    "sglang": "sglang",
    "trtllm": "trtllm",
    "tensorrtllm": "trtllm",
    "trt": "trtllm",
    "llamacpp": "llamacpp",
    "tgis": "vllm",
}
# NVFP4 and MXFP4 are both written fp4; which one is the model's own format.
_PRECISIONS: Final[Mapping[str, Precision]] = {
    "bfloat16": Precision.BF16,
    "float16": Precision.FP16,
    "half": Precision.FP16,
    "nvfp4": Precision.FP4,
    "w4a16": Precision.INT4,
    "awq": Precision.INT4,
    "gptq": Precision.INT4,
}
FALLBACK_GPU: Final = "H100"
# More tokens, requests or GPUs than anybody means; keeps every product finite.
MOST: Final = 10_000_000
# What a load is taken for where a line does not say it.
LOADS: Final[Mapping[str, int]] = {"isl": 1024, "osl": 256, "concurrency": 1}


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One configuration; ``assumed`` says what the catalog did not know."""

    model: str
    architecture: Architecture
    device: Device
    gpu: str
    engine: Engine
    version: str
    precision: Precision
    input_tokens: int
    output_tokens: int
    concurrency: int
    tensor: int
    pipeline: int
    data: int
    expert: int
    assumed: tuple[str, ...]

    @property
    def task(self) -> Task:
        wide = self.precision.bits >= Precision.BF16.bits
        return Task(
            name="row",
            model=self.model,
            architecture=self.architecture,
            precisions=(self.precision,),
            # Benchmarks of quantised weights quantise the cache as well.
            kv_precision=Precision.BF16 if wide else Precision.FP8,
            engine=self.engine,
            engine_version=self.version,
            input_tokens=self.input_tokens,
            output_tokens=self.output_tokens,
            concurrency=self.concurrency,
            pools=(self.pool,),
        )

    @property
    def pool(self) -> Pool:
        devices = self.tensor * self.pipeline * self.data
        return Pool(
            cluster="row",
            name="row",
            device=self.device,
            gpu=self.gpu,
            gpus_per_node=devices,
            nodes=1,
            price_usd_per_h=None,
        )


def read_rows(path: Path) -> list[dict[str, str]]:
    """Every line of a CSV by its header; a short line lacks its last values, and
    bytes that are no text are part of a name that nobody knows.

    Raises:
        PermanentError: it cannot be read as lines of values.
    """
    with path.open(newline="", encoding="utf-8-sig", errors="replace") as stream:
        try:
            return [
                {k: v or "" for k, v in line.items() if k is not None}
                for line in csv.DictReader(stream)
            ]
        except csv.Error as error:
            raise PermanentError(
                f"cannot read {path}: {error}",
                hint="give it as comma-separated values with a header",
            ) from error


def row_of(line: Mapping[str, str], catalog: Catalog) -> Row:
    """Understand one line as far as it goes."""
    assumed: list[str] = []
    model = line.get("model", "").strip()
    shape, guessed = architecture_of(model, catalog)
    if guessed:
        assumed.append(f"model {model!r}")
    name = line.get("gpu", "").strip()
    gpu = catalog.gpus.get(name)
    if gpu is None:
        near = catalog.gpus.nearest(name, 1) if name else ()
        assumed.append(f"gpu {name!r}")
        gpu = catalog.gpus.find(near[0] if near else FALLBACK_GPU)
    backend = re.sub(r"[^a-z]", "", line.get("backend", "").lower())
    engine = _ENGINES.get(backend)
    if engine is None:
        assumed.append(f"backend {line.get('backend', '')!r}")
    loads = {name: _count(line, name, 0) for name in LOADS}
    assumed += [f"{name} {line.get(name, '')!r}" for name in LOADS if not loads[name]]
    precision = _precision(line.get("precision", ""), shape)
    if precision is None:
        assumed.append(f"precision {line['precision']!r}")
    devices, tensor = _count(line, "gpus", 1), _count(line, "tp", 0)
    pipeline, data = _count(line, "pp", 1), _count(line, "attn_dp", 1)
    if not tensor or (line.get("gpus") and tensor * pipeline * data != devices):
        # GPUs can be counted; what a width means differs from engine to engine.
        tensor = max(1, devices // (pipeline * data))
    return Row(
        model=model,
        architecture=shape,
        device=Device.of_gpu(gpu),
        # A GPU that is not known has no measurements, whatever stands in for it.
        gpu=gpu.key if not any(a.startswith("gpu") for a in assumed) else name,
        engine=engine or "vllm",
        version=line.get("backend_version", "").strip(),
        precision=precision or shape.native,
        input_tokens=loads["isl"] or LOADS["isl"],
        output_tokens=loads["osl"] or LOADS["osl"],
        concurrency=loads["concurrency"] or LOADS["concurrency"],
        tensor=tensor,
        pipeline=pipeline,
        data=data,
        expert=_count(line, "ep", 1),
        assumed=tuple(assumed),
    )


def cases_of(rows: Sequence[Row]) -> Cases:
    """The cases of rows, in their order."""
    groups: dict[tuple[object, ...], list[int]] = defaultdict(list)
    for index, row in enumerate(rows):
        key = (row.model, row.gpu, row.engine, row.version, row.precision)
        groups[(*key, row.input_tokens, row.output_tokens)].append(index)
    parts, order = [], []
    for indices in groups.values():
        same = [rows[i] for i in indices]
        first = same[0]
        parts.append(
            make_cases(
                first.task,
                first.pool,
                first.precision,
                _layouts(same),
                concurrency=np.array([float(row.concurrency) for row in same]),
            )
        )
        order += indices
    return join_cases(parts).take(np.argsort(np.array(order)))


def memory_of_rows(rows: Iterable[Row]) -> list[tuple[bool, float]]:
    """Whether each row fits, and the GiB a rank needs."""
    found = []
    for row in rows:
        table = memory(row.task, row.pool, row.precision, _layouts([row]))
        found.append((bool(table.fits[0]), float(table.needed[0])))
    return found


def _layouts(rows: Sequence[Row]) -> Layouts:
    return Layouts.of(
        [
            (r.tensor, r.pipeline, r.data, r.expert, r.concurrency, chunk_of(r.device))
            for r in rows
        ]
    )


def _count(line: Mapping[str, str], name: str, default: int) -> int:
    """A whole number from one to ``MOST``; ``default`` where there is none."""
    try:
        return min(max(1, int(float(line.get(name, "")))), MOST)
    except (ValueError, OverflowError):
        return default


def _precision(text: str, shape: Architecture) -> Precision | None:
    """The model's own where nothing is said; None for what nobody knows."""
    name = text.strip().lower()
    if name in {"fp4", ""} and shape.native == Precision.MXFP4:
        return Precision.MXFP4
    if name in _PRECISIONS:
        return _PRECISIONS[name]
    try:
        return Precision(name) if name else shape.native
    except ValueError:
        return None


def numbers(lines: Sequence[Mapping[str, str]], name: str) -> Numbers:
    """A column of measured numbers, NaN where there is none."""

    def number(text: str) -> float:
        try:
            return float(text)
        except ValueError:
            return float("nan")

    return np.array([number(line.get(name, "")) for line in lines])
