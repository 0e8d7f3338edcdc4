"""NVIDIA AIConfigurator behind the search's seam. (I/O: it reads its own tables)

An alternative predictor, the optional extra ``aic`` (Linux on x86-64 only): a second
opinion for `bud optimize --predictor aic` and the judge in benchmarks. Nothing that is
pinned depends on it. Where it has no answer a layout takes for ever.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from types import SimpleNamespace
from typing import Any, Final, Protocol, cast

import numpy as np
import yaml

from reconciler.optimizer.layouts import Layouts, Numbers
from reconciler.optimizer.prediction import ANALYTIC_BAND, BOUND_SHARE, Prediction
from reconciler.optimizer.task import Pool, Task
from schemas.architecture import Precision
from schemas.catalog import catalog
from schemas.errors import PermanentError

__all__ = ["AicPredictor"]

VERSION: Final = "0.12.0"
# The systems that it carries measured tables of.
SYSTEMS: Final = (
    "a100_sxm", "h100_sxm", "h200_sxm", "b200_sxm", "b300_sxm", "gb200", "gb300", "l40s",
)  # fmt: skip
# Its words for what matrices are multiplied in; others follow the model's own config.
FORMATS: Final = {
    Precision.BF16: "bfloat16",
    Precision.FP8: "fp8",
    Precision.FP4: "nvfp4",
}


class _Answer(Protocol):
    ttft: float
    tpot: float


@dataclass(frozen=True, slots=True, kw_only=True)
class AicPredictor:
    @property
    def identity(self) -> str:
        return f"aiconfigurator/{VERSION}"

    def predict(
        self,
        task: Task,
        pool: Pool,
        precision: Precision,
        layouts: Layouts,
        *,
        concurrency: Numbers,
    ) -> Prediction:
        estimate = _estimate()
        system = _system(pool)
        found = np.full((2, len(layouts)), np.inf)
        for i in range(len(layouts)) if system else ():
            answer = _ask(estimate, system, task, precision, layouts, i, concurrency[i])
            if answer is not None:
                found[:, i] = answer
        ttft, tpot = found
        first, each = ANALYTIC_BAND["ttft"], ANALYTIC_BAND["tpot"]
        return Prediction(
            ttft_ms=ttft,
            ttft_lo=ttft / first,
            ttft_bound=ttft * first**BOUND_SHARE,
            ttft_hi=ttft * first,
            tpot_ms=tpot,
            tpot_lo=tpot / each,
            tpot_bound=tpot * each**BOUND_SHARE,
            tpot_hi=tpot * each,
            points=np.zeros(len(layouts)),
        )


def _ask(
    estimate: Callable[..., _Answer],
    system: str,
    task: Task,
    precision: Precision,
    layouts: Layouts,
    i: int,
    concurrency: float,
) -> tuple[float, float] | None:
    """TTFT and TPOT in milliseconds; None where it refuses the layout."""
    tensor, data = int(layouts.tensor[i]), int(layouts.data[i])
    expert = int(layouts.expert[i]) if task.architecture.experts else 1
    running = min(concurrency, float(layouts.max_batch[i]))
    try:
        answer = estimate(
            model_path=task.model,
            system_name=system,
            backend_name=task.engine,
            isl=task.input_tokens,
            osl=task.output_tokens,
            batch_size=max(1, math.ceil(running / data)),
            ctx_tokens=int(layouts.chunk[i]),
            tp_size=tensor,
            pp_size=int(layouts.pipeline[i]),
            attention_dp_size=data,
            moe_tp_size=tensor * data // expert if task.architecture.experts else None,
            moe_ep_size=expert if task.architecture.experts else None,
            gemm_quant_mode=FORMATS.get(precision),
            moe_quant_mode=FORMATS.get(precision)
            if task.architecture.experts
            else None,
        )
    except Exception:  # noqa: BLE001 - it raises whatever its engine met
        return None
    return float(answer.ttft), float(answer.tpot)


def _system(pool: Pool) -> str:
    """Its name for the pool's GPU; empty where it has no tables of it."""
    if pool.gpu is None:
        return ""
    gpu = catalog().gpus.find(pool.gpu)
    names = {name.casefold().replace("-", "_") for name in (gpu.key, *gpu.aliases)}
    return next((system for system in SYSTEMS if system in names), "")


@cache
def _estimate() -> Callable[..., _Answer]:
    """Its estimate, with every YAML file parsed once.

    As shipped it parses 495 files for each configuration, 4 to 5 seconds of it.

    Raises:
        PermanentError: the extra is not installed.
    """
    try:
        api = importlib.import_module("aiconfigurator.cli.api")
    except ImportError as error:
        raise PermanentError(
            "cannot ask AIConfigurator: it is not installed",
            hint="pip install 'bud-foundry[aic]', on Linux x86-64",
        ) from error
    tables = importlib.import_module("aiconfigurator_core.sdk.perf_database")
    parsed = cache(yaml.safe_load)

    def safe_load(stream: Any) -> Any:
        # A copy: who reads a file may change what it got.
        return deepcopy(parsed(stream if isinstance(stream, str) else stream.read()))

    remembering = SimpleNamespace(**vars(yaml) | {"safe_load": safe_load})
    lanes = "aiconfigurator_core.sdk.attention_lanes"
    operations = "aiconfigurator_core.sdk.operations.base"
    for module in (tables, *map(importlib.import_module, (lanes, operations))):
        vars(module)["yaml"] = remembering
    for name in ("get_supported_databases", "get_latest_database_version"):
        vars(tables)[name] = cache(vars(tables)[name])
    return cast(Callable[..., _Answer], api.cli_estimate)
