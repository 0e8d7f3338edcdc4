"""Spans and metrics to an OpenTelemetry collector, by its GenAI conventions (I/O).

The supervisor makes the spans out of the records that the workers leave, and the
metrics out of the numbers that they count, so that a request costs the same with
telemetry as without. Prompts and answers are in neither.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Any

from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Gauge,
    Histogram,
    HistogramDataPoint,
    Metric,
    MetricsData,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
    Sum,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

from gateway.metrics import FAMILIES, Family, Metrics

__all__ = ["Telemetry"]

_SCOPE = InstrumentationScope("bud.gateway")
_SERVICE = Resource({"service.name": "bud-gateway"})
# https://opentelemetry.io/docs/specs/semconv/gen-ai/, 1.41
_OPERATIONS = {"completions": "text_completion", "responses": "chat"}
_PROVIDERS = {"azure": "azure.ai.openai"}
_NAMES = {
    "bud_gateway_request_duration_seconds": "gen_ai.client.operation.duration",
    "bud_gateway_time_to_first_chunk_seconds": (
        "gen_ai.client.operation.time_to_first_chunk"
    ),
    "bud_gateway_time_per_output_chunk_seconds": (
        "gen_ai.client.operation.time_per_output_chunk"
    ),
    "bud_gateway_request_tokens": "gen_ai.client.token.usage",
}
_LABELS = {
    "operation": "gen_ai.operation.name",
    "model": "gen_ai.request.model",
    "type": "gen_ai.token.type",
    "status": "http.response.status_code",
}
_FAILED = 400


class Telemetry:
    """What one gateway tells its collector."""

    def __init__(
        self,
        endpoint: str,
        *,
        interval_s: float,
        authorization: str | None,
        dialects: Mapping[str, str],
    ) -> None:
        headers = {"authorization": authorization} if authorization else {}
        self._spans = BatchSpanProcessor(
            OTLPSpanExporter(f"{endpoint}/v1/traces", headers=headers)
        )
        self._metrics = OTLPMetricExporter(f"{endpoint}/v1/metrics", headers=headers)
        self._interval_s, self._dialects = interval_s, dialects
        self._tokens = Metrics()
        self._started_ns = time.time_ns()

    def record(self, record: dict[str, Any]) -> None:
        """Take one request's record."""
        for kind in ("input", "output"):
            if record.get(kind):
                family = "bud_gateway_request_tokens"
                operation, model = record["operation"], record["model"]
                self._tokens.observe(record[kind], family, operation, model, kind)
        if record.get("trace"):
            self._spans.on_end(self._span(record))

    def _span(self, record: dict[str, Any]) -> ReadableSpan:
        trace, span, parent = record["trace"].split("-")
        begin = int(record["at"] * 1e9)
        operation = _OPERATIONS.get(record["operation"], record["operation"])
        status = record["status"]
        failed = status >= _FAILED or status == 0
        return ReadableSpan(
            f"{operation} {record['model']}",
            context=_context(trace, span, remote=False),
            parent=_context(trace, parent, remote=True) if parent else None,
            resource=_SERVICE,
            attributes=dict(self._attributes(record, operation, failed=failed)),
            kind=SpanKind.CLIENT,
            status=Status(StatusCode.ERROR if failed else StatusCode.UNSET),
            start_time=begin,
            end_time=begin + int(record.get("seconds", 0.0) * 1e9),
            instrumentation_scope=_SCOPE,
        )

    def _attributes(
        self, record: dict[str, Any], operation: str, *, failed: bool
    ) -> Iterator[tuple[str, str | int | float | bool]]:
        dialect = self._dialects.get(record.get("upstream") or "", "openai")
        yield "gen_ai.operation.name", operation
        yield "gen_ai.provider.name", _PROVIDERS.get(dialect, dialect)
        yield "gen_ai.request.model", record["model"]
        yield "gen_ai.request.stream", bool(record.get("stream"))
        yield "gen_ai.usage.input_tokens", record["input"]
        yield "gen_ai.usage.output_tokens", record["output"]
        if record.get("cached"):
            yield "gen_ai.usage.cache_read.input_tokens", record["cached"]
        if "first_seconds" in record and record.get("stream"):
            yield "gen_ai.response.time_to_first_chunk", record["first_seconds"]
        yield "http.response.status_code", record["status"]
        if failed:
            yield "error.type", str(record["status"])
        for name in ("id", "key", "route", "upstream", "tries"):
            if record.get(name) is not None:
                yield f"bud.{name}", record[name]
        yield "bud.cost_usd", record["cost_nano_usd"] / 1e9

    async def run(self, numbers: Callable[[], Awaitable[Metrics]]) -> None:
        """Export the metrics now and then, until cancelled."""
        while True:
            await asyncio.sleep(self._interval_s)
            total = await numbers()
            total.merge(self._tokens.dump(), gauges=True)
            await asyncio.to_thread(self._metrics.export, self._data(total))

    def _data(self, numbers: Metrics) -> MetricsData:
        now = time.time_ns()
        metrics = [
            Metric(_NAMES.get(name, name), family.help, _unit(name), data)
            for name, family in FAMILIES.items()
            if (data := self._points(name, family, numbers, now)) is not None
        ]
        scope = ScopeMetrics(_SCOPE, metrics, schema_url="")
        return MetricsData([ResourceMetrics(_SERVICE, [scope], schema_url="")])

    def _points(
        self, name: str, family: Family, numbers: Metrics, now: int
    ) -> Histogram | Sum | Gauge | None:
        labels = [_LABELS.get(label, label) for label in family.labels]
        if family.kind == "histogram":
            points = [
                HistogramDataPoint(
                    attributes=dict(zip(labels, series[1:], strict=True)),
                    start_time_unix_nano=self._started_ns,
                    time_unix_nano=now,
                    count=int(sum(counts[:-1])),
                    sum=counts[-1],
                    bucket_counts=[int(count) for count in counts[:-1]],
                    explicit_bounds=family.bounds,
                    min=0.0,
                    max=0.0,
                )
                for series, counts in numbers.buckets.items()
                if series[0] == name
            ]
            return Histogram(points, _TOTAL) if points else None
        values = [
            NumberDataPoint(
                attributes=dict(zip(labels, series[1:], strict=True)),
                start_time_unix_nano=self._started_ns,
                time_unix_nano=now,
                value=value,
            )
            for series, value in numbers.values.items()
            if series[0] == name
        ]
        if not values:
            return None
        if family.kind == "gauge":
            return Gauge(values)
        return Sum(values, _TOTAL, is_monotonic=True)

    def close(self) -> None:
        """Send what is left; bounded by the exporters' own time limits."""
        self._spans.shutdown()  # type: ignore[no-untyped-call]
        self._metrics.shutdown()


_TOTAL = AggregationTemporality.CUMULATIVE


def _context(trace: str, span: str, *, remote: bool) -> SpanContext:
    return SpanContext(
        int(trace, 16), int(span, 16), remote, TraceFlags(TraceFlags.SAMPLED)
    )


def _unit(name: str) -> str:
    if name.endswith("_seconds"):
        return "s"
    return "{token}" if "tokens" in name else "1"
