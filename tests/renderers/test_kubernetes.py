import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from renderers.addons import addon_ref, addons_for_weights, addons_needed
from renderers.helm import our_chart, read_release
from renderers.kubernetes import render_endpoint, render_model
from schemas.cluster import Cluster
from schemas.endpoint import Endpoint
from schemas.errors import PermanentError
from schemas.kubernetes import values_schema
from schemas.resolution import Resolution
from tests.renderers.kubernetes_cases import (
    BIG,
    CASES,
    KEDA,
    KEPT_ELSEWHERE,
    PROMETHEUS,
    SGLANG,
    STORE,
    V3,
    cluster,
    endpoint,
    model,
    resolution,
)

ROOT = Path(__file__).parents[2]


def values(
    item: Endpoint, at: Cluster | None = None, of: Resolution | None = None
) -> Mapping[str, Any]:
    content = render_endpoint(item, model(), at or cluster(), of or resolution())
    return read_release(content).values


@pytest.mark.parametrize("case", CASES)
def test_the_same_object_gives_the_same_bytes(case: str) -> None:
    assert CASES[case]() == CASES[case]()


def test_another_process_gives_the_same_bytes() -> None:
    code = (
        "import hashlib; from tests.renderers.kubernetes_cases import CASES; "
        "[print(n, hashlib.sha256(c()).hexdigest()) for n, c in CASES.items()]"
    )
    runs = {
        subprocess.run(
            [sys.executable, "-c", code],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": seed},
            check=True,
            capture_output=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(runs) == 1
    assert len(runs.pop().splitlines()) == len(CASES)


@pytest.mark.parametrize("chart", ["endpoint", "model"])
def test_the_charts_schema_is_the_model(chart: str, update_golden: bool) -> None:
    file = ROOT / "templates" / "charts" / chart / "values.schema.json"
    said = json.dumps(values_schema(chart), indent=1, sort_keys=True) + "\n"
    if update_golden:
        file.write_text(said)
    assert file.read_text() == said


def test_a_release_names_the_bytes_of_its_chart() -> None:
    release = read_release(CASES["dense"]())
    assert release.chart_digest == our_chart("endpoint").digest


def test_under_an_autoscaler_replicas_are_not_said() -> None:
    scaled = endpoint("a", scaling={"max": 4, "queueDepth": 5})
    assert values(scaled, of=resolution(replicas=3))["replicas"] is None


def test_replicas_of_zero_are_said() -> None:
    assert values(endpoint("a"), of=resolution(replicas=0))["replicas"] == 0


def test_a_replica_that_fits_a_node_is_one_pod() -> None:
    said = values(endpoint("a"), of=resolution(tensor=8))
    assert (said["nodes"], said["limits"]) == (1, {"nvidia.com/gpu": "8"})
    assert said["workerCommand"] == []


def test_a_replica_that_spans_nodes_is_a_group_of_pods() -> None:
    said = read_release(CASES["moe-two-nodes"]()).values
    assert (said["nodes"], said["limits"]) == (2, {"nvidia.com/gpu": "8"})
    assert "--headless" in said["workerCommand"]
    assert "--headless" not in said["command"]


def test_gpus_that_leave_a_node_half_empty_are_refused() -> None:
    with pytest.raises(PermanentError, match="12 GPUs of one replica do not fill"):
        values(endpoint("a"), of=resolution(tensor=4, pipeline=3))


def test_sglang_is_told_in_its_own_words() -> None:
    said = read_release(
        render_endpoint(endpoint("a", engine=SGLANG), V3, cluster(), resolution(**BIG))
    ).values
    command = " ".join(said["command"])
    for flag in (
        "--tp-size=8",
        "--pp-size=2",
        "--ep-size=8",
        "--max-running-requests",
    ):
        assert flag in command
    for flag in (
        "--tensor-parallel-size",
        "--max-num-seqs",
        "--enable-expert-parallel",
    ):
        assert flag not in command


def test_attention_in_data_ranks_counts_every_gpu_as_sglang_does() -> None:
    command = read_release(CASES["moe-experts-sglang"]()).values["command"]
    # 8 GPUs of a stage; 4 attention ranks share the requests and the tokens of a step.
    for flag in (
        "--tp-size=8",
        "--dp-size=4",
        "--enable-dp-attention",
        "--ep-size=8",
        "--max-running-requests=64",
        f"--chunked-prefill-size={4 * 8192}",
    ):
        assert flag in command


def test_ranks_that_repeat_a_dense_model_share_its_requests() -> None:
    command = read_release(CASES["dense-sglang"]()).values["command"]
    assert "--enable-dp-attention" not in command
    for flag in ("--tp-size=2", "--dp-size=2", "--max-running-requests=32"):
        assert flag in command


def test_each_data_rank_of_vllm_runs_its_part_of_the_batch() -> None:
    command = read_release(CASES["moe-experts"]()).values["command"]
    assert "--data-parallel-size=2" in command
    assert "--max-num-seqs=32" in command


@pytest.mark.parametrize(
    ("engine", "flag"),
    [
        ({"name": "vllm", "args": {"max-model-len": 10}}, "max-model-len"),
        ({**SGLANG, "args": {"tp-size": 2}}, "tp-size"),
    ],
)
def test_a_flag_that_is_decided_elsewhere_is_refused(
    engine: dict[str, Any], flag: str
) -> None:
    with pytest.raises(PermanentError, match=f"engine.args.{flag} is decided"):
        values(endpoint("a", engine=engine))


def test_flags_that_nothing_else_says_come_last_and_sorted() -> None:
    args = {"swap-space": 8, "enforce-eager": True, "async-scheduling": False}
    said = values(endpoint("a", engine={"name": "vllm", "args": args}))
    assert said["command"][-2:] == ["--enforce-eager", "--swap-space=8"]


def test_vllm_has_no_kernel_for_rank_24_and_gets_the_next() -> None:
    said = read_release(CASES["lora"]()).values
    assert "--max-lora-rank=32" in said["command"]
    assert "support=/adapters/support" in said["command"]


def test_a_start_may_take_as_long_as_the_weights_need() -> None:
    small = values(endpoint("a"))["probe"]["startupSeconds"]
    large = read_release(CASES["moe-two-nodes"]()).values["probe"]["startupSeconds"]
    # 8 billion parameters in bf16 are 15.3 GiB; 671 billion in fp8 about 625 GiB.
    assert small == pytest.approx(300 + 15.3 / 0.2, abs=2)
    assert large == pytest.approx(300 + 640 / 0.2, rel=0.05)


@pytest.mark.parametrize(
    ("scaling", "at", "found"),
    [
        ({"min": 0, "max": 2, "queueDepth": 1}, cluster(), "scaling.min 0 needs KEDA"),
        ({"max": 2, "ttft": "1s"}, cluster(), "scaling.ttft needs KEDA"),
    ],
)
def test_what_no_plain_autoscaler_can_do_is_refused(
    scaling: dict[str, Any], at: Cluster, found: str
) -> None:
    with pytest.raises(PermanentError, match=found):
        values(endpoint("a", scaling=scaling), at)
    values(endpoint("a", scaling=scaling), cluster(addons=[KEDA]))


@pytest.mark.parametrize(
    ("spec", "resolved", "found"),
    [
        ({"engine": {"name": "simulator"}}, {}, "process of this machine"),
        ({"engine": {"name": "llamacpp"}}, {"data": 2}, "one process"),
        ({}, {"node_pool": "gone"}, "no node pool 'gone'"),
        ({}, {"precision": "fp4"}, "no engine turns bf16 weights into fp4"),
        ({"engine": SGLANG}, {"gpu": "gaudi3-128gb"}, "no image is known for intel"),
        ({"gpuShare": 50}, {"gpu": "mi300x-192gb"}, "gpuShare needs an NVIDIA GPU"),
    ],
)
def test_what_a_cluster_cannot_hold_is_refused_by_name(
    spec: dict[str, Any], resolved: dict[str, Any], found: str
) -> None:
    with pytest.raises(PermanentError, match=found):
        values(endpoint("a", **spec), of=resolution(**resolved))


def test_weights_of_this_machine_never_reach_a_cluster() -> None:
    here = model(source={"path": {"path": "/models/x"}}, architecture="Qwen/Qwen3-8B")
    with pytest.raises(PermanentError, match="no cluster can fetch it"):
        render_model(here, cluster())


def test_other_weights_are_another_volume_and_another_job() -> None:
    one = read_release(render_model(model(), cluster())).values
    source = {"hf": {"repo": "Qwen/Qwen3-8B", "revision": "b" * 40}}
    other = read_release(render_model(model(source=source), cluster())).values
    assert one["claim"] != other["claim"]
    assert one["job"] != other["job"]


def test_a_rendered_object_holds_where_a_secret_is_and_not_the_secret() -> None:
    said = read_release(CASES["model-hub"]()).values
    assert said["secret"]["credential"] == {
        "env": "HF_TOKEN",
        "file": None,
        "secret": None,
    }
    assert "value" not in said["secret"]


def test_what_a_store_keeps_waits_for_the_operator_that_reads_it() -> None:
    operator = {"name": "external-secrets", "version": "0.20.4"}
    at = cluster(addons=[operator, PROMETHEUS])
    ref = addon_ref(at, "external-secrets")
    hf = {"repo": "Qwen/Qwen3-8B", "revision": "b" * 40}
    kept = model(source={"hf": {**hf, "credentials": STORE}})
    assert [*addons_for_weights(kept, at)] == [ref]
    assert [*addons_for_weights(model(), at)] == []
    tuned = endpoint("tuned", adapters=KEPT_ELSEWHERE)
    assert ref in addons_needed(tuned, at, resolution())
    assert ref not in addons_needed(endpoint("chat"), at, resolution())
