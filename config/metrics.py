"""Every metric of every process: name, type, labels and meaning, in one place.

`streams` and `serving` create what they serve from this list, so a metric that is not declared here does not exist.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class MetricKind(StrEnum):
    """Prometheus metric types in use."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True)
class MetricSpec:
    """One metric.

    Attributes:
        name: as Prometheus shows it, without the `_total` that counters get.
        labels: label names; their values come from small fixed sets, or from partitions.
        buckets: upper bounds of a histogram, in the metric's unit.
    """

    name: str
    kind: MetricKind
    description: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()


_LATENCY_S: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0, 600.0)
_PARTITION: Final = ("topic", "partition")

WORKER_METRICS: Final = (
    MetricSpec(
        "shopstream_records",
        MetricKind.COUNTER,
        "Records read, each counted as exactly one outcome: applied, duplicate, late, dead_letter or redelivered",
        ("topic", "outcome"),
    ),
    MetricSpec("shopstream_dead_letters", MetricKind.COUNTER, "Dead letters, by reason", ("topic", "reason")),
    MetricSpec(
        "shopstream_dedupe_forgotten",
        MetricKind.COUNTER,
        "Event ids that a state had to forget within the allowed lateness: their duplicates would count",
        ("topic",),
    ),
    MetricSpec("shopstream_batches", MetricKind.COUNTER, "Batches processed", ("topic",)),
    MetricSpec(
        "shopstream_batch_seconds",
        MetricKind.HISTOGRAM,
        "Time of one step of the batch loop: decode, judge (the gates), load, apply, push or fence",
        ("topic", "step"),
        _LATENCY_S,
    ),
    MetricSpec(
        "shopstream_freshness_seconds",
        MetricKind.HISTOGRAM,
        "From the broker's append of a batch's oldest record to its features being readable",
        ("topic",),
        _LATENCY_S,
    ),
    MetricSpec("shopstream_states_pushed", MetricKind.COUNTER, "States written to the online store", ("topic",)),
    MetricSpec(
        "shopstream_conflicts",
        MetricKind.COUNTER,
        "Online writes refused: the stored state was newer",
        ("topic",),
    ),
    MetricSpec("shopstream_sink_retries", MetricKind.COUNTER, "Failed tries of a sink", ("sink",)),
    MetricSpec("shopstream_lag_records", MetricKind.GAUGE, "Records in the log that were not read yet", _PARTITION),
    MetricSpec("shopstream_next_offset", MetricKind.GAUGE, "Next offset to be applied", _PARTITION),
    MetricSpec("shopstream_committed_offset", MetricKind.GAUGE, "Offset last committed to Kafka", _PARTITION),
    MetricSpec(
        "shopstream_commit_age_seconds",
        MetricKind.GAUGE,
        "How long the oldest processed record has waited for its commit; 0 when all are committed",
        _PARTITION,
    ),
    MetricSpec(
        "shopstream_partition_rebuilding",
        MetricKind.GAUGE,
        "1 while states of the partition are incomplete and wait for a replay",
        _PARTITION,
    ),
    MetricSpec(
        "shopstream_halted",
        MetricKind.GAUGE,
        "Since when nothing is applied to the partition because a gate halted its view, in Unix seconds; 0 otherwise",
        _PARTITION,
    ),
    MetricSpec(
        "shopstream_halted_records",
        MetricKind.COUNTER,
        "Records read while their partition was halted: only their raw rows are kept, and they are read again after it",
        ("topic",),
    ),
    MetricSpec(
        "shopstream_gate_status",
        MetricKind.GAUGE,
        "What a gate says of what this worker read: 0 pass, 1 fail, -1 unknown, 2 overridden",
        ("topic", "gate"),
    ),
    MetricSpec(
        "shopstream_gate_value",
        MetricKind.GAUGE,
        "What the gate compares: a share (nulls, references), records (schema), an age in ms (freshness)",
        ("topic", "gate"),
    ),
    MetricSpec(
        "shopstream_partition_braked",
        MetricKind.GAUGE,
        "1 while the partition is stopped because too many of its records fail, with the most frequent reason",
        (*_PARTITION, "reason"),
    ),
    MetricSpec(
        "shopstream_expired_records",
        MetricKind.COUNTER,
        "Records that retention removed before they were read",
        _PARTITION,
    ),
    MetricSpec(
        "shopstream_absent_offsets",
        MetricKind.COUNTER,
        "Offsets between two records of the log that hold none: transactions, compaction",
        _PARTITION,
    ),
    MetricSpec("shopstream_rows_flushed", MetricKind.COUNTER, "Rows committed to the lake", ("table",)),
    MetricSpec(
        "shopstream_rows_dropped",
        MetricKind.COUNTER,
        "Rows not written because the lake already held them (redelivery)",
        ("table",),
    ),
    MetricSpec("shopstream_flush_seconds", MetricKind.HISTOGRAM, "Time of one flush to the lake", (), _LATENCY_S),
    MetricSpec("shopstream_buffered_rows", MetricKind.GAUGE, "Rows that wait for the next flush"),
    MetricSpec("shopstream_cached_states", MetricKind.GAUGE, "States held in memory", ("topic",)),
)

