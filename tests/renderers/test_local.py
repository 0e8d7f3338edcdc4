"""Manifests of the local target: the same bytes, and each engine's own flags."""

from typing import Any

import orjson
import pytest

from renderers.local import render_endpoint, render_model
from schemas.endpoint import Endpoint
from schemas.errors import PermanentError
from schemas.local import EndpointManifest, ModelManifest, canonical
from schemas.model import Model
from schemas.resolution import Resolution

SHA = "ab" * 32
RESOLUTION = Resolution(
    cluster="laptop",
    node_pool="gpus",
    gpu="h100",
    tensor=2,
    pipeline=1,
    data=1,
    expert=1,
    max_batch=32,
    context=8192,
    precision="bf16",
    replicas=2,
    rehearsal={"concurrency": 4, "ttft_ms": 120.5, "tpot_ms": 9.25},
)
ON_CPU = Resolution(
    cluster="laptop",
    node_pool="cpus",
    gpu=None,
    tensor=1,
    pipeline=1,
    data=1,
    expert=1,
    max_batch=4,
    context=2048,
    precision="q4_k_m",
    replicas=1,
)
ADAPTER = {
    "name": "law",
    "rank": 32,
    "source": {"hf": {"repo": "team/law-lora", "revision": "c" * 40}},
}


def model(**spec: Any) -> Model:
    return Model.model_validate_json(
        _json(
            "Model",
            "weights",
            {
                "source": {"hf": {"repo": "team/base", "revision": "d" * 40}},
                "precision": "bf16",
                "licence": {"id": "Apache-2.0"},
                **spec,
            },
        )
    )


def endpoint(engine: Any, **spec: Any) -> Endpoint:
    return Endpoint.model_validate_json(
        _json(
            "Endpoint",
            "chat",
            {
                "model": "weights",
                "cluster": "laptop",
                "engine": engine if isinstance(engine, dict) else {"name": engine},
                "workload": {"inputTokens": 512, "outputTokens": 64, "concurrency": 8},
                **spec,
            },
        )
    )


def _json(kind: str, name: str, spec: dict[str, Any]) -> bytes:
    return orjson.dumps(
        {
            "apiVersion": "foundry.bud/v1",
            "kind": kind,
            "metadata": {"name": name},
            "spec": spec,
        }
    )


def rendered(
    item: Endpoint, weights: Model, resolution: Resolution = RESOLUTION
) -> EndpointManifest:
    return EndpointManifest.model_validate_json(
        render_endpoint(item, weights, resolution)
    )


def line(
    item: Endpoint, weights: Model | None = None, resolution: Resolution = RESOLUTION
) -> str:
    return " ".join(rendered(item, weights or model(), resolution).program.argv)


def test_the_same_values_give_the_same_bytes() -> None:
    one = render_endpoint(endpoint("vllm"), model(), RESOLUTION)
    assert render_endpoint(endpoint("vllm"), model(), RESOLUTION) == one
    assert one.endswith(b"}\n")
    assert canonical(EndpointManifest.model_validate_json(one)) == one


def test_vllm_gets_the_resolved_layout_in_its_own_flags() -> None:
    assert line(endpoint("vllm")) == (
        "{python} -m vllm.entrypoints.openai.api_server --model {model} "
        "--served-model-name chat --host 127.0.0.1 --port {port} "
        "--max-model-len 8192 --max-num-seqs 32 --tensor-parallel-size 2 "
        "--pipeline-parallel-size 1 --data-parallel-size 1 --dtype bfloat16"
    )


def test_sglang_gets_the_resolved_layout_in_its_own_flags() -> None:
    assert line(endpoint("sglang")) == (
        "{python} -m sglang.launch_server --model-path {model} "
        "--served-model-name chat --host 127.0.0.1 --port {port} --enable-metrics "
        "--context-length 8192 --max-running-requests 32 --tp-size 2 --pp-size 1 "
        "--dp-size 1 --dtype bfloat16"
    )


def test_llamacpp_is_our_launcher() -> None:
    weights = model(
        source={"path": {"path": "models/a.gguf", "sha256": SHA}},
        format="gguf",
        architecture="gemma-3-270m",
        precision="q4_k_m",
    )
    said = line(endpoint("llamacpp", cpus=2), weights, ON_CPU)
    assert said == (
        "{python} -m reconciler.engines.llamacpp --model {model} --alias chat "
        "--port {port} --context 2048 --parallel 4 --threads 2"
    )


def test_the_simulator_is_told_what_to_play() -> None:
    manifest = rendered(endpoint({"name": "simulator", "rehearses": "vllm"}), model())
    assert " ".join(manifest.program.argv) == (
        "{python} -m reconciler.engines.simulator --alias chat --port {port} "
        "--task chat --context 8192 --parallel 32 --rehearses vllm "
        "--input-tokens 512 --concurrency 4 --ttft-ms 120.5 --tpot-ms 9.25"
    )
    assert (manifest.weights, manifest.program.gpus) == (None, 0)


