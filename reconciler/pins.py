"""Pins: what a plan was made from, and which of it moved since (pure).

The pipeline puts `inputs_of` into every plan and names what `moved` finds when an
approved plan is no longer the plan that would be made now.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

import orjson

from reconciler.optimizer import optimizer_for
from reconciler.values import Key, Unit
from schemas.catalog import catalog, catalog_digest

__all__ = ["inputs_of", "moved"]


def inputs_of(units: Mapping[Key, Unit], lock: Mapping[str, Any]) -> dict[str, str]:
    """Digests of everything beside the commit and what lives."""
    rendered = "\n".join(f"{k} {u.digest}" for k, u in sorted(units.items()))
    return {
        "rendered": _digest(rendered.encode()),
        "lock": _digest(orjson.dumps(lock, option=orjson.OPT_SORT_KEYS)),
        "catalog": catalog_digest(),
        "prices": _prices(),
        "tables": optimizer_for("regressor").identity,
    }


def moved(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """The inputs in which two plan documents differ; of live ones, whose."""
    was, is_ = before.get("inputs", {}), now.get("inputs", {})
    names = [n for n in sorted({*was, *is_}) if was.get(n) != is_.get(n)]
    if "catalog" in names and "prices" in names:
        names.remove("catalog")  # prices are a part of it, and the better word
    if "live" in names:
        names[names.index("live")] = ", ".join(["live", *_alive(before, now)])
    return ", ".join(names) or "what holds a step back"


def _alive(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    """Each object that is not the one the plan was made for, with what differs."""
    fields = ("before", "uid", "liveVersion")
    was, is_ = (
        {s["key"]: [s[f] for f in fields] for s in document["steps"]}
        for document in (before, now)
    )
    for key in sorted(was):
        if key in is_ and was[key] != is_[key]:
            pairs = zip(("content", "uid", "version"), was[key], is_[key], strict=True)
            yield f"{key} ({', '.join(name for name, a, b in pairs if a != b)})"


@cache
def _prices() -> str:
    prices = {
        machine.key: machine.model_dump(mode="json", include={"price", "spot_share"})
        for machine in catalog().instances
    }
    return _digest(orjson.dumps(prices, option=orjson.OPT_SORT_KEYS))


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
