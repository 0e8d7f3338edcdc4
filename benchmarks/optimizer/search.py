"""The genetic search against listing everything, on the same predictor.

    python benchmarks/optimizer/search.py [tasks=200] [seed=0]

Random tasks whose spaces have at least 10,000 choices: what the best of the search
costs more than the best there is, whether anything chosen breaks a constraint, and
the seconds of a search, warm in this process and cold in a fresh one.
"""

from __future__ import annotations

import random
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

from reconciler.optimizer import Heuristic, Infeasible, genetic
from reconciler.optimizer.choose import feasible, objective
from reconciler.optimizer.device import Device
from reconciler.optimizer.learned import LearnedPredictor
from reconciler.optimizer.options import Options
from reconciler.optimizer.space import Space, space_of
from reconciler.optimizer.task import Goal, Goals, Limits, Pool, Task
from schemas.architecture import Precision
from schemas.catalog import catalog

MODELS = (
    "meta-llama/Llama-3.1-8B-Instruct",
    "meta-llama/Llama-3.1-70B",
    "Qwen/Qwen3-32B",
    "Qwen/Qwen3-235B-A22B",
    "openai/gpt-oss-120b",
    "deepseek-ai/DeepSeek-V3",
)
GPUS = {"H100": 4.0, "H200": 5.0, "B200": 8.0, "L40S": 1.6, "a100-sxm-80gb": 2.5}
LEAST, MOST = 10_000, 60_000


def random_task(draw: random.Random, number: int) -> Task:
    name = draw.choice(MODELS)
    shape = catalog().models.find(name).architecture
    chosen = draw.sample(sorted(GPUS), draw.randint(2, 4))
    goals = Goals(
        ttft_ms=Goal(value=draw.choice((500, 1000, 3000)), percentile=95),
        tpot_ms=Goal(value=draw.choice((20, 30, 50, 100))),
    )
    return Task(
        name=f"task{number}",
        model=name,
        architecture=shape,
        precisions=draw.choice(((Precision.BF16, Precision.FP8), (Precision.FP8,))),
        kv_precision=Precision.BF16,
        engine=draw.choice(("vllm", "sglang")),
        engine_version=None,
        input_tokens=draw.choice((256, 1024, 4096, 8192)),
        output_tokens=draw.choice((128, 512, 1024)),
        concurrency=draw.choice((64, 200, 500, 900)),
        pools=tuple(_pool(gpu, draw.choice((1, 2, 4, 8))) for gpu in chosen),
        goals=goals,
        limits=Limits(max_gpus=draw.choice((None, None, 32))),
        objective=draw.choice(("cost", "cost", "throughput", "latency")),
        seed=number,
    )


def _pool(gpu: str, nodes: int) -> Pool:
    found = catalog().gpus.find(gpu)
    return Pool(
        cluster="c",
        name=gpu.lower(),
        device=Device.of_gpu(found),
        gpu=found.key,
        gpus_per_node=8,
        nodes=nodes,
        price_usd_per_h=GPUS[gpu],
    )


def best(options: Options) -> float:
    good = feasible(options)
    values = objective(options, options.task.objective)[good]
    return float(values.min()) if len(values) else float("nan")


def compare(space: Space, predictor: LearnedPredictor) -> tuple[float, int, float]:
    """Regret in percent, constraints broken by the choice, seconds of the search."""
    started = time.perf_counter()
    found = genetic.search(space, predictor, seed=space.task.seed)
    seconds = time.perf_counter() - started
    every = space.sensible(space.everything())
    least, reached = best(space.options(every, predictor)), best(found)
    if np.isnan(least):
        return 0.0, 0, seconds
    if np.isnan(reached):
        return 100.0, 0, seconds
    good = feasible(found)
    pick = int(
        np.argmin(np.where(good, objective(found, space.task.objective), np.inf))
    )
    broken = sum(margin[pick] > 0 for margin in found.margins().values())
    return 100 * (reached / least - 1), int(broken), seconds


def heuristic_ms(task: Task) -> float:
    """Milliseconds that HEURISTIC takes for a task."""
    started = time.perf_counter()
    with suppress(Infeasible):
        Heuristic().decide(task)
    return 1e3 * (time.perf_counter() - started)


def cold() -> float:
    """Seconds of a fresh process that decides one task."""
    code = (
        "import random, sys; sys.path.insert(0, 'benchmarks/optimizer');"
        "from search import random_task; from dataclasses import replace;"
        "from reconciler.optimizer import Regressor;"
        "task = random_task(random.Random(1), 1);"
        "Regressor().decide(replace(task, limits=type(task.limits)()))"
    )
    started = time.perf_counter()
    subprocess.run(
        [sys.executable, "-c", code], check=False, cwd=Path(__file__).parents[2],
        capture_output=True,
    )  # fmt: skip
    return time.perf_counter() - started


def main() -> None:
    wanted = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    draw = random.Random(int(sys.argv[2]) if len(sys.argv) > 2 else 0)
    predictor = LearnedPredictor()
    rows: list[tuple[float, int, float]] = []
    sizes: list[int] = []
    quick: list[float] = []
    number = 0
    while len(rows) < wanted:
        number += 1
        space = space_of(replace(random_task(draw, number)))
        if not space.blocks or not LEAST <= space.size <= MOST:
            continue
        rows.append(compare(space, predictor))
        quick.append(heuristic_ms(space.task))
        sizes.append(space.size)
    regret, broken, seconds = (np.array(column) for column in zip(*rows, strict=True))
    print(f"{len(rows)} tasks of {min(sizes)} to {max(sizes)} choices")
    print(f"regret mean {regret.mean():.2f} %, p95 {np.percentile(regret, 95):.2f} %")
    print(f"constraints broken {int(broken.sum())}")
    print(
        f"HEURISTIC ms median {np.median(quick):.0f}, p99 {np.percentile(quick, 99):.0f}"
    )
    print(
        f"search s median {np.median(seconds[1:]):.2f}, p95 "
        f"{np.percentile(seconds[1:], 95):.2f}; cold process {cold():.2f}"
    )


if __name__ == "__main__":
    main()
