"""Figures of the models that are served, for Prometheus, on this machine alone."""

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from http.server import HTTPServer

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from node.adapters.inference import WorkerInference
from node.core.meter import Histogram
from tandem.protocol.errors import ConfigurationError

_MICRO = 10**6


@asynccontextmanager
async def model_metrics(port: int | None, inference: WorkerInference) -> AsyncIterator[HTTPServer | None]:
    """Answers on 127.0.0.1 while the context lasts. Raises ConfigurationError if the port is taken."""
    if port is None:
        yield None
        return
    registry = CollectorRegistry()
    registry.register(ModelCollector(inference))
    try:
        server, thread = start_http_server(port, "127.0.0.1", registry)
    except OSError as error:
        raise ConfigurationError(
            f"inference.metrics_port: expected to listen on 127.0.0.1:{port}: {error}; choose another port"
        ) from error
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class ModelCollector(Collector):
    """One series a model, by its digest. Counts begin anew when a model is loaded anew."""

    def __init__(self, inference: WorkerInference) -> None:
        self._inference = inference

    def collect(self) -> Iterable[Metric]:
        meters = self._inference.meters()
        requests = CounterMetricFamily("tandem_model_requests", "Requests that ended well", labels=["model"])
        failures = CounterMetricFamily("tandem_model_failures", "Requests that failed", labels=["model", "code"])
        loads = CounterMetricFamily("tandem_model_loads", "Loads into a worker", labels=["model"])
        hits = CounterMetricFamily("tandem_model_hits", "Requests that found the model loaded", labels=["model"])
        for model, meter in meters.items():
            requests.add_metric([model], meter.requests)
            loads.add_metric([model], meter.loads)
            hits.add_metric([model], meter.hits)
            for code, count in list(meter.failures.items()):
                failures.add_metric([model, code], count)
        yield from (requests, failures, loads, hits)
        times = {"queue": "waiting for a worker", "run": "in the model itself", "total": "from request to answer"}
        for name, what in times.items():
            yield _histogram(
                f"tandem_model_{name}_seconds",
                f"Seconds {what}",
                {model: getattr(meter, name) for model, meter in meters.items()},
                _MICRO,
            )
        batches = {model: meter.batches for model, meter in meters.items()}
        yield _histogram("tandem_model_batch_requests", "Requests that were run together", batches, 1)
        yield from self._memory()

    def _memory(self) -> Iterable[Metric]:
        labels = ["model", "provider"]
        memory = GaugeMetricFamily("tandem_model_memory_bytes", "Main memory, measured at the load", labels=labels)
        vram = GaugeMetricFamily("tandem_model_vram_bytes", "GPU memory, measured at the load", labels=labels)
        fallback = GaugeMetricFamily("tandem_model_fallback", "1: not on the provider it should be on", labels=labels)
        for warm in self._inference.warm():
            key = [warm.digest, warm.loaded.provider]
            memory.add_metric(key, warm.loaded.memory)
            vram.add_metric(key, warm.loaded.vram)
            fallback.add_metric(key, bool(warm.loaded.fallback))
        return memory, vram, fallback


def _histogram(name: str, text: str, found: dict[str, Histogram], unit: int) -> HistogramMetricFamily:
    family = HistogramMetricFamily(name, text, labels=["model"])
    for model, histogram in found.items():
        count, buckets = 0, []
        for bound, more in zip((*histogram.bounds, None), histogram.counts, strict=True):
            count += more
            buckets.append(("+Inf" if bound is None else str(bound / unit), float(count)))
        family.add_metric([model], buckets, histogram.total / unit)
    return family
