from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from reconciler.optimizer.artefact import shipped
from reconciler.optimizer.calibration import Calibration
from reconciler.optimizer.feedback import (
    Replicas,
    feedback,
    line_of,
    read_records,
)
from reconciler.optimizer.forecast import estimates_of
from reconciler.optimizer.layouts import Layouts
from reconciler.optimizer.learned import LearnedPredictor
from reconciler.optimizer.rows import cases_of, row_of
from reconciler.optimizer.task import Task
from schemas.catalog import catalog
from schemas.errors import PermanentError
from schemas.resolution import Resolution

KNOWN = {
    "model": "meta-llama/Llama-3.1-70B",
    "gpu": "h200_sxm",
    "backend": "vllm",
    "backend_version": "0.18.0",
    "precision": "fp8",
    "isl": "1024",
    "osl": "1024",
    "concurrency": "16",
    "gpus": "4",
    "tp": "4",
    "pp": "1",
    "attn_dp": "1",
    "ep": "1",
}


def learn(*lines: dict[str, str], **endpoints: dict[str, str]) -> Calibration:
    known = {f"default/{name}": line for name, line in endpoints.items()}
    found = feedback(lines, known, shipped(), catalog())
    return Calibration.of(json.loads(json.dumps(found.data())))


def predicted(line: dict[str, str]) -> dict[str, float]:
    found = estimates_of([row_of(line, catalog())], shipped())
    return {f"{name}_ms": float(e.value[0]) for name, e in found.items()}


def times(line: dict[str, str], *factors: float) -> list[dict[str, str]]:
    said = predicted(line)
    return [line | {n: str(v * f) for n, v in said.items()} for f in factors]


def test_feedback_moves_predictions_towards_the_teams_own() -> None:
    known = learn(*times(KNOWN, *[1.5] * 12))
    rows = [row_of(KNOWN, catalog())]
    before = estimates_of(rows, shipped())
    after = known.apply(cases_of(rows), before)
    for name in ("ttft", "tpot"):
        assert 1.3 < after[name].value[0] / before[name].value[0] < 1.5


def test_an_engine_bump_widens_and_takes_no_offset() -> None:
    known = learn(*times(KNOWN, *[2.0] * 5))
    rows = [row_of(KNOWN | {"backend_version": "0.99.0"}, catalog())]
    before = estimates_of(rows, shipped())
    after = known.apply(cases_of(rows), before)
    for name in ("ttft", "tpot"):
        assert after[name].value[0] == before[name].value[0]
        assert after[name].high[0] > before[name].high[0]


def test_measurements_that_scatter_widen_the_interval() -> None:
    rows = [row_of(KNOWN, catalog())]
    before = estimates_of(rows, shipped())["tpot"]
    wide = learn(*times(KNOWN, 0.3, 0.5, 1.0, 2.0, 3.3))
    after = wide.apply(cases_of(rows), {"tpot": before})["tpot"]
    assert after.low[0] < before.low[0] < before.high[0] < after.high[0]
    assert after.bound[0] > before.bound[0]


def test_another_model_is_not_touched() -> None:
    known = learn(*times(KNOWN, *[2.0] * 5))
    rows = [row_of(KNOWN | {"model": "Qwen/Qwen3-32B"}, catalog())]
    before = estimates_of(rows, shipped())["ttft"]
    after = known.apply(cases_of(rows), {"ttft": before})["ttft"]
    assert after.value == before.value
    assert after.high == before.high


def test_feedback_counts_what_was_inside_the_interval() -> None:
    (track,) = learn(*times(KNOWN, 1.0, 100.0), KNOWN).tracks["tpot"].values()
    assert (track.count, track.covered) == (2, 1)


def test_what_was_measured_last_stands() -> None:
    old, new = learn(*times(KNOWN, 2.0)), learn(*times(KNOWN, 0.5))
    (track,) = old.joined(new).tracks["tpot"].values()
    assert np.isclose(track.offset, np.log(0.5), atol=1e-3)


def test_a_line_may_name_an_endpoint() -> None:
    said = {"endpoint": "chat", "tpot_ms": "30"}
    known = learn(said, chat=KNOWN)
    assert known.tracks["tpot"] == learn(KNOWN | {"tpot_ms": "30"}).tracks["tpot"]
    with pytest.raises(PermanentError, match="cannot learn of endpoint 'other'"):
        learn({"endpoint": "other"}, chat=KNOWN)


def test_one_replica_has_its_share_of_the_load(chat_task: Task) -> None:
    chosen = Resolution(
        cluster="c",
        node_pool="h100",
        gpu="h100-sxm-80gb",
        tensor=2,
        pipeline=1,
        data=1,
        expert=1,
        max_batch=8,
        context=2048,
        precision="bf16",
        replicas=2,
        prediction={"concurrency": 8.0},
    )
    line = line_of(replace(chat_task, concurrency=15), chosen)
    assert (line["concurrency"], line["gpus"]) == ("8", "2")
    scaled = replace(chosen, replicas=None)
    assert line_of(replace(chat_task, autoscaled=(2, 4)), scaled) == line


def test_an_autoscaler_keeps_replicas_near_their_share_within_its_limits() -> None:
    two = Replicas(fewest=2, most=2, share=8)
    assert two.share_of(30) == 15
    scaled = Replicas(fewest=2, most=4, share=8)
    # 23 at once are three replicas of about 8; more than four there are not.
    assert scaled.share_of(23) == pytest.approx(23 / 3)
    assert scaled.share_of(80) == 20


def record(at: float, **changes: Any) -> dict[str, Any]:
    """Two seconds: half a second to the first token, then 31 more."""
    said = {"upstream": "default/chat", "status": 200, "stream": True, "input": 100}
    said |= {"output": 31, "seconds": 2.0, "first_seconds": 0.5, "at": at}
    return said | {"estimated": False, "cached": 0} | changes


def test_records_of_the_gateway_become_one_line_an_endpoint(tmp_path: Path) -> None:
    good = [record(at / 4) for at in range(400)]
    bad = [record(5, status=500), record(6, estimated=True), record(7, output=1)]
    text = "\n".join(json.dumps(r) for r in (*good, *bad))
    (tmp_path / "worker.000.jsonl").write_text(text)
    two = Replicas(fewest=2, most=2, share=8)
    (line,) = read_records(tmp_path, {"default/chat": two, "default/idle": two})
    numbers = {k: float(v) for k, v in line.items() if k != "endpoint"}
    assert line["endpoint"] == "default/chat"
    assert numbers["ttft_ms"] == 500
    assert numbers["tpot_ms"] == 50
    # Four begin a second and stay two: eight at once, four a replica.
    assert numbers["concurrency"] == pytest.approx(4, rel=0.02)


def test_the_search_believes_the_calibration(chat_task: Task) -> None:
    line = {**KNOWN, "model": chat_task.model, "gpu": "H100", "gpus": "1", "tp": "1"}
    line |= {"precision": "bf16", "backend_version": "0.19.0"}
    known = learn(*times(line, *[2.0] * 9))
    values = [
        predictor.predict(
            chat_task,
            chat_task.pools[0],
            chat_task.precisions[0],
            Layouts.one(max_batch=16),
            concurrency=np.array([16.0]),
        ).tpot_ms[0]
        for predictor in (LearnedPredictor(), LearnedPredictor(calibration=known))
    ]
    assert values[1] > 1.5 * values[0]
    assert known.about(chat_task)
    assert not known.about(replace(chat_task, engine="sglang"))
