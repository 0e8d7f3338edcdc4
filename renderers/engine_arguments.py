"""How each engine is told what was decided: its own flags.

``renderers.kubernetes`` calls ``serve``. Pure: the same endpoint gives the same
argv. A flag that a person wrote under ``engine.args`` comes last, and one that the
rest of the object already decides is refused: it would say the same thing twice.

The flags are those of ``vllm serve`` (and of vLLM's guide to LeaderWorkerSet), of
SGLang's ``launch_server`` and of llama.cpp's ``llama-server``. Images, versions and
the names of metrics come from the catalog.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from schemas.catalog import catalog
from schemas.endpoint import Endpoint
from schemas.errors import PermanentError
from schemas.model import Model
from schemas.resolution import Resolution

__all__ = [
    "ADAPTERS",
    "WEIGHTS",
    "Served",
    "SglangRanks",
    "sequences_of_a_rank",
    "serve",
    "sglang_ranks",
    "step_tokens",
]

WEIGHTS = "/weights"
ADAPTERS = "/adapters"

# Numbers as the models here write them -> what the engines call them.
_DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
# The checkpoint's own config says how it was quantised (GPTQ, AWQ, NVFP4 ...); a
# flag is needed only for what the engine does itself while loading.
_ONLINE_QUANTIZATION = {"fp8": "fp8"}
# The ranks that vLLM has kernels for.
_VLLM_LORA_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
_RENDEZVOUS_PORT = 20000


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """One replica: ``worker`` is the argv of the pods after the first."""

    image: str
    command: tuple[str, ...]
    worker: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    port: int
    ttft: str = ""
    """Its histogram of the time to first token, where it publishes one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Order:
    endpoint: Endpoint
    model: Model
    resolution: Resolution
    nodes: int
    version: str

    def image(self, **images: str) -> str:
        """Pick the engine's image for the vendor of what it runs on."""
        gpu = self.resolution.gpu
        vendor = "cpu" if gpu is None else catalog().gpus.find(gpu).vendor
        if vendor not in images:
            raise self.cannot(f"no image is known for {vendor} devices")
        return images[vendor]

    @property
    def max_lora_rank(self) -> int:
        return max(adapter.rank for adapter in self.endpoint.spec.adapters)

    @property
    def adapters(self) -> tuple[str, ...]:
        return tuple(
            f"{adapter.name}={ADAPTERS}/{adapter.name}"
            for adapter in self.endpoint.spec.adapters
        )

    def chunk(self, flag: str, *, ranks: int = 1) -> tuple[str, ...]:
        tokens = step_tokens(self.endpoint, self.model, self.resolution, flag)
        return (f"--{flag}={tokens * ranks}",) if tokens else ()

    def cannot(self, found: str) -> PermanentError:
        return PermanentError(
            f"cannot render {self.endpoint.ref} for Kubernetes: {found}"
        )


def step_tokens(
    endpoint: Endpoint, model: Model, resolution: Resolution, flag: str
) -> int | None:
    """Tokens of one step that an engine is told; None where it decides itself.

    What the Endpoint says under engine.args stands. An embedding model takes its
    input in one step: there a smaller number would shorten what it accepts.
    """
    decided = flag in endpoint.spec.engine.args or model.spec.task == "embedding"
    return None if decided else resolution.chunk


