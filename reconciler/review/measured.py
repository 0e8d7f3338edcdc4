"""What was measured since an apply, beside what its plan predicted (pure)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["measured"]

Counters = Mapping[str, Mapping[str, float]]

ENOUGH = 30
"""Requests; the mean of fewer says more about them than about the endpoint."""


def measured(
    document: Mapping[str, Any], before: Counters, now: Counters
) -> list[dict[str, Any]]:
    """A row for each changed endpoint that is alone behind a route that was used."""
    changed = {c["object"]: c["after"] for c in document["changes"] if c["after"]}
    rows = {}
    for route in document["routes"]:
        endpoints = [name for name in route["through"] if name in changed]
        name = route["route"].partition("/")[2]
        if len(endpoints) != 1 or name not in now:
            continue
        was = before.get(name, {})
        grown = {k: v - was.get(k, 0.0) for k, v in now[name].items()}
        if min(grown["ttftCount"], grown["tpotCount"]) < ENOUGH:
            continue
        predicted = changed[endpoints[0]]["prediction"]
        rows[endpoints[0]] = {
            "object": endpoints[0],
            "ttftPredicted": predicted.get("ttft_ms"),
            "ttft": 1000 * grown["ttftSum"] / grown["ttftCount"],
            "tpotPredicted": predicted.get("tpot_ms"),
            "tpot": 1000 * grown["tpotSum"] / grown["tpotCount"],
        }
    return [rows[name] for name in sorted(rows)]
