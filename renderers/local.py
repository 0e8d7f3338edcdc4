"""Endpoints and models as manifests of the local target (pure).

Called by `reconciler.render`, one object at a time. Knows the command line of
each engine: the flags are the engines' own, from ``vllm serve --help`` (0.11) and
``python -m sglang.launch_server --help`` (0.5). It never looks at this machine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from hashlib import sha256
from typing import Literal

from renderers.engine_arguments import (
    sequences_of_a_rank,
    sglang_ranks,
    step_tokens,
)
from schemas.endpoint import Adapter as AdapterSpec
from schemas.endpoint import Endpoint
from schemas.errors import PermanentError
from schemas.local import (
    MODEL,
    PORT,
    PYTHON,
    Adapter,
    EndpointManifest,
    ModelManifest,
    Probe,
    Program,
    Replacement,
    Weights,
    canonical,
)
from schemas.model import Model, ModelSource
from schemas.objects import FoundryObject
from schemas.resolution import Resolution

__all__ = ["render_endpoint", "render_model", "weights_of"]

Arguments = Iterator[str]
Format = Literal["safetensors", "gguf"]

_FLOATS = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}


def render_model(model: Model) -> bytes:
    """The weights on this machine.

    Raises:
        PermanentError: only a cluster can fetch them.
    """
    _refuse_stores(model, model.spec.source)
    return canonical(
        ModelManifest(
            project=model.metadata.project,
            name=model.metadata.name,
            weights=weights_of(model.spec.source, model.spec.format),
            licence=model.spec.licence.id,
        )
    )


def render_endpoint(endpoint: Endpoint, model: Model, resolution: Resolution) -> bytes:
    """The processes of one endpoint.

    Raises:
        PermanentError: the engine cannot do what the endpoint says.
    """
    spec, engine = endpoint.spec, endpoint.spec.engine
    _refuse_what_is_not_served(endpoint, resolution)
    simulated = engine.name == "simulator"
    weights = weights_of(model.spec.source, model.spec.format)
    llamacpp = engine.name == "llamacpp"
    program = Program(
        engine=engine.name,
        version=engine.version,
        argv=(PYTHON, "-m", *_ENGINES[engine.name](endpoint, model, resolution)),
        env=engine.env,
        gpus=0 if simulated else resolution.gpus,
        weights=None if simulated else weights.id,
        form="gguf" if llamacpp and weights.format != "gguf" else "as-is",
        probe=Probe(task=model.spec.task, model=endpoint.metadata.name),
    )
    return canonical(
        EndpointManifest(
            project=endpoint.metadata.project,
            name=endpoint.metadata.name,
            # No autoscaler writes replicas on one machine: its floor is what runs.
            replicas=_replicas(endpoint, resolution),
            program=program,
            replacement=Replacement(
                strategy=spec.rollout.strategy,
                max_surge=spec.rollout.max_surge,
                floor=spec.rollout.floor,
                ready_timeout_s=spec.rollout.ready_timeout.seconds,
                drain_timeout_s=spec.rollout.drain_timeout.seconds,
            ),
            weights=None if simulated else weights,
            adapters=() if simulated else tuple(map(_adapter, spec.adapters)),
        )
    )


def weights_of(source: ModelSource, form: Format) -> Weights:
    """Name the files that ``source`` stands for.

    A content digest where the source pins one; else the digest of where they are,
    which for a hub is a commit and so as good.
    """
    pins = (source.package, source.s3, source.path)
    pinned = next((pin.sha256 for pin in pins if pin is not None), None)
    if source.hf is not None:
        place = f"hf:{source.hf.repo}@{source.hf.revision}"
    else:
        place = f"path:{source.path.path}" if source.path is not None else ""
    return Weights(
        id=pinned or sha256(place.encode()).hexdigest(), source=source, format=form
    )


def _replicas(endpoint: Endpoint, resolution: Resolution) -> int:
    if endpoint.spec.scaling is not None:
        return endpoint.spec.scaling.min
    return resolution.replicas if resolution.replicas is not None else 1


def _refuse_what_is_not_served(endpoint: Endpoint, resolution: Resolution) -> None:
    spec, name = endpoint.spec, endpoint.spec.engine.name
    if name != "simulator":
        for adapter in spec.adapters:
            _refuse_stores(endpoint, adapter.source)
    if name != "llamacpp":
        return
    if spec.adapters:
        raise PermanentError(
            f"cannot render {endpoint.ref}: llamacpp serves no adapter under a name of "
            f"its own, found {spec.adapters[0].name}",
            hint="serve adapters with vllm or sglang, or merge them into the weights",
        )
    if spec.parsers.tool or spec.parsers.reasoning:
        raise PermanentError(
            f"cannot render {endpoint.ref}: llamacpp reads the formats of tools and "
            "reasoning from the chat template itself",
            hint="leave parsers out",
        )
    if resolution.tensor * resolution.pipeline * resolution.data > 1:
        raise PermanentError(
            f"cannot render {endpoint.ref}: one llamacpp process is one device here, "
            f"found tensor {resolution.tensor}, pipeline {resolution.pipeline}, "
            f"data {resolution.data}",
            hint="use replicas instead",
        )


def _refuse_stores(owner: FoundryObject, source: ModelSource) -> None:
    said = source.credentials
    if said is not None and said.external_secret is not None:
        raise PermanentError(
            f"cannot render {owner.ref} for this machine: its credentials are an "
            f"externalSecret of {said.external_secret.store}, which a cluster's operator "
            "reads",
            hint="name credentials.env or credentials.file in this environment's overlay",
        )


def _adapter(spec: AdapterSpec) -> Adapter:
    return Adapter(name=spec.name, weights=weights_of(spec.source, "safetensors"))


def _vllm(endpoint: Endpoint, model: Model, resolution: Resolution) -> Arguments:
    spec = endpoint.spec
    yield "vllm.entrypoints.openai.api_server"
    yield from ("--model", MODEL, "--served-model-name", endpoint.metadata.name)
    yield from ("--host", "127.0.0.1", "--port", PORT)
    yield from ("--max-model-len", str(resolution.context))
    yield from ("--max-num-seqs", str(sequences_of_a_rank(resolution)))
    if tokens := step_tokens(endpoint, model, resolution, "max-num-batched-tokens"):
        yield from ("--max-num-batched-tokens", str(tokens))
    yield from ("--tensor-parallel-size", str(resolution.tensor))
    yield from ("--pipeline-parallel-size", str(resolution.pipeline))
    yield from ("--data-parallel-size", str(resolution.data))
    if resolution.expert > 1:
        yield "--enable-expert-parallel"
    if model.spec.task == "embedding":
        yield from ("--runner", "pooling")
    yield from _precision(model, resolution)
    if model.spec.trust_remote_code:
        yield "--trust-remote-code"
    if spec.adapters:
        yield from ("--enable-lora", "--max-loras", str(len(spec.adapters)))
        yield from ("--max-lora-rank", str(max(a.rank for a in spec.adapters)))
        yield from ("--lora-modules", *(_adapter(a).placeholder for a in spec.adapters))
    if spec.parsers.tool:
        yield from ("--enable-auto-tool-choice", "--tool-call-parser")
        yield spec.parsers.tool
    if spec.parsers.reasoning:
        yield from ("--reasoning-parser", spec.parsers.reasoning)
    yield from _own_arguments(endpoint, negated=True)


def _sglang(endpoint: Endpoint, model: Model, resolution: Resolution) -> Arguments:
    spec, ranks = endpoint.spec, sglang_ranks(model, resolution)
    yield "sglang.launch_server"
    yield from ("--model-path", MODEL, "--served-model-name", endpoint.metadata.name)
    yield from ("--host", "127.0.0.1", "--port", PORT, "--enable-metrics")
    yield from ("--context-length", str(resolution.context))
    yield from ("--max-running-requests", str(ranks.sequences))
    if tokens := step_tokens(endpoint, model, resolution, "chunked-prefill-size"):
        yield from ("--chunked-prefill-size", str(tokens * ranks.chunks))
    yield from ("--tp-size", str(ranks.tensor))
    yield from ("--pp-size", str(resolution.pipeline))
    yield from ("--dp-size", str(resolution.data))
    if ranks.attention:
        yield "--enable-dp-attention"
    if resolution.expert > 1:
        yield from ("--ep-size", str(resolution.expert))
    if model.spec.task == "embedding":
        yield "--is-embedding"
    yield from _precision(model, resolution)
    if model.spec.trust_remote_code:
        yield "--trust-remote-code"
    if spec.adapters:
        yield from ("--max-loras-per-batch", str(len(spec.adapters)))
        yield from ("--max-lora-rank", str(max(a.rank for a in spec.adapters)))
        yield from ("--lora-paths", *(_adapter(a).placeholder for a in spec.adapters))
    if spec.parsers.tool:
        yield from ("--tool-call-parser", spec.parsers.tool)
    if spec.parsers.reasoning:
        yield from ("--reasoning-parser", spec.parsers.reasoning)
    yield from _own_arguments(endpoint, negated=False)


def _llamacpp(endpoint: Endpoint, model: Model, resolution: Resolution) -> Arguments:
    yield "reconciler.engines.llamacpp"
    yield from ("--model", MODEL, "--alias", endpoint.metadata.name, "--port", PORT)
    yield from ("--context", str(resolution.context))
    yield from ("--parallel", str(resolution.max_batch))
    if endpoint.spec.cpus is not None:
        yield from ("--threads", str(endpoint.spec.cpus))
    if model.spec.task == "embedding":
        yield "--embedding"
    yield from _own_arguments(endpoint, negated=False)


def _simulator(endpoint: Endpoint, model: Model, resolution: Resolution) -> Arguments:
    spec, played = endpoint.spec, resolution.rehearsal
    yield "reconciler.engines.simulator"
    yield from ("--alias", endpoint.metadata.name, "--port", PORT)
    yield from ("--task", model.spec.task)
    yield from ("--context", str(resolution.context))
    yield from ("--parallel", str(resolution.max_batch))
    yield from ("--rehearses", spec.engine.rehearses or "simulator")
    yield from ("--input-tokens", str(spec.workload.input_tokens))
    concurrency = int(played.get("concurrency", 1))
    yield from ("--concurrency", str(min(concurrency, resolution.max_batch)))
    for name in ("ttft_ms", "tpot_ms"):
        if name in played:
            yield from (f"--{name.replace('_', '-')}", f"{played[name]:.6g}")
    yield from _own_arguments(endpoint, negated=False)


def _precision(model: Model, resolution: Resolution) -> Arguments:
    """Flags where the checkpoint's own precision is not what runs.

    A checkpoint that is quantized says so itself (its config.json); naming it again
    would only be one more way to be wrong.
    """
    if resolution.precision in _FLOATS:
        yield from ("--dtype", _FLOATS[resolution.precision])
    elif resolution.precision != model.spec.precision:
        if resolution.precision != "fp8":
            raise PermanentError(
                f"cannot render precision {resolution.precision}: the weights of "
                f"{model.ref} are {model.spec.precision}, and only fp8 is made on load",
                hint="name a model whose weights are quantized, or leave precision out",
            )
        yield from ("--quantization", "fp8")


def _own_arguments(endpoint: Endpoint, *, negated: bool) -> Arguments:
    """The endpoint's own flags, last, so that they win where an engine repeats one."""
    for name, value in sorted(endpoint.spec.engine.args.items()):
        if value is True:
            yield f"--{name}"
        elif value is False:
            if negated:
                yield f"--no-{name}"
        else:
            yield from (f"--{name}", str(value))


_ENGINES: dict[str, Callable[[Endpoint, Model, Resolution], Arguments]] = {
    "vllm": _vllm,
    "sglang": _sglang,
    "llamacpp": _llamacpp,
    "simulator": _simulator,
}
