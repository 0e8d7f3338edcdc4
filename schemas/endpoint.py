"""Endpoint: a model served by an engine somewhere, with what it must achieve.

What is left open (parallelism, batch, precision, replicas) the optimizer fills;
what is set is never changed.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from schemas.model import ModelSource, Precision
from schemas.objects import FoundryObject, Labels, Name, Refers, Strict
from schemas.units import Duration, Money, TokenRate

__all__ = [
    "Endpoint",
    "EndpointSpec",
    "Engine",
    "OptimizerSpec",
    "Parallelism",
    "Rollout",
    "Scaling",
    "Slo",
    "Workload",
]

Positive = Annotated[int, Field(ge=1)]
Tokens = Annotated[int, Field(ge=1, le=100_000_000)]


class Engine(Strict):
    name: Literal["vllm", "sglang", "llamacpp", "simulator"]
    version: str | None = None
    rehearses: Literal["vllm", "sglang"] | None = Field(
        default=None, description="simulator only: the engine whose timing it plays"
    )
    args: dict[
        Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9-]*$")],
        str | int | float | bool,
    ] = Field(default={}, description="engine flags that nothing above can say")
    env: dict[str, str] = {}

    @model_validator(mode="after")
    def _only_the_simulator_rehearses(self) -> Self:
        if self.rehearses is not None and self.name != "simulator":
            raise ValueError(f"rehearses belongs to the simulator, not to {self.name}")
        return self


class Workload(Strict):
    """The load to be planned for: mean tokens of a request, requests at once."""

    input_tokens: Tokens
    output_tokens: Tokens
    concurrency: Annotated[int, Field(ge=1, le=1_000_000)]


Percentile = Annotated[int, Field(ge=1, le=99)]


class LatencyTarget(Strict):
    target: Duration
    percentile: Percentile = 95
    enforcement: Literal["hard", "soft"] = "hard"


class ThroughputTarget(Strict):
    target: TokenRate
    enforcement: Literal["hard", "soft"] = "soft"


class Slo(Strict):
    ttft: LatencyTarget | None = Field(default=None, description="time to first token")
    tpot: LatencyTarget | None = Field(
        default=None, description="time per output token after the first"
    )
    # The alias generator would make it e2E.
    e2e: LatencyTarget | None = Field(
        default=None, alias="e2e", description="the whole request"
    )
    throughput: ThroughputTarget | None = Field(
        default=None, description="output tokens of all replicas together"
    )


class Parallelism(Strict):
    tensor: Positive | None = None
    pipeline: Positive | None = None
    data: Positive | None = None
    expert: Positive | None = None


class Scaling(Strict):
    """Replicas belong to an autoscaler; nothing here may write them again."""

    min: Annotated[int, Field(ge=0)] = 1
    max: Positive
    queue_depth: Positive | None = Field(default=None, description="waiting, a replica")
    kv_cache: Annotated[int, Field(ge=1, le=100)] | None = Field(
        default=None, description="percent in use"
    )
    ttft: Duration | None = None
    cooldown: Duration = Duration("5m")

    @model_validator(mode="after")
    def _has_a_range_and_a_reason(self) -> Self:
        if self.min > self.max:
            raise ValueError(f"min {self.min} is more than max {self.max}")
        if self.queue_depth is None and self.kv_cache is None and self.ttft is None:
            raise ValueError("scale on something: queueDepth, kvCache or ttft")
        return self


class Constraints(Strict):
    max_gpus: Positive | None = None
    max_replicas: Positive | None = None
    gpus: tuple[str, ...] = Field(default=(), description="GPU types that may be used")
    node_pools: tuple[Name, ...] = ()
    regions: tuple[str, ...] = Field(
        default=(), description="of the clusters that a placement selects"
    )
    precisions: tuple[Literal["bf16", "fp16", "fp8"], ...] = Field(
        default=(), description="that weights may be turned into, beside the model's"
    )
    spot: bool = Field(default=False, description="spot machines may be used")
    max_cost_per_month: Money | None = None


class OptimizerSpec(Strict):
    method: Literal["regressor", "heuristic"] = "regressor"
    objective: Literal["cost", "throughput", "latency"] = "cost"
    seed: Annotated[int, Field(ge=0, le=2**31 - 1)] = 0
    constraints: Constraints = Constraints()


class Rollout(Strict):
    strategy: Literal["rolling", "recreate"] = "rolling"
    max_surge: Positive = 1
    floor: Annotated[int, Field(ge=0)] | None = Field(
        default=None,
        description="replicas that always answer; left out, as many as answered before",
    )
    ready_timeout: Duration = Duration("10m")
    drain_timeout: Duration = Duration("30s")


class Adapter(Strict):
    """A LoRA adapter, served under its own model name."""

    name: Name
    source: ModelSource
    rank: Annotated[int, Field(ge=1, le=512)] = 16


class Parsers(Strict):
    tool: str | None = None
    reasoning: str | None = None


class EndpointSpec(Strict):
    model: Annotated[Name, Refers("Model")]
    cluster: Annotated[Name | None, Refers("Cluster")] = None
    placement: Labels | None = Field(
        default=None, description="labels of the cluster, where its name is left open"
    )
    engine: Engine
    workload: Workload
    slo: Slo = Slo()
    parallelism: Parallelism = Parallelism()
    max_batch: Positive | None = Field(
        default=None, description="sequences that run at once in one replica"
    )
    context: Tokens | None = Field(default=None, description="longest sequence, tokens")
    precision: Precision | None = Field(
        default=None, description="left out, the model's"
    )
    replicas: Annotated[int, Field(ge=0, le=10_000)] | None = None
    scaling: Scaling | None = None
    gpu_share: Annotated[int, Field(ge=1, le=99)] | None = Field(
        default=None, description="percent of one GPU, shared through HAMi"
    )
    cpus: Positive | None = Field(default=None, description="threads on a CPU engine")
    optimizer: OptimizerSpec = OptimizerSpec()
    rollout: Rollout = Rollout()
    adapters: tuple[Adapter, ...] = ()
    parsers: Parsers = Parsers()

    @model_validator(mode="after")
    def _says_one_thing(self) -> Self:
        if (self.cluster is None) == (self.placement is None):
            raise ValueError("name a cluster, or a placement that selects one")
        if self.replicas is not None and self.scaling is not None:
            raise ValueError(
                "replicas and scaling are mutually exclusive: under an autoscaler the "
                "number of replicas is not ours to write"
            )
        wanted = self.workload.input_tokens + self.workload.output_tokens
        if self.context is not None and self.context < wanted:
            raise ValueError(
                f"context {self.context} is shorter than the workload's own "
                f"{self.workload.input_tokens} + {self.workload.output_tokens} tokens"
            )
        if self.precision is not None and self.optimizer.constraints.precisions:
            raise ValueError(
                f"precision is set to {self.precision}: "
                "optimizer.constraints.precisions leaves it open"
            )
        if self.gpu_share is not None and (self.parallelism.tensor or 1) > 1:
            raise ValueError(
                "gpuShare is a slice of one GPU: parallelism.tensor must be 1"
            )
        return self


class Endpoint(FoundryObject):
    kind: Literal["Endpoint"]
    spec: EndpointSpec
