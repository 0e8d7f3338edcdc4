"""What was measured of endpoints, against what was predicted of them. (I/O: reads CSV
and the gateway's records)

`bud optimizer feedback` calls it. A line is a configuration in the columns of
``predict`` with ttft_ms and tpot_ms, or it names an endpoint of the lock and says
only what differs; the gateway's records become such lines, one an endpoint.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import orjson

from reconciler.optimizer.calibration import Calibration, calibrate
from reconciler.optimizer.forecast import estimates_of
from reconciler.optimizer.performance import PerformanceModel
from reconciler.optimizer.rows import cases_of, numbers, row_of
from reconciler.optimizer.task import Task
from schemas.catalog import Catalog
from schemas.endpoint import Endpoint
from schemas.errors import PermanentError
from schemas.resolution import Resolution

__all__ = ["Replicas", "feedback", "line_of", "read_records", "replicas_of"]

Line = Mapping[str, str]

# Fewer requests say nothing about a mean: their tail is a tenth of them.
FEWEST: Final = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Replicas:
    """How many replicas an endpoint has; an autoscaler's number is not recorded."""

    fewest: int
    most: int
    share: float
    """Requests that each was planned to have at once."""

    def share_of(self, requests: float) -> float:
        """Of requests at once, those of one replica. An autoscaler holds a replica
        near the share that it was planned for, as far as its limits let it."""
        count = min(max(round(requests / self.share), self.fewest), self.most)
        return max(requests / max(count, 1), 1.0)


def replicas_of(endpoint: Endpoint, chosen: Resolution) -> Replicas:
    """What the spec and the lock say of an endpoint's replicas."""
    scaling, count = endpoint.spec.scaling, chosen.replicas or 1
    return Replicas(
        fewest=scaling.min if scaling else count,
        most=scaling.max if scaling else count,
        share=_share(endpoint.spec.workload.concurrency, chosen),
    )


def _share(concurrency: int, chosen: Resolution) -> int:
    """Requests at once on a replica as planned; an old lock does not say it."""
    planned = chosen.prediction.get("concurrency")
    return int(planned or -(-concurrency // (chosen.replicas or 1)))


def line_of(task: Task, chosen: Resolution) -> dict[str, str]:
    """One replica of a resolved endpoint in the columns of ``predict``."""
    values = {
        "model": task.model,
        "gpu": chosen.gpu or "cpu",
        "backend": task.engine,
        "backend_version": task.engine_version or "",
        "precision": chosen.precision,
        "isl": task.input_tokens,
        "osl": task.output_tokens,
        "concurrency": _share(task.concurrency, chosen),
        "gpus": chosen.gpus,
        "tp": chosen.tensor,
        "pp": chosen.pipeline,
        "attn_dp": chosen.data,
        "ep": chosen.expert,
    }
    return {name: str(value) for name, value in values.items()}


def feedback(
    lines: Sequence[Line],
    endpoints: Mapping[str, Line],
    model: PerformanceModel,
    catalog: Catalog,
) -> Calibration:
    """Compare each line's measured columns with what is predicted of it.

    Raises:
        PermanentError: a line names an endpoint that ``endpoints`` has not.
    """
    whole = [_whole(line, endpoints) for line in lines]
    rows = [row_of(line, catalog) for line in whole]
    if not rows:
        return Calibration(tracks={})
    measured = {name: numbers(whole, f"{name}_ms") for name in ("ttft", "tpot")}
    return calibrate(cases_of(rows), estimates_of(rows, model), measured)


def _whole(line: Line, endpoints: Mapping[str, Line]) -> Line:
    name = line.get("endpoint", "")
    if not name:
        return line
    known = endpoints.get(name if "/" in name else f"default/{name}")
    if known is None:
        raise PermanentError(
            f"cannot learn of endpoint {name!r}: the lock has no GPU endpoint so named",
            hint=f"it has {', '.join(sorted(endpoints)) or 'none'}",
        )
    return {**known, **{k: v for k, v in line.items() if v}}


def read_records(
    folder: Path, replicas: Mapping[str, Replicas], *, since: float = 0.0
) -> list[dict[str, str]]:
    """The gateway's records as one measured line for each of these endpoints.

    ``since`` is in seconds since the epoch.
    """
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for path in sorted(folder.rglob("*.jsonl")):
        for text in path.read_bytes().splitlines():
            record = orjson.loads(text)
            if (
                record.get("upstream") in replicas
                and _complete(record)
                and record["at"] >= since
            ):
                found[record["upstream"]].append(record)
    return [
        {"endpoint": name, **_means(records, replicas[name])}
        for name, records in sorted(found.items())
        if len(records) >= FEWEST
    ]


def _complete(record: Mapping[str, Any]) -> bool:
    """A stream that ended well, with a second token and counts that were reported."""
    return (
        record.get("status") == 200  # noqa: PLR2004 - HTTP's OK
        and not record.get("estimated")
        and not record.get("cached")
        and record.get("first_seconds") is not None
        and int(record.get("output") or 0) > 1
    )


def _means(records: Iterable[Mapping[str, Any]], replicas: Replicas) -> dict[str, str]:
    """Little's law gives the requests at once: time spent over time passed."""
    at, seconds, first, inputs, outputs = np.array(
        [
            [float(r[n]) for n in ("at", "seconds", "first_seconds", "input", "output")]
            for r in records
        ]
    ).T
    passed = float((at + seconds).max() - at.min())
    values = {
        "isl": inputs.mean(),
        "osl": outputs.mean(),
        "concurrency": replicas.share_of(seconds.sum() / passed),
        "ttft_ms": 1e3 * first.mean(),
        "tpot_ms": 1e3 * ((seconds - first) / (outputs - 1)).mean(),
    }
    return {name: f"{value:.6g}" for name, value in values.items()}
