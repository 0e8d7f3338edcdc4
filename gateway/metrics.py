"""Counters and histograms: plain numbers that add up over workers.

A worker counts, the supervisor adds and writes the Prometheus text. The
library's own multi-process mode maps a file per worker and locks per update;
here an update is one dictionary entry.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

__all__ = ["FAMILIES", "Family", "Metrics", "render"]

# OpenTelemetry's advice for the GenAI duration histograms, in seconds.
_SECONDS = tuple(0.01 * 2**i for i in range(14))


@dataclass(frozen=True, slots=True)
class Family:
    help: str
    labels: tuple[str, ...] = ()
    kind: str = "counter"
    bounds: tuple[float, ...] = ()


# OpenTelemetry's advice for gen_ai.client.token.usage.
_TOKENS = tuple(4.0**i for i in range(14))

FAMILIES = {
    "bud_gateway_request_tokens": Family(
        "Tokens of one request, when telemetry is on",
        ("operation", "model", "type"),
        "histogram",
        _TOKENS,
    ),
    "bud_gateway_requests_total": Family(
        "Requests answered, by route, operation and status",
        ("route", "operation", "status"),
    ),
    "bud_gateway_tries_total": Family(
        "Tries at an upstream, by how they ended", ("upstream", "outcome")
    ),
    "bud_gateway_ejections_total": Family(
        "Times an address was left alone after failures in a row", ("upstream",)
    ),
    "bud_gateway_hedges_total": Family(
        "Second tries beside a late one: won, lost, failed, or left with the client",
        ("route", "outcome"),
    ),
    "bud_gateway_refused_total": Family(
        "Requests refused before a route was known", ("status",)
    ),
    "bud_gateway_tokens_total": Family(
        "Tokens that upstreams reported", ("route", "kind")
    ),
    "bud_gateway_request_duration_seconds": Family(
        "From the end of a request to the end of its answer",
        ("route", "operation"),
        "histogram",
        _SECONDS,
    ),
    "bud_gateway_time_to_first_chunk_seconds": Family(
        "From the end of a request to the first content of its stream",
        ("route",),
        "histogram",
        _SECONDS,
    ),
    "bud_gateway_time_per_output_chunk_seconds": Family(
        "Mean time between the chunks of one stream",
        ("route",),
        "histogram",
        _SECONDS,
    ),
    "bud_gateway_guardrail_total": Family(
        "What guardrails found, or could not look at",
        ("route", "guardrail", "outcome"),
    ),
    "bud_gateway_cache_total": Family(
        "Questions that were looked for in the cache", ("route", "outcome")
    ),
    "bud_gateway_shadow_skipped_total": Family(
        "Requests that a slow shadow was spared", ("route",)
    ),
    "bud_gateway_records_dropped_total": Family(
        "Records of requests that a full disk had no room for"
    ),
    "bud_gateway_queue_seconds": Family(
        "How long requests waited for a place on a full route, and got one",
        ("route",),
        "histogram",
        _SECONDS,
    ),
    "bud_gateway_queued": Family("Requests that wait for a place", (), "gauge"),
    "bud_gateway_in_flight": Family("Requests in flight", (), "gauge"),
    "bud_gateway_connections": Family("Client connections", (), "gauge"),
    "bud_gateway_shared_up": Family(
        "Does what gateways share its limits with answer", (), "gauge"
    ),
    "bud_gateway_workers": Family("Workers that run", (), "gauge"),
    "bud_gateway_worker_restarts_total": Family("Workers that were replaced"),
    "bud_gateway_config_generation": Family(
        "How often a new config came into force", (), "gauge"
    ),
    "bud_gateway_config_rejected_total": Family("Files that were found invalid"),
    "bud_gateway_config_valid": Family(
        "Is what the files say now in force", (), "gauge"
    ),
    "bud_gateway_config_info": Family(
        "The digest of the config in force", ("digest",), "gauge"
    ),
}

Series: TypeAlias = tuple[str, ...]
"""A family's name and its labels' values."""


class Metrics:
    """One process' numbers."""

    __slots__ = ("buckets", "values")

    def __init__(self) -> None:
        self.values: dict[Series, float] = {}
        self.buckets: dict[Series, list[float]] = {}
        """Counts by bound, the rest, and the sum."""

    def add(self, *series: str, n: float = 1) -> None:
        values = self.values
        values[series] = values.get(series, 0) + n

    def set(self, *series: str, to: float) -> None:
        self.values[series] = to

    def counts(self, *series: str) -> list[float]:
        """Give a histogram's own list, to count in."""
        counts = self.buckets.get(series)
        if counts is None:
            counts = [0.0] * (len(FAMILIES[series[0]].bounds) + 2)
            self.buckets[series] = counts
        return counts

    def observe(self, value: float, *series: str) -> None:
        counts = self.counts(*series)
        counts[bisect_left(FAMILIES[series[0]].bounds, value)] += 1
        counts[-1] += value

    def dump(self) -> list[tuple[list[str], float | list[float]]]:
        """Write as JSON can carry it."""
        return [
            *((list(series), value) for series, value in self.values.items()),
            *((list(series), list(counts)) for series, counts in self.buckets.items()),
        ]

    def merge(
        self, dumped: Iterable[tuple[list[str], float | list[float]]], *, gauges: bool
    ) -> None:
        """Add what another process dumped; a dead one's gauges count no more."""
        for labels, value in dumped:
            series = tuple(labels)
            if isinstance(value, list):
                mine = self.buckets.setdefault(series, [0.0] * len(value))
                self.buckets[series] = [a + b for a, b in zip(mine, value, strict=True)]
            elif gauges or FAMILIES[series[0]].kind != "gauge":
                self.add(*series, n=value)


def render(metrics: Metrics) -> str:
    """Write the Prometheus text format, version 0.0.4."""
    lines: list[str] = []
    for name, family in FAMILIES.items():
        lines += [f"# HELP {name} {family.help}", f"# TYPE {name} {family.kind}"]
        for series, value in sorted(metrics.values.items()):
            if series[0] == name:
                lines.append(
                    f"{name}{_labels(family.labels, series[1:])} {_number(value)}"
                )
        for series, counts in sorted(metrics.buckets.items()):
            if series[0] == name:
                lines += _histogram(name, family, series[1:], counts)
    return "\n".join(lines) + "\n"


def _histogram(
    name: str, family: Family, labels: tuple[str, ...], counts: list[float]
) -> Iterator[str]:
    total = 0.0
    for bound, count in zip([*family.bounds, "+Inf"], counts, strict=False):
        total += count
        text = _labels((*family.labels, "le"), (*labels, str(bound)))
        yield f"{name}_bucket{text} {_number(total)}"
    text = _labels(family.labels, labels)
    yield f"{name}_sum{text} {_number(counts[-1])}"
    yield f"{name}_count{text} {_number(total)}"


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(value)


def _labels(names: tuple[str, ...], values: tuple[str, ...]) -> str:
    if not names:
        return ""
    pairs = (
        '{}="{}"'.format(
            name, value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
        )
        for name, value in zip(names, values, strict=True)
    )
    return "{" + ",".join(pairs) + "}"
