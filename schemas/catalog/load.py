"""The catalog's data files -> ``Catalog``. (I/O: reads files of this package)

Called by whoever needs a GPU's figures; read once a process. It never reaches the
network: prices are as old as the date beside them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

import rfc8785
import yaml

from schemas.catalog.entries import Cpu, EngineEntry, Gpu, Instance, ModelEntry
from schemas.catalog.index import Index

__all__ = ["Catalog", "catalog", "catalog_digest", "read_data", "registry"]

# libyaml where PyYAML was built with it: ten times as fast, the same result.
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True, slots=True, kw_only=True)
class Catalog:
    gpus: Index[Gpu]
    cpu: Cpu
    instances: Index[Instance]
    engines: Index[EngineEntry]
    models: Index[ModelEntry]


@cache
def catalog() -> Catalog:
    """The catalog that this release carries."""
    gpus = [Gpu.model_validate(entry) for entry in read_data("gpus.yaml")]
    engines = [EngineEntry.model_validate(entry) for entry in read_data("engines.yaml")]
    models = list(_models(read_data("models.yaml")))
    return Catalog(
        gpus=Index("GPU", {g.key: g for g in gpus}, {g.key: g.aliases for g in gpus}),
        cpu=Cpu.model_validate(read_data("cpu.yaml")),
        instances=Index(
            "instance type",
            {
                machine.key: machine
                for machine in _instances(read_data("instances.yaml"))
            },
        ),
        engines=Index("engine", {engine.key: engine for engine in engines}),
        models=Index(
            "model", {m.id: m for m in models}, {m.id: m.aliases for m in models}
        ),
    )


def registry() -> Index[ModelEntry]:
    """The models of the catalog, by the name of their repository or an alias."""
    return catalog().models


@cache
def catalog_digest() -> str:
    """SHA-256 over the content of every entry, whatever its layout in the files."""
    whole = catalog()
    content: dict[str, Any] = {
        "cpu": whole.cpu.model_dump(mode="json"),
        "engines": {e.key: e.model_dump(mode="json") for e in whole.engines},
        "gpus": {gpu.key: gpu.model_dump(mode="json") for gpu in whole.gpus},
        "instances": {i.key: i.model_dump(mode="json") for i in whole.instances},
        "models": {m.id: m.model_dump(mode="json") for m in whole.models},
    }
    return hashlib.sha256(rfc8785.dumps(content)).hexdigest()


def read_data(name: str) -> Any:
    """One data file of this package, as YAML."""
    text = resources.files(__package__).joinpath("data", name).read_text("utf-8")
    return yaml.load(text, Loader=_LOADER)  # noqa: S506 - both are safe loaders


def _instances(clouds: Mapping[str, Mapping[str, Any]]) -> Iterable[Instance]:
    """Give each machine its cloud, and its price the cloud's date and source."""
    for cloud, said in clouds.items():
        for written in said["instances"]:
            machine = dict(written)
            price = {
                "usd_per_h": machine.pop("usd_per_h"),
                "region": machine.pop("region", said["region"]),
                "as_of": said["as_of"],
                "source": said["source"],
            }
            known = price["usd_per_h"] is not None
            yield Instance.model_validate(
                {
                    **machine,
                    "cloud": cloud,
                    "price": price if known else None,
                    "spot_share": said["spot_share"],
                }
            )


def _models(entries: Iterable[Mapping[str, Any]]) -> Iterable[ModelEntry]:
    """Lay each entry's config over that of the one it extends, which stands above."""
    configs: dict[str, Mapping[str, Any]] = {}
    for written in entries:
        entry = dict(written)
        extended = configs[entry.pop("extends")] if "extends" in entry else {}
        entry["config"] = {**extended, **entry.get("config", {})}
        configs[entry["id"]] = entry["config"]
        yield ModelEntry.model_validate(entry)
