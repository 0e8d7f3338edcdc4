"""What a collector is told: spans of the right trace, metrics, and no prompts."""

from __future__ import annotations

import asyncio
import gzip
import itertools
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
)

from gateway.tracing import traced
from schemas.gateway import Telemetry
from schemas.units import Duration
from tests.gateway.wire import MockUpstream, Start, config_for

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
PARENT = f"traceparent: 00-{TRACE}-{SPAN}-01\r\n".encode()


class Collector:
    """An OTLP endpoint that keeps what it is sent."""

    def __init__(self) -> None:
        self.spans: list[Any] = []
        self.metrics: dict[str, Any] = {}
        self.raw = b""
        self.url = ""

    async def traces(self, request: web.Request) -> web.Response:
        for resource in ExportTraceServiceRequest.FromString(
            await self._read(request)
        ).resource_spans:
            for scope in resource.scope_spans:
                self.spans += scope.spans
        return web.Response()

    async def numbers(self, request: web.Request) -> web.Response:
        for resource in ExportMetricsServiceRequest.FromString(
            await self._read(request)
        ).resource_metrics:
            for scope in resource.scope_metrics:
                self.metrics |= {metric.name: metric for metric in scope.metrics}
        return web.Response()

    async def _read(self, request: web.Request) -> bytes:
        data = await request.read()
        if data[:2] == b"\x1f\x8b":
            data = gzip.decompress(data)
        self.raw += data
        return data


@pytest.fixture
async def collector() -> AsyncIterator[Collector]:
    kept = Collector()
    app = web.Application()
    app.router.add_post("/v1/traces", kept.traces)
    app.router.add_post("/v1/metrics", kept.numbers)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    kept.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield kept
    await runner.cleanup()


async def test_a_request_is_a_span_between_the_client_and_the_upstream(
    start: Start, upstream: MockUpstream, collector: Collector
) -> None:
    telemetry = Telemetry(endpoint=collector.url, sample=0, interval=Duration("200ms"))
    listener = {"usage": "usage", "telemetry": telemetry}
    gateway = await start(config_for(upstream, listener=listener), fresh=True)
    ask: dict[str, Any] = {
        "model": "smol",
        "messages": [{"role": "user", "content": "a secret prompt"}],
    }
    client = gateway.client()
    await client.chat.completions.create(**ask)
    stream = await client.chat.completions.create(
        **ask, stream=True, extra_headers={"traceparent": PARENT[13:-2].decode()}
    )
    assert [chunk async for chunk in stream]
    async with asyncio.timeout(30):
        while "gen_ai.client.token.usage" not in collector.metrics:
            await asyncio.sleep(0.05)
    assert await gateway.stop() == 0  # what was still held is sent
    [span] = collector.spans  # the other was not sampled
    assert span.name == "chat smol"
    assert (span.trace_id.hex(), span.parent_span_id.hex()) == (TRACE, SPAN)
    attributes = {item.key: item.value for item in span.attributes}
    assert attributes["gen_ai.usage.input_tokens"].int_value == 7
    assert attributes["gen_ai.usage.output_tokens"].int_value == 3
    assert attributes["bud.upstream"].string_value == "team/u0"
    assert attributes["gen_ai.response.time_to_first_chunk"].double_value > 0
    assert span.end_time_unix_nano > span.start_time_unix_nano
    plain, streamed = upstream.asked
    assert "traceparent" not in plain.headers
    assert streamed.headers["traceparent"] == f"00-{TRACE}-{span.span_id.hex()}-01"
    duration = collector.metrics["gen_ai.client.operation.duration"].histogram
    assert sum(point.count for point in duration.data_points) == 2
    assert b"secret" not in collector.raw
    assert b"hello" not in collector.raw


async def test_a_collector_that_is_gone_costs_no_request(
    start: Start, upstream: MockUpstream
) -> None:
    telemetry = Telemetry(
        endpoint="http://127.0.0.1:9", sample=1, interval=Duration("100ms")
    )
    listener = {"usage": "usage", "telemetry": telemetry}
    gateway = await start(config_for(upstream, listener=listener), fresh=True)
    for _ in range(5):
        await gateway.client().chat.completions.create(model="smol", messages=[])
    assert upstream.asked[-1].headers["traceparent"].endswith("-01")
    assert (await gateway.status())["ready"]


def test_without_a_trace_chance_decides_and_with_one_its_flag() -> None:
    draws = itertools.cycle([0.3])
    begun = traced(b"", sample=0.5, random=lambda: next(draws))
    assert begun.span is not None
    trace, span, parent = begun.span.split("-")
    assert (len(trace), len(span), parent) == (32, 16, "")
    assert begun.lines == f"traceparent: 00-{trace}-{span}-01\r\n".encode()
    assert traced(b"", sample=0.2, random=lambda: next(draws)) == (b"", None)
    unsampled = PARENT.replace(b"-01\r", b"-00\r")
    assert traced(unsampled, sample=1, random=lambda: 0.3) == (unsampled, None)
    both = PARENT + b"tracestate: a=b\r\n"
    assert traced(both, sample=0, random=lambda: 0.3).lines.endswith(
        b"tracestate: a=b\r\n"
    )
