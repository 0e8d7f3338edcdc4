"""Tensor ranks against pipeline stages, as ANL measured them on A100.

    python benchmarks/optimizer/pipelines.py <thr_anl_tp_pp_ep.csv>

The rows are argonne-lcf/LLM-Inference-Bench's (BSD-3): TensorRT-LLM, one batch that
starts and ends together, the same GPUs split in two or three ways. Prints how often
the arithmetic orders two ways as they were measured, and how far off it is about
how many times longer the slower takes.
"""

from __future__ import annotations

import csv
import sys
from collections import defaultdict
from itertools import combinations
from pathlib import Path
from typing import Final

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

from reconciler.optimizer.rows import cases_of, row_of
from schemas.catalog import catalog

Case = tuple[str, str, str, str]
# The source names the ways in several spellings; experts' are not compared here.
WAYS: Final = {
    "Tensor Parallelism": "tensor",
    "TP": "tensor",
    "Pipeline Parallelism": "pipeline",
    "PP": "pipeline",
    "Hybird Tensor (2) and Pipeline (2) Parallelism": "both",
    "Hybrid TP = 2 and PP = 2": "both",
}


def main() -> None:
    measured: dict[Case, dict[str, float]] = defaultdict(dict)
    with Path(sys.argv[1]).open(newline="") as stream:
        for line in csv.DictReader(stream):
            way = WAYS.get(line["parallelism"])
            if way is not None and line["gpus"] != "1":
                names = ("model", "gpus", "io_len_each", "batch_size")
                model, gpus, length, batch = (line[name] for name in names)
                measured[model, gpus, length, batch][way] = float(line["latency_s"])
    right, ratios = 0, []
    for case, ways in sorted(measured.items()):
        for one, other in combinations(sorted(ways), 2):
            said = predicted(case, one) / predicted(case, other)
            true = ways[one] / ways[other]
            right += (said > 1) == (true > 1)
            ratios.append(abs(np.log(said / true)))
    print(f"{len(ratios)} pairs on the same GPUs, {right} ordered as measured")
    print(f"ratio off by a factor of {np.exp(np.median(ratios)):.2f} (median)")


def predicted(case: Case, way: str) -> float:
    """Seconds of the whole batch."""
    model, gpus, length, batch = case
    tensor = {"tensor": int(gpus), "pipeline": 1, "both": 2}[way]
    line = {
        "model": model,
        "gpu": "a100-sxm-40gb",
        "backend": "trtllm",
        "precision": "fp16",
        "isl": length,
        "osl": length,
        "concurrency": batch,
        "gpus": gpus,
        "tp": str(tensor),
        "pp": str(int(gpus) // tensor),
    }
    cases = cases_of([row_of(line, catalog())])
    return float(cases["ttft"][0] + (int(length) - 1) * cases["tpot"][0])


if __name__ == "__main__":
    main()