SERVING_METRICS: Final = (
    MetricSpec(
        "shopstream_served_rows",
        MetricKind.COUNTER,
        "Sampled answers of readers, by outcome: written to the lake, or dropped because it took too few",
        ("outcome",),
    ),
    MetricSpec(
        "shopstream_recommendation_rows",
        MetricKind.COUNTER,
        "Records of recommendations, by outcome: written to the lake, or dropped because it took too few",
        ("outcome",),
    ),
    MetricSpec(
        "shopstream_recommend_seconds",
        MetricKind.HISTOGRAM,
        "Time of one recommendation, features included, by the role of the model that gave it",
        ("role",),
        _LATENCY_S,
    ),
    MetricSpec(
        "shopstream_model_failures",
        MetricKind.COUNTER,
        "Answers that a model owed and others gave, by its role and the cause: error, timeout, refused or features",
        ("role", "cause"),
    ),
)

SKEW_METRICS: Final = (
    MetricSpec("shopstream_skew_rows", MetricKind.GAUGE, "Served answers of the last audit, by result", ("result",)),
    MetricSpec(
        "shopstream_skew_mismatches",
        MetricKind.GAUGE,
        "Served values of the last audit that are not what should have been served, by feature and cause",
        ("feature", "cause"),
    ),
    MetricSpec("shopstream_skew_audited_until_seconds", MetricKind.GAUGE, "End of the range of the last audit"),
)

DRIFT_METRICS: Final = (
    MetricSpec(
        "shopstream_drift_reference_created_seconds",
        MetricKind.GAUGE,
        "When the reference came in force that windows are compared with, in Unix seconds; 0 without one",
    ),
    MetricSpec(
        "shopstream_drift_windows",
        MetricKind.GAUGE,
        "Of the newest 200 windows those compared with the reference in force, by outcome: quiet, alarm or unjudged",
        ("outcome",),
    ),
    MetricSpec(
        "shopstream_drift_judged_until_seconds", MetricKind.GAUGE, "End of the newest window that was looked at, or 0"
    ),
    MetricSpec(
        "shopstream_drift_in_row", MetricKind.GAUGE, "Windows in a row, up to the newest, in which the same has drifted"
    ),
    MetricSpec("shopstream_drift_is_due", MetricKind.GAUGE, "1 while those are enough to ask for a retraining"),
    MetricSpec(
        "shopstream_drift_psi",
        MetricKind.GAUGE,
        "Population Stability Index of each variable in the newest window",
        ("variable",),
    ),
    MetricSpec(
        "shopstream_drift_requests", MetricKind.GAUGE, "Requests for a retraining, by their newest step", ("step",)
    ),
    MetricSpec(
        "shopstream_drift_silenced_until_seconds", MetricKind.GAUGE, "Until when no retraining is asked for; 0 if it is"
    ),
    MetricSpec("shopstream_drift_outbox", MetricKind.GAUGE, "Deliveries that wait for their receiver"),
    MetricSpec("shopstream_drift_watched_seconds", MetricKind.GAUGE, "When the watch last went round, in Unix seconds"),
    MetricSpec(
        "shopstream_drift_part_failing",
        MetricKind.GAUGE,
        "1 while a part of the watch fails: gates, windows, outbox, training or rollout",
        ("part",),
    ),
)
