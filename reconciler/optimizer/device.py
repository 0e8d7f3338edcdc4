"""Device: the datasheet figures that the memory and performance models read.

Made from the catalog's entries; a node without accelerators is one device with
the figures of its vCPUs. It says what hardware promises; ``efficiency`` says how
much of that is reached.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from schemas.architecture import Precision
from schemas.catalog import Cpu, Gpu

__all__ = ["Device"]

# One direction, per lane, after encoding: PCI Express 3.0 to 6.0.
PCIE_GB_PER_S_PER_LANE = {3: 0.985, 4: 1.969, 5: 3.938, 6: 7.563}


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    name: str
    """The catalog's key; ``cpu`` for a node without accelerators."""
    memory_gib: float
    bandwidth_gb_s: float
    tflops: Mapping[Precision, float]
    """Dense, by the format that is multiplied."""
    link_gb_s: float
    """One direction, to another device of the same machine."""
    domain: int
    """Devices that reach each other at that rate."""
    pcie_gb_s: float

    @classmethod
    def of_gpu(cls, gpu: Gpu, *, share: float = 1.0) -> Device:
        """A GPU of the catalog, or the ``share`` of one that HAMi hands out."""
        rates = gpu.tflops
        half = rates.bf16 or rates.fp16 or rates.fp32 or 1.0
        found = {
            Precision.FP32: rates.fp32,
            Precision.BF16: half,
            Precision.FP16: rates.fp16 or half,
            Precision.FP8: rates.fp8,
            Precision.INT8: rates.int8,
            Precision.FP4: rates.fp4,
            Precision.MXFP4: rates.fp4,
        }
        pcie = PCIE_GB_PER_S_PER_LANE[gpu.pcie.generation] * gpu.pcie.lanes
        return cls(
            name=gpu.key,
            memory_gib=gpu.memory_gib * share,
            bandwidth_gb_s=gpu.memory_bandwidth_gb_per_s * share,
            tflops={k: v * share for k, v in found.items() if v is not None},
            link_gb_s=gpu.interconnect.gb_per_s or pcie,
            domain=gpu.interconnect.domain if gpu.interconnect.gb_per_s else 1,
            pcie_gb_s=pcie,
        )

    @classmethod
    def of_cpu(cls, cpu: Cpu, *, threads: int, memory_gib: float) -> Device:
        """A node without accelerators, used with ``threads`` threads."""
        return cls(
            name="cpu",
            memory_gib=memory_gib,
            bandwidth_gb_s=cpu.memory_bandwidth_gb_per_s_per_vcpu * threads,
            tflops={Precision.BF16: cpu.tflops_per_vcpu * threads},
            link_gb_s=1.0,
            domain=1,
            pcie_gb_s=1.0,
        )

    def compute(self, precision: Precision) -> float:
        """TFLOPS for weights of ``precision``.

        A format the device cannot multiply is expanded to 16 bits first.
        """
        return self.tflops.get(precision, self.tflops[Precision.BF16])
