"""Distil NVIDIA's operator measurements into the efficiency tables.

    python benchmarks/optimizer/distil.py <systems folder> <operators.json>

The folder is ``aiconfigurator_core/systems`` of the wheel aiconfigurator-core 0.12.0
(Apache-2.0); only its per-operator parquet files are read, never the end-to-end
sample beside them. Needs pandas and pyarrow, which the product itself does not.
Each table is the logarithm of (measured / ideal) on a grid of powers of two,
smoothed, in steps of 1/16, as one byte a value.
"""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).parents[2]))

from reconciler.optimizer.device import Device
from reconciler.optimizer.efficiency import (
    FLOOR_MS,
    TINY,
    Table,
    ideal_attention_ms,
    ideal_experts_ms,
    ideal_product_ms,
)
from schemas.architecture import Precision
from schemas.catalog import catalog

SYSTEMS = {
    "a100_sxm": "a100-sxm-80gb",
    "l40s": "l40s",
    "h100_sxm": "h100_sxm",
    "h200_sxm": "h200_sxm",
    "b200_sxm": "b200_sxm",
    "b300_sxm": "b300_sxm",
    "gb200": "GB200",
    "gb300": "GB300",
    "rtx_pro_6000_server": "rtx-pro-6000",
}
ENGINES = ("vllm", "sglang", "trtllm")
# (first power of two, step, points) of each axis.
AXES = {
    "product": ((0, 1, 16), (16, 2, 8)),
    "experts": ((-8, 1, 19), (24, 2, 6)),
    "prompt": ((4, 1, 12), (0, 1, 8)),
    "cache": ((12, 2, 11), (0, 2, 6)),
    "all_reduce": ((8, 1, 21), (1, 1, 3)),
}
FORMATS = {
    "bfloat16": Precision.BF16,
    "fp8": Precision.FP8,
    "fp8_block": Precision.FP8,
    "nvfp4": Precision.FP4,
    "int4_wo": Precision.INT4,
    "w4a16_mxfp4": Precision.MXFP4,
    "w4a8_mxfp4_mxfp8": Precision.MXFP4,
}
# Steps of the quantised logarithm: 1/16 is 6.4 %, so an error of 3.2 % at most.
STEP, OFFSET = 1 / 16, 32

Points = tuple[np.ndarray, np.ndarray, np.ndarray]
"""x, y, and the measured time over the ideal one."""


def grid(points: Points, kind: str) -> np.ndarray:
    """Smooth points onto the grid: a Gaussian of half a step around each node,
    widened where nothing was measured."""
    x, y = np.log2(points[0] + TINY), np.log2(points[1] + TINY)
    z = np.log(points[2])
    (x0, dx, nx), (y0, dy, ny) = AXES[kind]
    out = np.zeros((nx, ny))
    for i in range(nx):
        for j in range(ny):
            far = ((x - x0 - i * dx) / dx) ** 2 + ((y - y0 - j * dy) / dy) ** 2
            width = max(0.35, float(np.sqrt(far.min())) * 0.6)
            weight = np.exp(-far / (2 * width**2))
            out[i, j] = np.average(z, weights=weight)
    return out


def pack(values: np.ndarray) -> str:
    steps = np.clip(np.round(values / STEP) + OFFSET, 0, 255).astype(np.uint8)
    return base64.b85encode(steps.tobytes()).decode()


def newest(folder: Path, table: str) -> pd.DataFrame | None:
    """The table of the newest version that has it."""
    found = sorted(
        folder.glob(f"*/{table}.parquet"),
        key=lambda p: [int(n) if n.isdigit() else 0 for n in p.parent.name.split(".")],
    )
    return pd.read_parquet(found[-1]) if found else None


def products(folder: Path, device: Device, engine: str) -> Iterator[tuple[str, Points]]:
    """The best of all engines: a product is the hardware's, and one engine's table
    of block-scaled FP8 was measured with 150 us of launches around it."""
    if engine != ENGINES[0]:
        return
    parts = [newest(folder / "gemm" / name, "gemm_perf") for name in ENGINES]
    data = pd.concat([part for part in parts if part is not None])
    data = data[(data.framework != "VLLM") | (data.gemm_dtype != "fp8_block")]
    data = data.groupby(["gemm_dtype", "m", "n", "k"], as_index=False).latency.min()
    for name, part in data.groupby("gemm_dtype"):
        if name not in FORMATS:
            continue
        m = part.m.to_numpy(float)
        area = (part.n * part.k).to_numpy(float)
        ideal = ideal_product_ms(device, FORMATS[name], parameters=area, tokens=m)
        label = "fp8_block" if name == "fp8_block" else FORMATS[name].value
        yield f"product/{label}", (m, area, part.latency.to_numpy() / ideal)


