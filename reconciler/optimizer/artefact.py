"""The trained artefact of this release, and how one is written. (I/O)

Three files beside this one: ``model.json`` (coefficients, kinship, bands and where
they come from), ``ttft.ubj`` and ``tpot.ubj`` (trees). ``operators.json`` is not
trained here. The same model is the same bytes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import astuple
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, Final

from reconciler.optimizer.booster import Booster
from reconciler.optimizer.coefficients import Coefficients
from reconciler.optimizer.kin import FIRST, TOKEN
from reconciler.optimizer.kinship import Kinship
from reconciler.optimizer.performance import Band, Bands, PerformanceModel

__all__ = ["digest_of", "load_model", "shipped", "shipped_digest", "write_model"]

FORMAT: Final = 3
FOLDER: Final = "artefact"
TARGETS: Final = {"ttft": FIRST, "tpot": TOKEN}


def write_model(
    model: PerformanceModel, folder: Path, *, origin: Mapping[str, Any]
) -> None:
    """Write the artefact; ``origin`` says what it was trained on, for attribution."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, booster in model.boosters.items():
        (folder / f"{name}.ubj").write_bytes(booster.packed())
    content = {
        "format": FORMAT,
        "origin": dict(origin),
        "token": model.token.packed(),
        "first": model.first.packed(),
        "kinship": {name: kin.packed() for name, kin in model.kinships.items()},
        "bands": {name: _packed_bands(bands) for name, bands in model.bands.items()},
        "hull": {name: list(ends) for name, ends in model.hull.items()},
    }
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    (folder / "model.json").write_text(text + "\n", encoding="utf-8")


def load_model(files: Mapping[str, bytes]) -> PerformanceModel:
    """Rebuild a model from the bytes of its files.

    Raises:
        ValueError: it was written in another format.
    """
    content = json.loads(files["model.json"])
    if content.get("format") != FORMAT:
        raise ValueError(
            f"cannot load model: format is {content.get('format')!r}, not {FORMAT}"
        )
    return PerformanceModel(
        token=Coefficients.unpacked(content["token"]),
        first=Coefficients.unpacked(content["first"]),
        kinships={
            name: Kinship.unpacked(kin, content["kinship"][name])
            for name, kin in TARGETS.items()
        },
        boosters={name: Booster.unpacked(files[f"{name}.ubj"]) for name in TARGETS},
        bands={name: _unpacked_bands(content["bands"][name]) for name in TARGETS},
        hull={name: (low, high) for name, (low, high) in content["hull"].items()},
    )


def digest_of(files: Mapping[str, bytes]) -> str:
    """The first 12 hex digits of SHA-256 over all files, by name."""
    whole = hashlib.sha256()
    for name in sorted(files):
        whole.update(f"{name} {len(files[name])}\n".encode() + files[name])
    return whole.hexdigest()[:12]


@cache
def _files() -> Mapping[str, bytes]:
    folder = resources.files("reconciler.optimizer").joinpath(FOLDER)
    names = ("model.json", *(f"{name}.ubj" for name in TARGETS))
    return {name: folder.joinpath(name).read_bytes() for name in names}


@cache
def shipped() -> PerformanceModel:
    """The model that this release carries."""
    return load_model(_files())


@cache
def shipped_digest() -> str:
    return digest_of(_files())


def _packed_bands(bands: Bands) -> list[list[float]]:
    return [
        [regime, int(waits), *(round(number, 6) for number in astuple(band))]
        for (regime, waits), band in sorted(bands.items())
    ]


def _unpacked_bands(rows: list[list[float]]) -> Bands:
    return {
        (int(regime), bool(waits)): Band(*numbers) for regime, waits, *numbers in rows
    }
