"""Task in, Decision out: the one interface that HEURISTIC and REGRESSOR share.

``resolve`` makes a Task from what is desired; an ``Optimizer`` answers it. Values
only: nothing here computes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol

from reconciler.optimizer.device import Device
from schemas.architecture import Architecture, Precision

if TYPE_CHECKING:  # options are made of tasks
    from reconciler.optimizer.options import Options

__all__ = [
    "Candidate",
    "Decision",
    "Fixed",
    "Goal",
    "Goals",
    "Infeasible",
    "Limits",
    "Objective",
    "Optimizer",
    "Point",
    "Pool",
    "Task",
]

Objective = Literal["cost", "throughput", "latency"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """Machines of one shape that a replica could run on."""

    cluster: str
    name: str
    device: Device
    gpu: str | None
    """The catalog's key; None where the node itself is the device."""
    gpus_per_node: int
    """Devices; on a node without accelerators, processes that share it."""
    nodes: int
    price_usd_per_h: float | None
    """Of one device: a node's price shared by its devices. None where the machines
    are one's own, or nobody knows."""
    shared: bool = False
    """A slice of one GPU: more than one cannot work together."""

    @property
    def devices(self) -> int:
        """Devices of all nodes; a node without accelerators counts as one."""
        return self.nodes * self.gpus_per_node


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """A target in milliseconds, or tokens per second where it is a throughput."""

    value: float
    percentile: int | None = None
    hard: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Goals:
    ttft_ms: Goal | None = None
    tpot_ms: Goal | None = None
    e2e_ms: Goal | None = None
    tokens_per_s: Goal | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Fixed:
    """What the Endpoint says itself; None is open."""

    tensor: int | None = None
    pipeline: int | None = None
    data: int | None = None
    expert: int | None = None
    max_batch: int | None = None
    chunk: int | None = None
    context: int | None = None
    replicas: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    max_gpus: int | None = None
    max_replicas: int | None = None
    max_usd_per_month: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """Everything a decision depends on, and nothing else."""

    name: str
    """``Endpoint/project/name``, for messages."""
    model: str
    """The catalog's name of the model."""
    architecture: Architecture
    precisions: tuple[Precision, ...]
    kv_precision: Precision
    engine: Literal["vllm", "sglang", "trtllm", "llamacpp"]
    """Whose timing and memory apply; a simulator's is the engine it rehearses."""
    engine_version: str | None
    input_tokens: int
    output_tokens: int
    concurrency: int
    pools: tuple[Pool, ...]
    goals: Goals = Goals()
    fixed: Fixed = Fixed()
    limits: Limits = Limits()
    autoscaled: tuple[int, int] | None = None
    """Fewest and most replicas, where an autoscaler owns their number."""
    lora_ranks: tuple[int, ...] = ()
    objective: Objective = "cost"
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One way to serve, with what is predicted of it."""

    cluster: str
    node_pool: str
    gpu: str | None
    tensor: int
    pipeline: int
    data: int
    expert: int
    max_batch: int
    chunk: int
    precision: str
    replicas: int
    usd_per_h: float | None
    prediction: Mapping[str, float]
    """ttft_ms, tpot_ms, e2e_ms, tokens_per_s, with _lo and _hi (90 %); ``concurrency``
    is what one replica has at once."""

    @property
    def gpus(self) -> int:
        """GPUs of all replicas."""
        one = self.tensor * self.pipeline * self.data
        return self.replicas * one if self.gpu is not None else 0

    @property
    def label(self) -> str:
        """Short enough for a picture."""
        return (
            f"{self.replicas} x {self.gpu or 'cpu'} t{self.tensor} p{self.pipeline} "
            f"d{self.data} e{self.expert} {self.precision}, batch {self.max_batch}"
        )

    def __str__(self) -> str:
        machines = f"{self.gpus} x {self.gpu}" if self.gpu else "CPU"
        return (
            f"{self.replicas} x tensor {self.tensor} pipeline {self.pipeline} data "
            f"{self.data} at {self.precision} on {machines}, pool {self.node_pool}"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One option in the picture of a decision."""

    spent: float
    """USD an hour, or devices where there is no price."""
    tokens_per_s: float
    label: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What was chosen, why, and what nearly was."""

    chosen: Candidate
    context: int
    alternatives: tuple[Candidate, ...]
    """The best three that differ in more than the batch, best first."""
    reason: str
    binding: str
    """The constraint that stops anything better; empty where none does."""
    memory_gib: Mapping[str, float]
    """By what takes it, on the fullest rank."""
    method: str
    """Name and version of what decided, with the digest of its artefact."""
    considered: int
    measured_points: int = 0
    """Measurements of this model on this GPU that the prediction rests on."""
    front: tuple[Point, ...] = ()
    """No other option serves as much for less; from cheap to fast."""
    notes: tuple[str, ...] = field(default=())


class Infeasible(Exception):
    """Nothing satisfies every hard constraint.

    ``binding`` names the one that fails by the least; ``nearest`` are the three
    alternatives that miss by the least, each with what it would take.
    """

    def __init__(
        self, binding: str, nearest: tuple[tuple[Candidate, str], ...]
    ) -> None:
        super().__init__(binding)
        self.binding, self.nearest = binding, nearest

    @property
    def alternatives(self) -> str:
        """The nearest ones in words; empty where there are none."""
        near = "; ".join(f"{found} ({missed})" for found, missed in self.nearest)
        return f"nearest: {near}" if near else ""


class Optimizer(Protocol):
    """HEURISTIC and REGRESSOR, and whatever comes later."""

    @property
    def identity(self) -> str:
        """Name, version and digest: a change of it makes a decision stale."""
        ...

    def decide(self, task: Task) -> Decision:
        """Choose; the same task gives the same decision in any process.

        Raises:
            Infeasible: no layout meets every hard constraint.
        """
        ...

    def consider(self, task: Task) -> Options | None:
        """Everything that was weighed, for whoever explains a decision."""
        ...
