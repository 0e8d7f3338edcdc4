"""The metrics of a simulated engine, under the names that vLLM gives its own.

The simulator counts into it and serves its page. Dashboards, autoscalers and the
gateway's load signals read these names, so a rehearsal exercises them unchanged:
https://docs.vllm.ai/en/stable/usage/metrics.html, with the older names of the
cache gauge and of the time per token beside the current ones.
"""

from __future__ import annotations

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)

from reconciler.engines.rehearsal import Batch

__all__ = ["Meters"]

# vLLM's own bucket bounds, seconds.
_TTFT = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5),
    *(0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0, 160.0),
)
_TPOT = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5)
_REQUEST = (0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 60.0)


class Meters:
    """One registry for one engine."""

    def __init__(self, model: str, batch: Batch) -> None:
        self._registry = CollectorRegistry()
        self._model = model
        for name, text, read in (
            ("num_requests_running", "Sequences in the batch", lambda: batch.running),
            ("num_requests_waiting", "Requests in the queue", lambda: batch.waiting),
            ("kv_cache_usage_perc", "1 is full", lambda: batch.cache_usage),
            ("gpu_cache_usage_perc", "1 is full", lambda: batch.cache_usage),
        ):
            gauge = Gauge(f"vllm:{name}", text, ["model_name"], registry=self._registry)
            gauge.labels(model).set_function(read)
        self._ttft = self._histogram("time_to_first_token_seconds", _TTFT)
        self._queue = self._histogram("request_queue_time_seconds", _REQUEST)
        self._request = self._histogram("e2e_request_latency_seconds", _REQUEST)
        self._gaps = [
            self._histogram("inter_token_latency_seconds", _TPOT),
            self._histogram("time_per_output_token_seconds", _TPOT),
        ]
        self._prompt = self._counter("prompt_tokens")
        self._generated = self._counter("generation_tokens")
        self._success = Counter(
            "vllm:request_success",
            "Requests answered",
            ["model_name", "finished_reason"],
            registry=self._registry,
        )

    def prompt(self, tokens: int) -> None:
        self._prompt.inc(tokens)

    def first(self, waited_s: float, after_s: float) -> None:
        self._queue.observe(waited_s)
        self._ttft.observe(after_s)

    def between(self, seconds: float) -> None:
        for gap in self._gaps:
            gap.observe(seconds)

    def token(self) -> None:
        self._generated.inc()

    def done(self, reason: str, seconds: float) -> None:
        self._request.observe(seconds)
        self._success.labels(self._model, reason).inc()

    def page(self) -> bytes:
        """The text exposition format."""
        return generate_latest(self._registry)

    def _histogram(self, name: str, bounds: tuple[float, ...]) -> Histogram:
        histogram = Histogram(
            f"vllm:{name}",
            "Seconds",
            ["model_name"],
            buckets=bounds,
            registry=self._registry,
        )
        return histogram.labels(self._model)

    def _counter(self, name: str) -> Counter:
        counter = Counter(
            f"vllm:{name}", "Tokens", ["model_name"], registry=self._registry
        )
        return counter.labels(self._model)
