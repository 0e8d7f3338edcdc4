"""What hardware reaches of its datasheet, operator by operator.

``ideal_*`` is the time that the datasheet allows: the longer of arithmetic and
memory traffic. ``Efficiency`` multiplies it by how many times longer the operator
was measured to take, from tables distilled of NVIDIA's published measurements
(aiconfigurator-core 0.12.0, Apache-2.0; benchmarks/optimizer/distil.py makes them).
A device without tables uses those of the device whose datasheet is most like its
own. Times are milliseconds; called by ``roofline`` alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from reconciler.optimizer.device import Device
from reconciler.optimizer.layouts import Numbers
from schemas.architecture import Precision

__all__ = [
    "FLOOR_MS",
    "Efficiency",
    "Table",
    "ideal_attention_ms",
    "ideal_experts_ms",
    "ideal_product_ms",
]

# No kernel takes less from launch to end, however little it does.
FLOOR_MS: Final = 0.002
# Added to every table's x and y before the logarithm, so that zero has a place.
TINY: Final = 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Natural logarithm of (measured / ideal) on a grid of powers of two."""

    x0: float
    dx: float
    y0: float
    dy: float
    values: np.ndarray[tuple[int, int], np.dtype[np.float64]]

    def at(self, x: Numbers, y: Numbers) -> Numbers:
        """The factor at (x, y), between the grid's points by straight lines and
        beyond its edge as at the edge."""
        # A search spends most of its time here: few passes, one index into the grid.
        rows, columns = self.values.shape
        i = (np.log2(x + TINY) - self.x0) / self.dx
        j = (np.log2(y + TINY) - self.y0) / self.dy
        i = np.minimum(np.maximum(i, 0.0), rows - 1.0)
        j = np.minimum(np.maximum(j, 0.0), columns - 1.0)
        i0 = np.minimum(i.astype(np.intp), rows - 2)
        j0 = np.minimum(j.astype(np.intp), columns - 2)
        u, v = i - i0, j - j0
        grid, corner = self.values.ravel(), i0 * columns + j0
        low, high = grid[corner], grid[corner + 1]
        low = low + (grid[corner + columns] - low) * u
        high = high + (grid[corner + columns + 1] - high) * u
        factor: Numbers = np.exp(low + (high - low) * v)
        return factor


def ideal_product_ms(
    device: Device, weights: Precision, *, parameters: Numbers, tokens: Numbers
) -> Numbers:
    """``tokens`` rows times a matrix of ``parameters`` that is about square."""
    compute = 2 * parameters * tokens / (device.compute(weights) * 1e9)
    moved = parameters * weights.bits / 8 + 4 * tokens * np.sqrt(parameters)
    return np.maximum(compute, moved / (device.bandwidth_gb_s * 1e6)) + FLOOR_MS


def ideal_experts_ms(
    device: Device, weights: Precision, *, touched: Numbers, work: Numbers
) -> Numbers:
    """``work`` operations over ``touched`` parameters of experts."""
    compute = work / (device.compute(weights) * 1e9)
    moved = touched * weights.bits / 8
    return np.maximum(compute, moved / (device.bandwidth_gb_s * 1e6)) + FLOOR_MS


def ideal_attention_ms(device: Device, *, traffic: Numbers, work: Numbers) -> Numbers:
    """``traffic`` bytes of cache and ``work`` operations at 16 bits."""
    compute = work / (device.compute(Precision.BF16) * 1e9)
    return np.maximum(compute, traffic / (device.bandwidth_gb_s * 1e6)) + FLOOR_MS


@dataclass(frozen=True, slots=True, kw_only=True)
class Efficiency:
    """The tables of one device under one engine, and what no table says."""

    tables: Mapping[str, Table] = field(default_factory=dict)
    """``<operator>/<format>`` -> table; an absent one is a factor of 1.5."""
    layer_ms: float = 0.004
    """What a layer takes beside its large operators: norms, rotary, routing."""
    step_ms: float = 0.8
    """What a step takes beside its layers: scheduling, sampling, detokenising."""

    def product_ms(
        self,
        device: Device,
        weights: Precision,
        *,
        parameters: Numbers,
        tokens: Numbers,
        block: bool = False,
    ) -> Numbers:
        """A matrix product; ``block`` is for weights scaled in blocks."""
        if not parameters.any():
            return np.zeros(len(parameters))
        ideal = ideal_product_ms(device, weights, parameters=parameters, tokens=tokens)
        name = "fp8_block" if block and weights == Precision.FP8 else _plain(weights)
        factor = self._factor(f"product/{name}", tokens, parameters)
        return np.where(parameters > 0, ideal * factor, 0.0)

    def experts_ms(
        self,
        device: Device,
        weights: Precision,
        *,
        touched: Numbers,
        work: Numbers,
        rows: Numbers,
        held: Numbers,
    ) -> Numbers:
        """Grouped products: ``rows`` tokens an expert, ``held`` parameters a rank."""
        ideal = ideal_experts_ms(device, weights, touched=touched, work=work)
        return ideal * self._factor(f"experts/{_plain(weights)}", rows, held)

    def prompt_ms(
        self, device: Device, *, traffic: Numbers, work: Numbers, length: Numbers,
        heads: Numbers, kind: str,
    ) -> Numbers:  # fmt: skip
        """Attention of prompt tokens over each other, or their way through a state."""
        if not work.any():
            return np.zeros(len(work))
        ideal = ideal_attention_ms(device, traffic=traffic, work=work)
        factor = self._factor(f"prompt/{kind}", length, heads)
        return np.where(work > 0, ideal * factor, 0.0)

    def cache_ms(
        self, device: Device, *, traffic: Numbers, work: Numbers, heads: Numbers,
        batch: Numbers, kind: str,
    ) -> Numbers:  # fmt: skip
        """Attention of single tokens over what is cached."""
        if not traffic.any():
            return np.zeros(len(traffic))
        ideal = ideal_attention_ms(device, traffic=traffic, work=work)
        second = heads if kind == "latent" else batch
        factor = self._factor(f"cache/{kind}", traffic, second)
        return np.where(traffic > 0, ideal * factor, 0.0)

    def all_reduce_ms(self, device: Device, ranks: Numbers, size: Numbers) -> Numbers:
        """The sum of ``size`` bytes over ``ranks``."""
        link = np.where(ranks <= device.domain, device.link_gb_s, device.pcie_gb_s)
        volume = 2 * (ranks - 1) / ranks * size
        ideal = volume / (link * 1e6) + FLOOR_MS
        factor = self._factor("all_reduce", size, ranks)
        return np.where(ranks > 1, ideal * factor, 0.0)

    def send_ms(self, device: Device, size: Numbers) -> Numbers:
        """``size`` bytes to the next pipeline stage."""
        return size / (device.link_gb_s * 1e6) * 1.5 + 5 * FLOOR_MS

    def _factor(self, name: str, x: Numbers, y: Numbers) -> Numbers:
        table = self.tables.get(name)
        return np.full(len(x), 1.5) if table is None else table.at(x, y)


def _plain(weights: Precision) -> str:
    """The format whose measurements stand for this one."""
    match weights:
        case Precision.FP8 | Precision.FP4 | Precision.MXFP4 | Precision.INT4:
            return weights.value
        case Precision.INT8 | Precision.Q8_0:
            return Precision.FP8.value
        case Precision.Q4_K_M:
            return Precision.INT4.value
        case _:
            return Precision.BF16.value
