"""Prometheus metrics, named after vLLM's with the prefix charrnn. A token is a character."""

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
"""The names of the models, and the number of running and waiting streams of each."""


class Metrics:
    """The metrics of all models.

    Attributes:
        registry: the registry that Prometheus scrapes.
    """

    def __init__(self, streams: Callable[[], Streams]) -> None:
        """Create the metrics; ``streams`` is called on each scrape."""
        self.registry = CollectorRegistry()
        self.registry.register(_Streams(streams))
        self.prompt_tokens = self._counter("prompt_tokens", "Prompt characters.")
        self.generation_tokens = self._counter("generation_tokens", "Sampled characters.")
        self.success = self._counter(
            "request_success", "Finished choices, by finish reason.", "finished_reason"
        )
        self.queue_time = self._histogram(
            "request_queue_time_seconds", "Time that a stream spends in the queue, in seconds.", _SECONDS
        )
        self.first_token = self._histogram(
            "time_to_first_token_seconds",
            "Time from a streaming request to its first piece of text, in seconds.",
            _SECONDS,
        )
        self.per_token = self._histogram(
            "time_per_output_token_seconds",
            "Time per character after the first piece of a streaming request, in seconds.",
            _SECONDS_PER_TOKEN,
        )
        self.latency = self._histogram(
            "e2e_request_latency_seconds", "Time from a request to the end of the response.", _SECONDS
        )

    def _counter(self, name: str, said: str, *labels: str) -> Counter:
        return Counter(f"charrnn:{name}", said, [*_LABEL, *labels], registry=self.registry)

    def _histogram(self, name: str, said: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(f"charrnn:{name}", said, _LABEL, buckets=buckets, registry=self.registry)


class ModelMetrics:
    """The metrics of one model; see `Metrics`."""

    def __init__(self, metrics: Metrics, name: str) -> None:
        self.prompt_tokens = metrics.prompt_tokens.labels(name)
        self.generation_tokens = metrics.generation_tokens.labels(name)
        self.success = {reason: metrics.success.labels(name, reason) for reason in _REASONS}
        self.queue_time = metrics.queue_time.labels(name)
        self.first_token = metrics.first_token.labels(name)
        self.per_token = metrics.per_token.labels(name)
        self.latency = metrics.latency.labels(name)


class _Streams(Collector):
    """The current numbers of running and waiting streams."""

    def __init__(self, streams: Callable[[], Streams]) -> None:
        self._streams = streams

    def collect(self) -> Iterator[Metric]:
        running = GaugeMetricFamily("charrnn:num_requests_running", "Running streams.", labels=_LABEL)
        waiting = GaugeMetricFamily("charrnn:num_requests_waiting", "Queued streams.", labels=_LABEL)
        for name, runs, waits in self._streams():
            running.add_metric([name], runs)
            waiting.add_metric([name], waits)
        yield running
        yield waiting