def sequences_of_a_rank(resolution: Resolution) -> int:
    """The batch of one data rank: such ranks are engines, each with its own limit."""
    return -(-resolution.max_batch // resolution.data)


@dataclass(frozen=True, slots=True, kw_only=True)
class SglangRanks:
    """How SGLang counts: with attention in data ranks, all GPUs of a stage are tensor
    ranks of the experts, and a limit is the sum of what each data rank gets."""

    tensor: int
    sequences: int
    chunks: int
    """Data ranks that one number of tokens a step is divided among."""
    attention: bool


def sglang_ranks(model: Model, resolution: Resolution) -> SglangRanks:
    """SGLang repeats a dense model on each data rank and the attention of a mixture of
    experts, whose experts stay spread over all ranks, as they were counted on."""
    attention = resolution.data > 1 and model.spec.shape(catalog()).experts is not None
    return SglangRanks(
        tensor=resolution.tensor * (resolution.data if attention else 1),
        sequences=resolution.max_batch
        if attention
        else sequences_of_a_rank(resolution),
        chunks=resolution.data if attention else 1,
        attention=attention,
    )


def serve(
    endpoint: Endpoint, model: Model, resolution: Resolution, *, nodes: int
) -> Served:
    """Say how one replica of ``endpoint`` is started on ``nodes`` pods.

    Raises:
        PermanentError: the engine has no way to do what was asked.
    """
    engine = endpoint.spec.engine
    order = _Order(
        endpoint=endpoint,
        model=model,
        resolution=resolution,
        nodes=nodes,
        version=engine.version or catalog().engines.find(engine.name).versions[0],
    )
    said = _ENGINES[engine.name](order)
    extra = _extra(order, said.command)
    return Served(
        image=said.image,
        command=said.command + extra,
        worker=said.worker + extra if nodes > 1 else (),
        env={**said.env, **engine.env},
        port=said.port,
        ttft=said.ttft,
    )


def _vllm(order: _Order) -> Served:
    r, spec = order.resolution, order.endpoint.spec
    command = [
        *("vllm", "serve", WEIGHTS),
        f"--served-model-name={order.endpoint.metadata.name}",
        *("--host=0.0.0.0", "--port=8000"),
        f"--tensor-parallel-size={r.tensor}",
        f"--pipeline-parallel-size={r.pipeline}",
        f"--max-model-len={r.context}",
        f"--max-num-seqs={sequences_of_a_rank(r)}",
        *order.chunk("max-num-batched-tokens"),
        *_number_format(order),
    ]
    if r.data > 1:
        command.append(f"--data-parallel-size={r.data}")
    if r.expert > 1:
        # vLLM spreads the experts over all ranks of the replica; it takes no size.
        command.append("--enable-expert-parallel")
    if spec.adapters:
        rank = next(s for s in _VLLM_LORA_RANKS if s >= order.max_lora_rank)
        command += ["--enable-lora", f"--max-loras={len(spec.adapters)}"]
        command += [f"--max-lora-rank={rank}", "--lora-modules", *order.adapters]
    if spec.parsers.tool:
        command.append("--enable-auto-tool-choice")
        command.append(f"--tool-call-parser={spec.parsers.tool}")
    if spec.parsers.reasoning:
        command.append(f"--reasoning-parser={spec.parsers.reasoning}")
    worker: list[str] = []
    if order.nodes > 1:
        command += [
            "--nnodes=$(LWS_GROUP_SIZE)",
            "--node-rank=$(LWS_WORKER_INDEX)",
            "--master-addr=$(LWS_LEADER_ADDRESS)",
        ]
        worker = [*command, "--headless"]
    env = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}
    if r.gpu is None:
        env["VLLM_CPU_OMP_THREADS_BIND"] = "auto"
    return Served(
        image=order.image(
            nvidia=f"docker.io/vllm/vllm-openai:v{order.version}",
            amd=f"docker.io/vllm/vllm-openai-rocm:v{order.version}",
            cpu=f"public.ecr.aws/q9t5s3a7/vllm-cpu-release-repo:v{order.version}",
        ),
        command=tuple(command),
        worker=tuple(worker),
        env=env,
        port=8000,
        ttft="vllm:time_to_first_token_seconds_bucket",
    )


