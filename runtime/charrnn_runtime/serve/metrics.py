"""What is counted for Prometheus: names after vLLM's, with charrnn in its place. A token is a character."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

_LABEL: Final = ["model_name"]
_REASONS: Final = ("stop", "length")
_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
_SECONDS_PER_TOKEN: Final = (
    1e-5,
    2.5e-5,
    5e-5,
    1e-4,
    2.5e-4,
    5e-4,
    1e-3,
    2.5e-3,
    5e-3,
    0.01,
    0.025,
    0.05,
    0.1,
)

Streams = Iterable[tuple[str, int, int]]
"""The names of the models, and how many streams of each run and wait."""


class Metrics:
    """What is counted, for all models.

    Attributes:
        registry: what Prometheus reads.
    """

    def __init__(self, streams: Callable[[], Streams]) -> None:
        """Nothing counted yet; ``streams`` is asked each time that Prometheus reads."""
        self.registry = CollectorRegistry()
        self.registry.register(_Streams(streams))
        self.prompt_tokens = self._counter("prompt_tokens", "Characters of prompts.")
        self.generation_tokens = self._counter("generation_tokens", "Characters that were sampled.")
        self.success = self._counter(
            "request_success", "Choices that came to their end, by finish reason.", "finished_reason"
        )
        self.queue_time = self._histogram(
            "request_queue_time_seconds", "Seconds for which a stream waited for a row.", _SECONDS
        )
        self.first_token = self._histogram(
            "time_to_first_token_seconds",
            "Seconds from a request to its first piece of text, of requests that stream.",
            _SECONDS,
        )
        self.per_token = self._histogram(
            "time_per_output_token_seconds",
            "Seconds per character after the first piece, of requests that stream.",
            _SECONDS_PER_TOKEN,
        )
        self.latency = self._histogram(
            "e2e_request_latency_seconds", "Seconds from a request to the end of its answer.", _SECONDS
        )

    def _counter(self, name: str, said: str, *labels: str) -> Counter:
        return Counter(f"charrnn:{name}", said, [*_LABEL, *labels], registry=self.registry)

    def _histogram(self, name: str, said: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(f"charrnn:{name}", said, _LABEL, buckets=buckets, registry=self.registry)


class ModelMetrics:
    """What is counted for one model; see `Metrics`."""

    def __init__(self, metrics: Metrics, name: str) -> None:
        self.prompt_tokens = metrics.prompt_tokens.labels(name)
        self.generation_tokens = metrics.generation_tokens.labels(name)
        self.success = {reason: metrics.success.labels(name, reason) for reason in _REASONS}
        self.queue_time = metrics.queue_time.labels(name)
        self.first_token = metrics.first_token.labels(name)
        self.per_token = metrics.per_token.labels(name)
        self.latency = metrics.latency.labels(name)


class _Streams(Collector):
    """How many streams run and wait at the moment."""

    def __init__(self, streams: Callable[[], Streams]) -> None:
        self._streams = streams

    def collect(self) -> Iterator[Metric]:
        running = GaugeMetricFamily("charrnn:num_requests_running", "Streams that run.", labels=_LABEL)
        waiting = GaugeMetricFamily("charrnn:num_requests_waiting", "Streams that wait.", labels=_LABEL)
        for name, runs, waits in self._streams():
            running.add_metric([name], runs)
            waiting.add_metric([name], waits)
        yield running
        yield waiting
