"""Decisions of a lock, for those who review a plan. Pure.

``pipeline`` puts them into the plan, whose digest covers them and which every apply
keeps: what was promised of each endpoint can be read back by the plan that the
ledger names. Numbers are text: a plan is compared byte by byte.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from reconciler.optimizer.front import picture
from reconciler.optimizer.task import Point
from schemas.objects import Ref

__all__ = ["decision_of"]


def decision_of(lock: Mapping[str, Any], ref: Ref) -> dict[str, Any] | None:
    """An endpoint's choice, promise, reason, alternatives and picture; None of
    anything else."""
    entries = lock.get("endpoints") or {}
    entry = entries.get(f"{ref.project}/{ref.name}") if ref.kind == "Endpoint" else None
    if entry is None:
        return None
    chosen = {**entry["chosen"], "prediction": entry["prediction"]}
    price = entry["cost"]["usdPerHour"]
    front = [
        Point(spent=p["spent"], tokens_per_s=p["tokensPerS"], label=p["label"])
        for p in entry.get("front", ())
    ]
    return {
        "chosen": _option(chosen | {"usdPerHour": price}),
        "alternatives": [_option(other) for other in entry["runnersUp"]],
        "why": entry["reason"],
        "binds": entry["binding"],
        "memoryGiB": _span(entry["prediction"], "memory_gib", "memory"),
        "measuredPoints": entry["measuredPoints"],
        "method": entry["method"],
        "notes": entry["notes"],
        "picture": picture(
            front,
            chosen=_label(chosen),
            across="GPUs" if price is None else "USD an hour",
        ),
    }


def _option(option: Mapping[str, Any]) -> dict[str, str]:
    said, price = option["prediction"], option["usdPerHour"]
    return {
        "layout": _label(option),
        "nodePool": f"{option['cluster']}/{option['nodePool']}",
        "ttftMs": _span(said, "ttft_ms", "ttft"),
        "tpotMs": _span(said, "tpot_ms", "tpot"),
        "tokensPerS": f"{said['tokens_per_s']:.4g}",
        "usdPerHour": "" if price is None else f"{price:.4g}",
    }


def _span(said: Mapping[str, float], middle: str, ends: str) -> str:
    return f"{said[middle]:.4g} ({said[f'{ends}_lo']:.3g}-{said[f'{ends}_hi']:.3g})"


def _label(o: Mapping[str, Any]) -> str:
    """As ``Candidate.label``, of what the lock says."""
    count = "scaled" if o["replicas"] is None else o["replicas"]
    return (
        f"{count} x {o['gpu'] or 'cpu'} t{o['tensor']} p{o['pipeline']} "
        f"d{o['data']} e{o['expert']} {o['precision']}, batch {o['maxBatch']}"
    )
