"""What hardware achieves of its datasheet, operator by operator.

``Efficiency`` holds the fractions of the datasheet that are reached.
The constants are the medians over NVIDIA's published operator measurements
(aiconfigurator-core 0.12.0, Apache-2.0; see docs/optimizer.md for the tables).
Called by ``roofline`` alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from reconciler.optimizer.device import Device
from reconciler.optimizer.layouts import Numbers
from schemas.architecture import Precision

__all__ = ["Efficiency"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Efficiency:
    """Fractions of the datasheet, and fixed costs in milliseconds."""

    product_compute: float = 0.70
    product_traffic: float = 0.78
    attention_compute: float = 0.50
    attention_traffic: float = 0.70
    experts_compute: float = 0.45
    experts_traffic: float = 0.65
    link: float = 0.65
    link_latency_ms: float = 0.008
    operator_ms: float = 0.004
    layer_overhead_ms: float = 0.012
    step_ms: float = 1.0

    def product_ms(
        self,
        device: Device,
        precision: Precision,
        *,
        parameters: Numbers,
        tokens: Numbers,
    ) -> Numbers:
        """Time of tokens x a weight matrix of ``parameters``."""
        work = 2 * parameters * tokens
        compute = work / (device.compute(precision) * 1e9 * self.product_compute)
        traffic = (
            parameters
            * precision.bits
            / 8
            / (device.bandwidth_gb_s * 1e6 * self.product_traffic)
        )
        fixed = np.where(parameters > 0, self.operator_ms, 0.0)
        return np.maximum(compute, traffic) + fixed

    def attention_ms(
        self, device: Device, *, traffic: Numbers, work: Numbers
    ) -> Numbers:
        """Time to read ``traffic`` bytes and do ``work`` operations at 16 bits."""
        peak = device.compute(Precision.BF16) * 1e9 * self.attention_compute
        read = traffic / (device.bandwidth_gb_s * 1e6 * self.attention_traffic)
        return np.maximum(work / peak, read) + np.where(work > 0, self.operator_ms, 0.0)

    def experts_ms(
        self,
        device: Device,
        precision: Precision,
        *,
        parameters: Numbers,
        work: Numbers,
        tokens_per_expert: Numbers,
    ) -> Numbers:
        """Time of a grouped product over the experts that were touched.

        A group of few tokens fills a fraction of a tile: 64 rows.
        """
        filled = np.clip(tokens_per_expert / 64, 0.02, 1.0)
        peak = device.compute(precision) * 1e9 * self.experts_compute
        compute = work / (peak * np.maximum(filled, 0.25))
        traffic = (
            parameters
            * precision.bits
            / 8
            / (device.bandwidth_gb_s * 1e6 * self.experts_traffic)
        )
        return np.maximum(compute, traffic) + 4 * self.operator_ms

    def all_reduce_ms(self, device: Device, ranks: Numbers, size: Numbers) -> Numbers:
        """Time to sum ``size`` bytes over ``ranks`` of one machine."""
        volume = 2 * (ranks - 1) / ranks * size
        wire = volume / (_link(device, ranks) * 1e6 * self.link)
        return np.where(ranks > 1, wire + self.link_latency_ms, 0.0)

    def send_ms(self, device: Device, size: Numbers) -> Numbers:
        """Time to hand ``size`` bytes to the next pipeline stage."""
        return size / (device.link_gb_s * 1e6 * self.link) + self.link_latency_ms


def _link(device: Device, ranks: Numbers) -> Numbers:
    return np.where(ranks <= device.domain, device.link_gb_s, device.pcie_gb_s)
