"""The lock: what the optimizer chose for each endpoint, and what it chose it from.

``environments/<env>/resolved.lock.yaml`` is written by ``bud resolve``, reviewed in
git, and read by ``resolve``. An entry is stale when a part of its inputs has
another digest, and the parts are named so that the message can say which. Pure:
values to bytes and back; the same values are the same bytes in any process.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Final

import rfc8785
import yaml

from reconciler.optimizer.task import Candidate, Decision
from schemas.objects import Ref
from schemas.resolution import Resolution

__all__ = ["Entry", "Lock", "digest", "dump", "entry", "parse", "stale"]

VERSION: Final = 1
HEADER: Final = (
    "# Written by `bud resolve`: what the optimizer chose, from what, and why.\n"
    "# Read it in review; change the Endpoint, not this file.\n"
)
# Predictions are kept to four significant digits: more would claim a precision that
# nobody has, and differ between processors in the last bit.
DIGITS: Final = 4
REHEARSED: Final = ("concurrency", "ttft_ms", "tpot_ms")

Inputs = Mapping[str, object]
"""Part of the inputs -> its content, as plain data."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One endpoint's part of the lock."""

    resolution: Resolution
    inputs: Mapping[str, str]
    """Part -> digest of it."""
    data: Mapping[str, Any]
    """The whole entry, as it is written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lock:
    entries: Mapping[Ref, Entry]
    calibration: Mapping[str, Any] = field(default_factory=dict)
    """What `bud optimizer feedback` learned of the environment's own measurements."""


def digest(content: object) -> str:
    """The start of SHA-256 over canonical JSON: enough to see a change by."""
    return "sha256:" + hashlib.sha256(rfc8785.dumps(content)).hexdigest()[:16]  # type: ignore[arg-type]


def stale(found: Entry, inputs: Inputs) -> tuple[str, ...]:
    """The parts whose content is not what the entry was made from, in order."""
    now = {part: digest(content) for part, content in inputs.items()}
    return tuple(
        part
        for part in sorted({*now, *found.inputs})
        if now.get(part) != found.inputs.get(part)
    )


def entry(
    decision: Decision,
    inputs: Inputs,
    *,
    autoscaled: bool,
    rehearsal: Mapping[str, float] | None = None,
) -> Entry:
    """Make the entry of a decision; ``rehearsal`` is that of the one it keeps."""
    chosen = decision.chosen
    data: dict[str, Any] = {
        "inputs": {part: digest(content) for part, content in inputs.items()},
        "chosen": {
            **_layout(chosen),
            "context": decision.context,
            "replicas": None if autoscaled else chosen.replicas,
        },
        "prediction": {
            **_numbers(chosen.prediction),
            "memory_gib": _number(decision.memory_gib["needed"]),
            "memory_lo": _number(decision.memory_gib["needed_lo"]),
            "memory_hi": _number(decision.memory_gib["needed_hi"]),
        },
        "rehearsal": _numbers(rehearsal or _rehearsed(chosen.prediction)),
        "reason": decision.reason,
        "binding": decision.binding,
        "method": decision.method,
        "considered": decision.considered,
        "measuredPoints": decision.measured_points,
        "memory": _numbers(decision.memory_gib),
        "cost": {"usdPerHour": _maybe(chosen.usd_per_h)},
        "front": [
            {
                "spent": _number(point.spent),
                "tokensPerS": _number(point.tokens_per_s),
                "label": point.label,
            }
            for point in decision.front
        ],
        "notes": list(decision.notes),
        "runnersUp": [
            {
                **_layout(other),
                "replicas": other.replicas,
                "usdPerHour": _maybe(other.usd_per_h),
                "prediction": _numbers(other.prediction),
            }
            for other in decision.alternatives
        ],
    }
    return _entry(data)


def dump(lock: Lock) -> bytes:
    """The file's bytes: sorted by project and name, one spelling a value."""
    content: dict[str, Any] = {
        "version": VERSION,
        "endpoints": {
            f"{ref.project}/{ref.name}": dict(found.data)
            for ref, found in sorted(lock.entries.items())
        },
    }
    if lock.calibration:
        content["calibration"] = lock.calibration
    text = yaml.safe_dump(
        content, sort_keys=False, allow_unicode=True, default_flow_style=False, width=88
    )
    return (HEADER + text).encode()


def parse(data: Mapping[str, Any]) -> Lock:
    """Read a lock that was parsed from YAML; empty data is an empty lock.

    Raises:
        ValueError: it is not a lock of this version.
    """
    if not data:
        return Lock(entries={})
    if data.get("version") != VERSION:
        raise ValueError(
            f"cannot read lock: version is {data.get('version')!r}, not {VERSION}"
        )
    entries: dict[Ref, Entry] = {}
    for name, content in dict(data.get("endpoints") or {}).items():
        project, _, endpoint = str(name).partition("/")
        try:
            entries[Ref("Endpoint", project, endpoint)] = _entry(content)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f"cannot read lock: entry {name!r} lacks {error}"
            ) from error
    return Lock(entries=entries, calibration=data.get("calibration") or {})


def _entry(data: Mapping[str, Any]) -> Entry:
    chosen = dict(data["chosen"])
    return Entry(
        resolution=Resolution(
            cluster=chosen["cluster"],
            node_pool=chosen["nodePool"],
            gpu=chosen["gpu"],
            tensor=chosen["tensor"],
            pipeline=chosen["pipeline"],
            data=chosen["data"],
            expert=chosen["expert"],
            max_batch=chosen["maxBatch"],
            context=chosen["context"],
            precision=chosen["precision"],
            replicas=chosen["replicas"],
            # What runs on CPUs has no such setting.
            chunk=chosen["chunk"] if chosen["gpu"] is not None else None,
            prediction={k: float(v) for k, v in data["prediction"].items()},
            rehearsal=data.get("rehearsal") or _rehearsed(data["prediction"]),
        ),
        inputs=dict(data["inputs"]),
        data=data,
    )


def _rehearsed(prediction: Mapping[str, float]) -> dict[str, float]:
    """Of what is promised, what a simulator plays."""
    return {name: prediction[name] for name in REHEARSED if name in prediction}


_NAMES: Final = {"node_pool": "nodePool", "max_batch": "maxBatch"}
_LEFT_OUT: Final = {"replicas", "usd_per_h", "prediction"}


def _layout(candidate: Candidate) -> dict[str, Any]:
    values = {
        _NAMES.get(f.name, f.name): getattr(candidate, f.name)
        for f in fields(Candidate)
        if f.name not in _LEFT_OUT
    }
    # A plain word: YAML would name the enum's class with a tag.
    return values | {"precision": str(candidate.precision)}


def _numbers(values: Mapping[str, float]) -> dict[str, float]:
    return {name: _number(value) for name, value in values.items()}


def _maybe(value: float | None) -> float | None:
    return None if value is None else _number(value)


def _number(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")
