"""The worker's metrics, created from their declaration."""

from collections.abc import Mapping
from typing import TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.metrics import MetricWrapperBase

from config.metrics import WORKER_METRICS, MetricKind, MetricSpec
from schemas.dead_letter import DeadLetter
from sinks.rows import FlushReport

Wrapper = TypeVar("Wrapper", bound=MetricWrapperBase)


def create(spec: MetricSpec, registry: CollectorRegistry) -> MetricWrapperBase:
    """Create a Prometheus metric in `registry` from its declaration."""
    if spec.kind is MetricKind.COUNTER:
        return Counter(spec.name, spec.description, spec.labels, registry=registry)
    if spec.kind is MetricKind.GAUGE:
        return Gauge(spec.name, spec.description, spec.labels, registry=registry)
    return Histogram(spec.name, spec.description, spec.labels, buckets=spec.buckets, registry=registry)


class WorkerMetrics:
    """Every metric of `config.metrics.WORKER_METRICS`, by a short name.

    Args:
        registry: where they are collected; one per worker process.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        created = {spec.name: create(spec, registry) for spec in WORKER_METRICS}
        self.records = _pick(created, "shopstream_records", Counter)
        self.dead_letters = _pick(created, "shopstream_dead_letters", Counter)
        self.forgotten = _pick(created, "shopstream_dedupe_forgotten", Counter)
        self.batches = _pick(created, "shopstream_batches", Counter)
        self.batch_seconds = _pick(created, "shopstream_batch_seconds", Histogram)
        self.freshness = _pick(created, "shopstream_freshness_seconds", Histogram)
        self.states_pushed = _pick(created, "shopstream_states_pushed", Counter)
        self.conflicts = _pick(created, "shopstream_conflicts", Counter)
        self.sink_retries = _pick(created, "shopstream_sink_retries", Counter)
        self.lag = _pick(created, "shopstream_lag_records", Gauge)
        self.next_offset = _pick(created, "shopstream_next_offset", Gauge)
        self.committed_offset = _pick(created, "shopstream_committed_offset", Gauge)
        self.commit_age = _pick(created, "shopstream_commit_age_seconds", Gauge)
        self.rebuilding = _pick(created, "shopstream_partition_rebuilding", Gauge)
        self.halted = _pick(created, "shopstream_halted", Gauge)
        self.halted_records = _pick(created, "shopstream_halted_records", Counter)
        self.gate_status = _pick(created, "shopstream_gate_status", Gauge)
        self.gate_value = _pick(created, "shopstream_gate_value", Gauge)
        self.braked = _pick(created, "shopstream_partition_braked", Gauge)
        self.expired = _pick(created, "shopstream_expired_records", Counter)
        self.absent = _pick(created, "shopstream_absent_offsets", Counter)
        self.rows_flushed = _pick(created, "shopstream_rows_flushed", Counter)
        self.rows_dropped = _pick(created, "shopstream_rows_dropped", Counter)
        self.flush_seconds = _pick(created, "shopstream_flush_seconds", Histogram)
        self.buffered_rows = _pick(created, "shopstream_buffered_rows", Gauge)
        self.cached_states = _pick(created, "shopstream_cached_states", Gauge)

    def dead_letter(self, letter: DeadLetter) -> None:
        """Count one dead letter."""
        self.records.labels(letter.topic, "dead_letter").inc()
        self.dead_letters.labels(letter.topic, letter.reason.value).inc()

    def flushed(self, report: FlushReport, seconds: float) -> None:
        """Count the rows of one flush."""
        self.flush_seconds.observe(seconds)
        for table, counts in report.tables.items():
            self.rows_flushed.labels(table).inc(counts.written)
            self.rows_dropped.labels(table).inc(counts.dropped)


def _pick(created: Mapping[str, MetricWrapperBase], name: str, kind: type[Wrapper]) -> Wrapper:
    metric = created[name]
    if not isinstance(metric, kind):
        raise TypeError(f"{name} is declared as another type than {kind.__name__}")
    return metric
