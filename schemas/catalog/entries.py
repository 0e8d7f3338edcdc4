"""What an entry of the catalog may say: pydantic models, no I/O.

``schemas.catalog.load`` fills them from the data files; the optimizer, the cost of a
plan and the validator of a Cluster read them. A field's name carries its unit.
"""

from __future__ import annotations

import datetime as dt
from functools import cached_property
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from schemas.architecture import Architecture, Precision, architecture_from_config

__all__ = [
    "Cpu",
    "EngineEntry",
    "EngineMetrics",
    "Gpu",
    "Instance",
    "Interconnect",
    "ModelEntry",
    "Pcie",
    "Price",
    "Published",
    "SpotShare",
    "Tflops",
]

Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]
Source = Annotated[str, Field(min_length=8)]


class Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Tflops(Entry):
    """Dense peak per number format; None where the hardware has no such path."""

    fp32: Positive | None
    tf32: Positive | None
    fp16: Positive | None
    bf16: Positive | None
    fp8: Positive | None
    fp4: Positive | None
    int8: Positive | None


class Interconnect(Entry):
    """How a device reaches the others of its domain."""

    kind: Literal["nvlink", "xgmi", "xelink", "roce", "pcie", "none"]
    gb_per_s: Annotated[float, Field(ge=0)]
    """Per device and direction, all its links together."""
    domain: Count
    """Devices that reach each other at this rate, at most."""


class Pcie(Entry):
    generation: Annotated[int, Field(ge=3, le=6)]
    lanes: Count


class Gpu(Entry):
    """One device as a scheduler counts it."""

    key: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$")]
    vendor: Literal["nvidia", "amd", "intel"]
    memory_gib: Positive
    """As the driver reports it, before any engine's reserve."""
    memory_bandwidth_gb_per_s: Positive
    tflops: Tflops
    interconnect: Interconnect
    pcie: Pcie
    tdp_w: Count
    aliases: tuple[str, ...]
    """Marketing names, names in measured data, ``nvidia.com/gpu.product`` labels."""
    source: Source


class Cpu(Entry):
    """What a node without accelerators is taken for, per vCPU."""

    memory_bandwidth_gb_per_s_per_vcpu: Positive
    tflops_per_vcpu: Positive
    source: Source


class Price(Entry):
    """A list price on demand, as old as it says."""

    usd_per_h: Positive
    region: str
    as_of: dt.date
    source: Source


class SpotShare(Entry):
    """What a spot machine costs, as a share of the list price on demand."""

    low: Annotated[float, Field(gt=0, le=1)]
    high: Annotated[float, Field(gt=0, le=1)]
    source: Source

    @model_validator(mode="after")
    def _is_a_range(self) -> Self:
        if self.low > self.high:
            raise ValueError(f"low {self.low} is more than high {self.high}")
        return self


class Instance(Entry):
    """One machine type that a cloud sells."""

    key: Annotated[str, Field(pattern=r"^[A-Za-z0-9][\w.-]*$")]
    cloud: Literal["aws", "azure"]
    gpu: str | None
    """Key of a GPU in the catalog; None for a machine without."""
    gpus: Annotated[int, Field(ge=0)]
    vcpus: Count
    memory_gib: Positive
    network_gbit_per_s: Positive
    fabric: Literal["efa", "infiniband"] | None
    price: Price | None
    """None: nobody publishes one. It is never to be read as free."""
    spot_share: SpotShare | None

    @model_validator(mode="after")
    def _has_gpus_or_not(self) -> Self:
        if (self.gpu is None) != (self.gpus == 0):
            raise ValueError(f"{self.key}: gpu and gpus must both be there or not")
        return self

    @property
    def price_usd_per_h(self) -> float | None:
        return None if self.price is None else self.price.usd_per_h


class EngineMetrics(Entry):
    """Names on the engine's own /metrics; None where it does not say."""

    waiting: str
    running: str
    kv_cache_usage: str | None
    """A gauge from 0 to 1."""


class EngineEntry(Entry):
    key: Literal["vllm", "sglang", "llamacpp", "simulator"]
    versions: tuple[str, ...]
    """Newest first."""
    image: str | None
    capabilities: tuple[str, ...]
    metrics: EngineMetrics
    precisions: tuple[Precision, ...]
    devices: tuple[Literal["nvidia", "amd", "intel", "cpu"], ...]
    memory_utilization: Annotated[float, Field(gt=0, le=1)]
    reserve_gib: Annotated[float, Field(ge=0)]
    source: Source

    def image_of(self, version: str) -> str | None:
        return None if self.image is None else self.image.format(version=version)


class Published(Entry):
    """The size that the model's makers give; the computed one is tested against it."""

    total: Positive
    active: Positive | None = None
    source: Source


class ModelEntry(Entry):
    """One model: what its config.json says and under which terms it is given."""

    id: Annotated[str, Field(pattern=r"^[\w.-]+/[\w.-]+$")]
    aliases: tuple[str, ...] = ()
    licence: str
    """SPDX identifier, or this catalog's name for other terms."""
    task: Literal["chat", "completion", "embedding"] = "chat"
    published: Published
    config: dict[str, Any]

    @cached_property
    def architecture(self) -> Architecture:
        return architecture_from_config(self.config, file=f"{self.id}/config.json")
