"""How the workers of a group are doing, seen from outside: what Kafka knows of the group, and what workers report."""

import json
import urllib.error
import urllib.request
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from prometheus_client.parser import text_string_to_metric_families

from config.settings import Settings
from schemas.errors import BrokerUnavailableError
from schemas.event import EVENT_TOPICS
from schemas.kafka_client import client_settings
from schemas.topics import describe_topics
from streams.ports import TopicPartition


@dataclass(frozen=True, slots=True)
class PartitionLag:
    """One partition, from Kafka's side.

    Attributes:
        produced: next offset that a new record will get.
        committed: next offset that the group has committed; None before its first commit.
    """

    tp: TopicPartition
    earliest: int
    produced: int
    committed: int | None

    @property
    def lag_records(self) -> int:
        """Return how many records the group has not committed."""
        return self.produced - (self.earliest if self.committed is None else self.committed)


@dataclass(slots=True)
class WorkerReport:
    """What running workers report on their metrics endpoints, added up.

    Attributes:
        outcomes: records by outcome.
        dead_letters: dead letters by reason.
        read: next offset of each partition that a worker owns.
        freshness_s: upper bounds of the histogram's buckets, and how many batches lie below each.
        rss_bytes: resident memory of all workers.
    """

    worker_count: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    dead_letters: Counter[str] = field(default_factory=Counter)
    read: dict[TopicPartition, int] = field(default_factory=dict)
    freshness_s: Counter[float] = field(default_factory=Counter)
    conflicts: int = 0
    rebuilding: int = 0
    rss_bytes: int = 0

    def freshness_quantile_ms(self, quantile: float) -> float | None:
        """Return the smallest bucket bound that covers `quantile` of the batches, in ms; None without a batch."""
        bounds = sorted(self.freshness_s)
        if not bounds or not self.freshness_s[bounds[-1]]:
            return None
        total = self.freshness_s[bounds[-1]]
        return next(1000 * bound for bound in bounds if self.freshness_s[bound] >= quantile * total)


def partition_lags(settings: Settings) -> list[PartitionLag]:
    """Ask Kafka for the positions of every event partition, in order.

    Raises:
        BrokerUnavailableError: Kafka does not answer.
        TopicError: an event topic does not exist.
    """
    from confluent_kafka import ConsumerGroupTopicPartitions, KafkaException
    from confluent_kafka import TopicPartition as NativePartition
    from confluent_kafka.admin import AdminClient, OffsetSpec

    topics = describe_topics(settings)
    partitions = [
        NativePartition(topic, number) for topic in EVENT_TOPICS for number in range(topics[topic].partition_count)
    ]
    admin = AdminClient(client_settings(settings.kafka))
    timeout_s = settings.kafka.timeout_s
    group = ConsumerGroupTopicPartitions(settings.worker.group_id, partitions)
    asked = admin.list_consumer_group_offsets([group], request_timeout=timeout_s)
    earliest = admin.list_offsets({tp: OffsetSpec.earliest() for tp in partitions}, request_timeout=timeout_s)
    latest = admin.list_offsets({tp: OffsetSpec.latest() for tp in partitions}, request_timeout=timeout_s)
    try:
        committed = {
            (tp.topic, tp.partition): tp.offset
            for tp in asked[settings.worker.group_id].result(timeout_s).topic_partitions
        }
        return [
            PartitionLag(
                tp=TopicPartition(tp.topic, tp.partition),
                earliest=earliest[tp].result(timeout_s).offset,
                produced=latest[tp].result(timeout_s).offset,
                committed=offset if (offset := committed.get((tp.topic, tp.partition), -1)) >= 0 else None,
            )
            for tp in partitions
        ]
    except (KafkaException, TimeoutError) as error:
        raise BrokerUnavailableError(
            f"Kafka at {settings.kafka.bootstrap_servers} did not tell the group's offsets ({error}).",
            hint="Check it with `shopstream doctor`.",
        ) from error


def read_workers(settings: Settings) -> WorkerReport:
    """Add up what the workers that were started under this home report; a worker that is gone is left out."""
    report = WorkerReport()
    for path in sorted((settings.home / "workers").glob("*.json")):
        entry = json.loads(path.read_text())
        try:
            with urllib.request.urlopen(entry["metrics"], timeout=2) as answer:  # noqa: S310 - our own file
                text = answer.read().decode()
            report.rss_bytes += psutil.Process(entry["pid"]).memory_info().rss
        except (urllib.error.URLError, TimeoutError, psutil.NoSuchProcess):
            _forget_if_dead(path, entry["pid"])
            continue
        _add(report, text)
    return report


def _forget_if_dead(path: Path, pid: int) -> None:
    if not psutil.pid_exists(pid):
        path.unlink(missing_ok=True)  # the worker was killed and could not do it


def _add(report: WorkerReport, text: str) -> None:
    report.worker_count += 1
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            _add_sample(report, sample)


def _add_sample(report: WorkerReport, sample: Any) -> None:
    labels, value = sample.labels, sample.value
    match sample.name:
        case "shopstream_records_total":
            report.outcomes[labels["outcome"]] += int(value)
        case "shopstream_dead_letters_total":
            report.dead_letters[labels["reason"]] += int(value)
        case "shopstream_next_offset":
            tp = TopicPartition(labels["topic"], int(labels["partition"]))
            report.read[tp] = max(report.read.get(tp, 0), int(value))
        case "shopstream_freshness_seconds_bucket":
            report.freshness_s[float(labels["le"])] += int(value)
        case "shopstream_conflicts_total":
            report.conflicts += int(value)
        case "shopstream_partition_rebuilding":
            report.rebuilding += int(value)
