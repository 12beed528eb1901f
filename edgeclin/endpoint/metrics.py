"""`GET /metrics`: the same facts for Prometheus, in base units and with bounded labels only."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily
from prometheus_client.registry import Collector

from edgeclin.endpoint.health import Health
from edgeclin.records import Result, State

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_STEPS = ("queue", "preprocess", "engine", "postprocess")
_BUCKETS = (
    *(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05),
    *(0.1, 0.25, 0.5, 1.0, 2.5, 10.0),
)


class Metrics:
    """Counts latencies as they come, and reads the rest from health when it is asked."""

    def __init__(self, health: Callable[[], Health]) -> None:
        self._registry = CollectorRegistry()
        latency = Histogram(
            "edgeclin_latency_seconds",
            "Time spent on a sample, by step; queue is how long it waited to be taken.",
            ["step"],
            registry=self._registry,
            buckets=_BUCKETS,
        )
        self._latency = [(step, latency.labels(step)) for step in _STEPS]
        self._registry.register(_Facts(health))

    def count(self, result: Result) -> None:
        """Take in a result."""
        if result.latency_ms is not None:
            for step, histogram in self._latency:
                histogram.observe(getattr(result.latency_ms, step) / 1000)

    def text(self) -> bytes:
        """In Prometheus' text format."""
        return generate_latest(self._registry)


class _Facts(Collector):
    def __init__(self, health: Callable[[], Health]) -> None:
        self._health = health

    def describe(self) -> list[CounterMetricFamily]:
        return []  # so that registering does not collect

    def collect(self) -> Iterator[CounterMetricFamily | GaugeMetricFamily | InfoMetricFamily]:
        health = self._health()
        run = health.run
        results = CounterMetricFamily(
            "edgeclin_results", "Answers by the state they were stored in.", labels=["state"]
        )
        for state in State:
            results.add_metric([state.value], run.states.get(state.value, 0))
        yield results
        for name, what, value in (
            ("rejected", "Samples that could not be judged.", run.rejected),
            ("urgent", "Answers with an urgent label.", run.urgent),
            ("late", "Answers that were stored after their deadline.", run.late),
            ("dropped", "Samples of live streams that found no room.", run.dropped),
        ):
            yield CounterMetricFamily(f"edgeclin_{name}", what, value=value)
        if run.written is not None:
            yield CounterMetricFamily(
                "edgeclin_disk_written_bytes", "What it had a disk write.", value=run.written
            )
        for name, what, reading in (
            ("serving", "Whether samples are answered and their answers stored.", health.serving),
            ("alarm", "Whether somebody must look now.", bool(health.alarms)),
            ("degraded", "Whether another engine answers than the bundle's own.", run.degraded),
            (
                "link_up",
                "Whether `edgeclin sync` said of late that it has a session with the broker.",
                health.link.state in ("connected", "unanswered"),
            ),
            ("waiting_samples", "Samples that wait to be judged.", run.waiting),
            ("busy_seconds", "How long the sample in hand has been in hand.", run.busy_s),
            ("uptime_seconds", "Since the start.", run.up_s),
        ):
            number = float(bool(reading)) if isinstance(reading, str) else float(reading)
            yield GaugeMetricFamily(f"edgeclin_{name}", what, value=number)
        if health.last_s is not None:
            yield GaugeMetricFamily(
                "edgeclin_last_answer_age_seconds", "Since the last answer.", value=health.last_s
            )
        yield from _queue(health)
        yield from _drift(health)
        yield InfoMetricFamily(
            "edgeclin",
            "What answers.",
            value={"bundle": run.bundle, "model": health.model, "engine": run.engine},
        )


def _queue(health: Health) -> Iterator[GaugeMetricFamily]:
    if health.queue is None:
        return
    rows = GaugeMetricFamily("edgeclin_queue_rows", "What waits, by tier.", labels=["tier"])
    size = GaugeMetricFamily("edgeclin_queue_bytes", "Its bytes, by tier.", labels=["tier"])
    for tier, usage in health.queue.waiting.items():
        rows.add_metric([tier], usage.count)
        size.add_metric([tier], usage.bytes)
    oldest = GaugeMetricFamily(
        "edgeclin_oldest_waiting_seconds",
        "How long the first row has waited, by tier.",
        labels=["tier"],
    )
    for tier, waited in health.queue.oldest_s.items():
        oldest.add_metric([tier], waited)
    yield rows
    yield size
    yield oldest
    yield GaugeMetricFamily(
        "edgeclin_queue_max_bytes", "Bytes that may wait.", value=health.queue.max_bytes
    )


def _drift(health: Health) -> Iterator[GaugeMetricFamily]:
    if health.run.drift is None:
        return
    shifts = GaugeMetricFamily(
        "edgeclin_drift_psi",
        "Population stability index of the last 500 to 1,000 samples counted.",
        labels=["quantity"],
    )
    for shift in health.run.drift.recent:
        shifts.add_metric([shift.quantity], shift.psi)
    yield shifts