def _sglang(order: _Order) -> Served:
    r, spec = order.resolution, order.endpoint.spec
    ranks = sglang_ranks(order.model, r)
    command = [
        *("python3", "-m", "sglang.launch_server", f"--model-path={WEIGHTS}"),
        f"--served-model-name={order.endpoint.metadata.name}",
        *("--host=0.0.0.0", "--port=30000", "--enable-metrics"),
        f"--tp-size={ranks.tensor}",
        f"--pp-size={r.pipeline}",
        f"--context-length={r.context}",
        f"--max-running-requests={ranks.sequences}",
        *order.chunk("chunked-prefill-size", ranks=ranks.chunks),
        *_number_format(order),
    ]
    if r.data > 1:
        command.append(f"--dp-size={r.data}")
    if ranks.attention:
        command.append("--enable-dp-attention")
    if r.expert > 1:
        command.append(f"--ep-size={r.expert}")
    if spec.adapters:
        command += ["--enable-lora", f"--max-loras-per-batch={len(spec.adapters)}"]
        command += [f"--max-lora-rank={order.max_lora_rank}"]
        command += ["--lora-paths", *order.adapters]
    if spec.parsers.tool:
        command.append(f"--tool-call-parser={spec.parsers.tool}")
    if spec.parsers.reasoning:
        command.append(f"--reasoning-parser={spec.parsers.reasoning}")
    if r.gpu is None:
        command.append("--device=cpu")
    if order.nodes > 1:
        command += [
            "--nnodes=$(LWS_GROUP_SIZE)",
            "--node-rank=$(LWS_WORKER_INDEX)",
            f"--dist-init-addr=$(LWS_LEADER_ADDRESS):{_RENDEZVOUS_PORT}",
        ]
    return Served(
        image=order.image(
            nvidia=f"docker.io/lmsysorg/sglang:v{order.version}",
            cpu=f"docker.io/lmsysorg/sglang:v{order.version}-xeon",
        ),
        command=tuple(command),
        # Rank and address come from the environment: every pod runs the same argv.
        worker=tuple(command),
        env={"HF_HUB_OFFLINE": "1"},
        port=30000,
        ttft="sglang:time_to_first_token_seconds_bucket",
    )


def _llamacpp(order: _Order) -> Served:
    r, spec = order.resolution, order.endpoint.spec
    if max(order.nodes, r.pipeline, r.data) > 1:
        raise order.cannot("a replica of llamacpp is one process on one node")
    command = [
        *("/app/llama-server", f"--model={WEIGHTS}/model.gguf", "--metrics"),
        f"--alias={order.endpoint.metadata.name}",
        *("--host=0.0.0.0", "--port=8080"),
        # The context of llama-server is shared by its slots.
        f"--ctx-size={r.context * r.max_batch}",
        f"--parallel={r.max_batch}",
    ]
    if r.gpu is not None:
        command += ["--n-gpu-layers=999", "--split-mode=row"]
    elif spec.cpus is not None:
        command.append(f"--threads={spec.cpus}")
    for adapter in spec.adapters:
        command.append(f"--lora={ADAPTERS}/{adapter.name}/adapter.gguf")
    if spec.parsers.tool or spec.parsers.reasoning:
        # Tools and reasoning follow the chat template; there is no parser to name.
        command.append("--jinja")
    # The catalog's version is xllamacpp's, whose last number is llama.cpp's build.
    build = order.version.rpartition(".")[2].removeprefix("b")
    of = "ghcr.io/ggml-org/llama.cpp:server"
    return Served(
        image=order.image(
            nvidia=f"{of}-cuda-b{build}",
            amd=f"{of}-rocm-b{build}",
            cpu=f"{of}-b{build}",
        ),
        command=tuple(command),
        port=8080,
    )


def _simulator(order: _Order) -> Served:
    raise order.cannot("the simulator is a process of this machine, not a pod")


_ENGINES: Mapping[str, Callable[[_Order], Served]] = {
    "vllm": _vllm,
    "sglang": _sglang,
    "llamacpp": _llamacpp,
    "simulator": _simulator,
}


def _number_format(order: _Order) -> tuple[str, ...]:
    """Flags that say more than the checkpoint does, for vLLM and SGLang alike."""
    precision, native = order.resolution.precision, order.model.spec.precision
    trust = ("--trust-remote-code",) if order.model.spec.trust_remote_code else ()
    if precision in _DTYPES:
        return (f"--dtype={_DTYPES[precision]}", *trust)
    if precision != native and precision in _ONLINE_QUANTIZATION:
        return (f"--quantization={_ONLINE_QUANTIZATION[precision]}", *trust)
    if precision != native:
        raise order.cannot(f"no engine turns {native} weights into {precision}")
    return trust


def _extra(order: _Order, command: tuple[str, ...]) -> tuple[str, ...]:
    said = {argument.split("=", 1)[0] for argument in command}
    extra: list[str] = []
    for name, value in sorted(order.endpoint.spec.engine.args.items()):
        if f"--{name}" in said:
            raise order.cannot(f"engine.args.{name} is decided by another field")
        if value is True:
            extra.append(f"--{name}")
        elif value is not False:
            extra.append(f"--{name}={value}")
    return tuple(extra)