@pytest.mark.parametrize(
    ("engine", "flags"),
    [
        (
            "vllm",
            (
                "--enable-lora --max-loras 1 --max-lora-rank 32 --lora-modules "
                "{adapter:law} --enable-auto-tool-choice --tool-call-parser hermes "
                "--reasoning-parser qwen3"
            ),
        ),
        (
            "sglang",
            (
                "--max-loras-per-batch 1 --max-lora-rank 32 --lora-paths "
                "{adapter:law} --tool-call-parser hermes --reasoning-parser qwen3"
            ),
        ),
    ],
)
def test_adapters_and_parsers_are_passed_on(engine: str, flags: str) -> None:
    item = endpoint(
        engine, adapters=[ADAPTER], parsers={"tool": "hermes", "reasoning": "qwen3"}
    )
    assert line(item).endswith(flags)
    assert rendered(item, model()).adapters[0].weights.source.hf is not None


@pytest.mark.parametrize(
    ("engine", "flags"),
    [
        ("vllm", "--block-size 32 --no-enable-prefix-caching --enforce-eager"),
        ("sglang", "--block-size 32 --enforce-eager"),
    ],
)
def test_the_endpoints_own_flags_come_last(engine: str, flags: str) -> None:
    args = {"enforce-eager": True, "enable-prefix-caching": False, "block-size": 32}
    assert line(endpoint({"name": engine, "args": args})).endswith(
        f"--dtype bfloat16 {flags}"
    )


def test_more_replicas_run_the_same_revision() -> None:
    one = rendered(endpoint("vllm", replicas=1), model())
    three = EndpointManifest.model_validate_json(
        canonical(one.model_copy(update={"replicas": 3}))
    )
    slower = endpoint("vllm", rollout={"readyTimeout": "1h"})
    assert one.revision == three.revision == rendered(slower, model()).revision


@pytest.mark.parametrize(
    "other",
    [
        endpoint({"name": "vllm", "env": {"A": "1"}}),
        endpoint({"name": "vllm", "version": "0.11.0"}),
        endpoint({"name": "vllm", "args": {"seed": 1}}),
    ],
)
def test_another_program_is_another_revision(other: Endpoint) -> None:
    first = rendered(endpoint("vllm"), model())
    assert rendered(other, model()).revision != first.revision


def test_other_weights_are_another_revision() -> None:
    hub = {"hf": {"repo": "team/base", "revision": "e" * 40}}
    first, second = model(), model(source=hub)
    item = endpoint("vllm")
    assert rendered(item, first).revision != rendered(item, second).revision


def test_an_autoscaled_endpoint_runs_its_minimum_here() -> None:
    item = endpoint("vllm", scaling={"min": 3, "max": 9, "queueDepth": 4})
    open_ = Resolution(
        **{f: getattr(RESOLUTION, f) for f in Resolution.__slots__ if f != "replicas"},
        replicas=None,
    )
    assert rendered(item, model(), open_).replicas == 3


@pytest.mark.parametrize(
    ("item", "resolution", "said"),
    [
        (endpoint("llamacpp", adapters=[ADAPTER]), ON_CPU, "no adapter .* found law"),
        (endpoint("llamacpp", parsers={"tool": "hermes"}), ON_CPU, "chat template"),
        (endpoint("llamacpp"), RESOLUTION, "one device here, found tensor 2"),
    ],
)
def test_what_llamacpp_cannot_do_is_refused(
    item: Endpoint, resolution: Resolution, said: str
) -> None:
    with pytest.raises(PermanentError, match=said):
        render_endpoint(item, model(), resolution)


def test_fp8_is_made_on_load_and_nothing_smaller_is() -> None:
    def at(precision: str) -> Resolution:
        fields = {f: getattr(RESOLUTION, f) for f in Resolution.__slots__}
        return Resolution(**{**fields, "precision": precision})

    assert line(endpoint("vllm"), resolution=at("fp8")).endswith("--quantization fp8")
    quantized = model(precision="int4")
    assert "--quantization" not in line(endpoint("vllm"), quantized, at("int4"))
    with pytest.raises(PermanentError, match="cannot render precision int4"):
        render_endpoint(endpoint("vllm"), model(), at("int4"))


def test_safetensors_for_llamacpp_are_converted_before_the_start() -> None:
    assert rendered(endpoint("llamacpp"), model(), ON_CPU).program.form == "gguf"
    assert rendered(endpoint("vllm"), model()).program.form == "as-is"


def test_weights_are_named_by_their_content_where_it_is_pinned() -> None:
    pinned = model(
        source={"package": {"name": "p", "version": "1", "root": "m", "sha256": SHA}},
        architecture="a",
    )
    read = ModelManifest.model_validate_json(render_model(pinned))
    assert read.weights.id == SHA
    hub = ModelManifest.model_validate_json(render_model(model()))
    assert hub.weights.id != SHA
    assert hub.licence == "Apache-2.0"


def test_a_secret_that_only_a_cluster_can_read_is_refused_with_the_way_out() -> None:
    store = {"externalSecret": {"store": "vault", "key": "hub"}}
    hf = {"repo": "team/base", "revision": "d" * 40, "credentials": store}
    kept = model(source={"hf": hf})
    with pytest.raises(PermanentError, match="externalSecret of vault") as caught:
        render_model(kept)
    assert "credentials.env" in caught.value.hint
    adapter = {"name": "law", "source": {"hf": hf}}
    with pytest.raises(PermanentError, match=r"Endpoint/default/chat .*externalSecret"):
        rendered(endpoint("vllm", adapters=[adapter]), model())
    # A simulated engine fetches nothing.
    assert rendered(endpoint("simulator"), kept).weights is None
