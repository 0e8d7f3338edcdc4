"""The distilled operator tables of this release. (I/O: reads one file beside it)

``efficiency_of`` gives a device its own tables, or those of the device whose
datasheet is most like its own; benchmarks/optimizer/distil.py wrote the file.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
from functools import cache
from importlib import resources
from typing import Any, Final

import numpy as np

from reconciler.optimizer.device import Device
from reconciler.optimizer.efficiency import Efficiency, Table
from schemas.architecture import Precision
from schemas.catalog import catalog

__all__ = ["digest", "efficiency_of", "measured"]

FILE: Final = "operators.json"
# Without tables: threads reach about two thirds of a node's bandwidth, and a
# step of llama.cpp has hardly any cost beside its layers.
CPU: Final = Efficiency(layer_ms=0.02, step_ms=0.2)


@cache
def _content() -> tuple[bytes, dict[str, Any]]:
    data = resources.files("reconciler.optimizer").joinpath("artefact", FILE)
    text = data.read_bytes()
    return text, json.loads(text)


@cache
def digest() -> str:
    """SHA-256 of the tables, the first 12 hex digits."""
    return hashlib.sha256(_content()[0]).hexdigest()[:12]


@cache
def measured() -> frozenset[str]:
    """The devices that have tables of their own."""
    return frozenset(_content()[1]["tables"])


def efficiency_of(device: Device, engine: str) -> Efficiency:
    """The tables of ``device`` under ``engine``, or the nearest there are."""
    if device.name == "cpu":
        return CPU
    return _efficiency(_nearest(device), engine)


def _nearest(device: Device) -> str:
    if device.name in measured():
        return device.name

    def distance(name: str) -> float:
        other = Device.of_gpu(catalog().gpus.find(name))
        flops = math.log(device.compute(Precision.BF16) / other.compute(Precision.BF16))
        wide = math.log(device.bandwidth_gb_s / other.bandwidth_gb_s)
        return flops**2 + wide**2

    return min(sorted(measured()), key=distance)


@cache
def _efficiency(device: str, engine: str) -> Efficiency:
    content = _content()[1]
    own = content["tables"][device]
    # An engine that was not measured here borrows from those that were.
    tables: dict[str, Table] = {}
    for other in (engine, *sorted(own)):
        for label, packed in own.get(other, {}).items():
            if label not in tables:
                tables[label] = _table(content, label, packed)
    return Efficiency(tables=tables)


def _table(content: dict[str, Any], label: str, packed: str) -> Table:
    (x0, dx, nx), (y0, dy, ny) = content["axes"][label.partition("/")[0]]
    steps = np.frombuffer(base64.b85decode(packed), dtype=np.uint8).astype(np.float64)
    values = ((steps - content["offset"]) * content["step"]).reshape(nx, ny)
    return Table(x0=x0, dx=dx, y0=y0, dy=dy, values=values)
