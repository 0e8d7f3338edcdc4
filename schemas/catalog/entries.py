"""What an entry of the catalog may say: pydantic models, no I/O.

``schemas.catalog.load`` fills them from the data files; the optimizer, the cost of a
plan and the validator of a Cluster read them. A field's name carries its unit.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["Cpu", "Gpu", "Interconnect", "Pcie", "Tflops"]

Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]
Key = Annotated[str, Field(pattern=r"^[A-Za-z0-9][\w./-]*$")]
Source = Annotated[str, Field(min_length=8)]


class Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=False)


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