def experts(folder: Path, device: Device, engine: str) -> Iterator[tuple[str, Points]]:
    data = newest(folder / "moe" / engine, "moe_perf")
    if data is None:
        return
    # Between balanced and 1.2: what AIConfigurator itself takes for real traffic.
    data = data[data.distribution == "power_law_1.01"]
    keys = ["num_tokens", "hidden_size", "inter_size", "topk", "num_experts"]
    keys += ["moe_tp_size", "moe_ep_size"]
    data = data[data.moe_tp_size * data.moe_ep_size <= 16]
    for names, part in (
        (("bfloat16",), data),
        (("fp8_block", "fp8"), data),
        (("nvfp4",), data),
        (("int4_wo",), data),
        (("w4a8_mxfp4_mxfp8", "w4a16_mxfp4"), data),
    ):
        found = next((n for n in names if (part.moe_dtype == n).any()), None)
        if found is None:
            continue
        rows = part[part.moe_dtype == found].groupby(keys, as_index=False).latency.min()
        one = 3.0 * rows.hidden_size * rows.inter_size
        ranks = rows.moe_tp_size * rows.moe_ep_size
        held = (rows.num_experts * one / ranks).to_numpy(float)
        chosen = -np.expm1(rows.num_tokens * np.log1p(-rows.topk / rows.num_experts))
        work = (2 * rows.num_tokens * rows.topk * one / ranks).to_numpy(float)
        ideal = ideal_experts_ms(
            device, FORMATS[found], touched=chosen.to_numpy() * held, work=work
        )
        each = (rows.num_tokens * rows.topk / rows.num_experts).to_numpy(float)
        label = FORMATS[found].value
        yield f"experts/{label}", (each, held, rows.latency.to_numpy() / ideal)


def prompts(folder: Path, device: Device, engine: str) -> Iterator[tuple[str, Points]]:
    data = newest(folder / "attention" / engine, "context_attention_perf")
    if data is not None:
        data = data[(data.get("window_size", 0) == 0) & data.head_dim.isin([64, 128])]
        data = data[(data.batch_size <= 4) & (data.isl >= 16)]
        data = data[data.num_key_value_heads < data.num_heads]
        data = data[data.kv_cache_dtype == "bfloat16"]
        length, heads = data.isl.to_numpy(float), data.num_heads.to_numpy(float)
        work = 2 * data.batch_size * heads * 2 * data.head_dim * length * length / 2
        ideal = ideal_attention_ms(
            device, traffic=0 * length, work=work.to_numpy(float)
        )
        yield "prompt/heads", (length, heads, data.latency.to_numpy() / ideal)
    data = newest(folder / "mla" / engine, "context_mla_perf")
    if data is not None:
        data = data[(data.batch_size <= 4) & (data.isl >= 16)]
        length, heads = data.isl.to_numpy(float), data.num_heads.to_numpy(float)
        work = 2 * data.batch_size * heads * (192 + 128) * length * length / 2
        ideal = ideal_attention_ms(
            device, traffic=0 * length, work=work.to_numpy(float)
        )
        yield "prompt/latent", (length, heads, data.latency.to_numpy() / ideal)


def caches(folder: Path, device: Device, engine: str) -> Iterator[tuple[str, Points]]:
    size = {"bfloat16": 2, "fp8": 1}
    data = newest(folder / "attention" / engine, "generation_attention_perf")
    if data is not None:
        data = data[(data.get("window_size", 0) == 0) & data.head_dim.isin([64, 128])]
        data = data[data.num_key_value_heads < data.num_heads]
        seen = (data.step + data.isl).to_numpy(float)
        batch = data.batch_size.to_numpy(float)
        traffic = batch * seen * 2 * data.head_dim * data.num_key_value_heads
        traffic = (traffic * data.kv_cache_dtype.map(size)).to_numpy(float)
        work = (2 * batch * data.num_heads * 2 * data.head_dim * seen).to_numpy(float)
        ideal = ideal_attention_ms(device, traffic=traffic, work=work)
        yield "cache/heads", (traffic, batch, data.latency.to_numpy() / ideal)
    data = newest(folder / "mla" / engine, "generation_mla_perf")
    if data is not None:
        seen = (data.step + data.isl).to_numpy(float)
        heads = data.num_heads.to_numpy(float)
        traffic = data.batch_size * seen * 576 * data.kv_cache_dtype.map(size)
        traffic = traffic.to_numpy(float)
        work = (2 * data.batch_size * heads * (576 + 512) * seen).to_numpy(float)
        ideal = ideal_attention_ms(device, traffic=traffic, work=work)
        yield "cache/latent", (traffic, heads, data.latency.to_numpy() / ideal)
    yield from states(folder, device, engine)


