"""The catalog's data files -> ``Catalog``. (I/O: reads files of this package)

Called by whoever needs a GPU's figures; read once a process. It never reaches the
network: prices are as old as the date beside them.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import TypeVar

import rfc8785
import yaml
from pydantic import TypeAdapter

from schemas.catalog.entries import Cpu, Gpu
from schemas.catalog.index import Index

__all__ = ["Catalog", "catalog", "catalog_digest"]

T = TypeVar("T")
# libyaml where PyYAML was built with it: ten times as fast, the same result.
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True, slots=True, kw_only=True)
class Catalog:
    gpus: Index[Gpu]
    cpu: Cpu


@cache
def catalog() -> Catalog:
    """The catalog that this release carries."""
    gpus = _read("gpus.yaml", tuple[Gpu, ...])
    return Catalog(
        gpus=Index(
            "GPU",
            {gpu.key: gpu for gpu in gpus},
            {gpu.key: gpu.aliases for gpu in gpus},
        ),
        cpu=_read("cpu.yaml", Cpu),
    )


@cache
def catalog_digest() -> str:
    """SHA-256 over the content of every entry, whatever its layout in the files."""
    content = {
        "cpu": catalog().cpu.model_dump(mode="json"),
        "gpus": {gpu.key: gpu.model_dump(mode="json") for gpu in catalog().gpus},
    }
    return hashlib.sha256(rfc8785.dumps(content)).hexdigest()


def _read(name: str, kind: type[T]) -> T:
    text = resources.files(__package__).joinpath("data", name).read_text("utf-8")
    return TypeAdapter(kind).validate_python(yaml.load(text, Loader=_LOADER))  # noqa: S506 - both are safe loaders
