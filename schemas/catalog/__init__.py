"""GPUs, instances, engines and models as data, each with its source.

``catalog()`` is all of it; ``catalog_digest()`` goes into what a plan pins.
docs/catalog.md says how to add an entry.
"""

from schemas.catalog.entries import (
    Cpu,
    EngineEntry,
    EngineMetrics,
    Gpu,
    Instance,
    Interconnect,
    ModelEntry,
    Pcie,
    Price,
    Published,
    SpotShare,
    Tflops,
)
from schemas.catalog.index import Index
from schemas.catalog.load import Catalog, catalog, catalog_digest, registry

__all__ = [
    "Catalog",
    "Cpu",
    "EngineEntry",
    "EngineMetrics",
    "Gpu",
    "Index",
    "Instance",
    "Interconnect",
    "ModelEntry",
    "Pcie",
    "Price",
    "Published",
    "SpotShare",
    "Tflops",
    "catalog",
    "catalog_digest",
    "registry",
]