def states(folder: Path, device: Device, engine: str) -> Iterator[tuple[str, Points]]:
    """Gated delta nets: the kernels of one call together."""
    data = newest(folder / "linear_attention" / engine, "gdn_perf")
    if data is None:
        return
    keys = ["phase", "batch_size", "seq_len", "num_k_heads", "num_v_heads"]
    keys += ["head_k_dim", "head_v_dim", "d_model", "kernel_source"]
    calls = data.groupby(keys, as_index=False).latency.min()
    whole = calls.groupby(keys[:-1]).latency.agg(["sum", "count"]).reset_index()
    whole = whole[whole["count"] == 2]  # the convolution and the delta rule
    state = whole.num_v_heads * whole.head_k_dim * whole.head_v_dim
    conv = 3 * (2 * whole.num_k_heads * whole.head_k_dim)
    conv = conv + 3 * whole.num_v_heads * whole.head_v_dim
    each = state * 4 + conv * 2
    for phase, name in (("context", "prompt/state"), ("generation", "cache/state")):
        rows = whole.phase == phase
        if not rows.any():
            continue
        tokens = whole.batch_size[rows].to_numpy(float)
        passes = tokens
        if phase == "context":
            tokens = tokens * whole.seq_len[rows].to_numpy(float)
            passes = tokens / 64
        traffic = 2 * each[rows].to_numpy(float) * passes
        work = 6 * state[rows].to_numpy(float) * tokens
        ideal = ideal_attention_ms(device, traffic=traffic, work=work)
        second = whole.num_v_heads[rows].to_numpy(float)
        first = tokens if phase == "context" else traffic
        if phase == "generation":
            second = tokens
        yield name, (first, second, whole["sum"][rows].to_numpy() / ideal)


def reduces(folder: Path, device: Device, engine: str) -> Iterator[tuple[str, Points]]:
    data = newest(folder / "comm" / engine, "custom_allreduce_perf")
    if data is None:
        return
    # Decoding runs in captured graphs; eager launches would count their overhead.
    data = data[~data.kernel_source.str.contains("eager")]
    ranks, size = data.num_gpus.to_numpy(float), data.message_size.to_numpy(float) * 2
    volume = 2 * (ranks - 1) / ranks * size
    ideal = volume / (device.link_gb_s * 1e6) + FLOOR_MS
    yield "all_reduce", (size, ranks, data.latency.to_numpy() / ideal)


Reader = Callable[[Path, Device, str], Iterator[tuple[str, Points]]]
READERS: tuple[Reader, ...] = (products, experts, prompts, caches, reduces)


def main(systems: Path, output: Path) -> None:
    tables: dict[str, dict[str, dict[str, str]]] = {}
    for system, name in SYSTEMS.items():
        device = Device.of_gpu(catalog().gpus.find(name))
        for engine in ENGINES:
            for reader in READERS:
                for label, points in reader(systems / "data" / system, device, engine):
                    kind = label.partition("/")[0]
                    values = grid(points, kind)
                    own = tables.setdefault(device.name, {}).setdefault(engine, {})
                    own[label] = pack(values)
                    (x0, dx, _), (y0, dy, _) = AXES[kind]
                    table = Table(x0=x0, dx=dx, y0=y0, dy=dy, values=values)
                    left = np.log(points[2] / table.at(points[0], points[1]))
                    print(
                        f"{system:20} {engine:7} {label:18} n={len(left):6}"
                        f" sd {np.std(np.log(points[2])):.2f} -> {np.std(left):.2f}"
                        f" bias {np.median(left):+.2f}"
                    )
    content = {
        "source": "aiconfigurator-core 0.12.0, systems/data; (c) NVIDIA, Apache-2.0",
        "step": STEP,
        "offset": OFFSET,
        "axes": AXES,
        "tables": tables,
    }
    output.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
