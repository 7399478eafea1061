"""How the workers of a group are doing, seen from outside: what Kafka knows of the group, and what workers report."""

import http.client
import json
import urllib.request
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import tenacity
from prometheus_client.parser import text_string_to_metric_families

from config.definition import versioned
from config.settings import Settings
from schemas.errors import BrokerUnavailableError
from schemas.event import EVENT_TOPICS
from schemas.kafka_client import access_error, client_settings
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
        halted: since when nothing is applied to a partition, integer milliseconds UTC, where that is so.
        braked: the most frequent reason of each partition that was stopped because too many of its records fail.
        rss_bytes: resident memory of all workers.
    """

    worker_count: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    dead_letters: Counter[str] = field(default_factory=Counter)
    read: dict[TopicPartition, int] = field(default_factory=dict)
    freshness_s: Counter[float] = field(default_factory=Counter)
    conflicts: int = 0
    rebuilding: int = 0
    halted: dict[TopicPartition, int] = field(default_factory=dict)
    braked: dict[TopicPartition, str] = field(default_factory=dict)
    rss_bytes: int = 0

    def freshness_quantile_ms(self, quantile: float) -> float | None:
        """Return the smallest bucket bound that covers `quantile` of the batches, in ms; None without a batch."""
        bounds = sorted(self.freshness_s)
        if not bounds or not self.freshness_s[bounds[-1]]:
            return None
        total = self.freshness_s[bounds[-1]]
        return next(1000 * bound for bound in bounds if self.freshness_s[bound] >= quantile * total)


class GroupLags:
    """Asks Kafka how far the group is, over one connection.

    Raises:
        BrokerUnavailableError: Kafka does not answer.
        BrokerAccessError: it does not let us in, or not see this.
        TopicError: an event topic does not exist.
    """

    def __init__(self, settings: Settings) -> None:
        from confluent_kafka import Consumer
        from confluent_kafka.admin import AdminClient

        self._settings = settings
        topics = describe_topics(settings)
        self._partitions = [
            TopicPartition(topic, number) for topic in EVENT_TOPICS for number in range(topics[topic].partition_count)
        ]
        self._admin = AdminClient(client_settings(settings.kafka))
        # Asks for offsets as a member would, and never joins: the admin client ends the process when the group's
        # coordinator is not known yet (librdkafka issue 5040), and rarely when it is asked for the ends of logs.
        self._member = Consumer(
            client_settings(settings.kafka)
            | {
                "group.id": settings.worker.group_id,
                "enable.auto.commit": False,
                "isolation.level": "read_uncommitted",
            }
        )

    def read(self) -> list[PartitionLag]:
        """Return the positions of every event partition, in order.

        Raises:
            BrokerUnavailableError: Kafka does not answer.
        """
        from confluent_kafka import KafkaException

        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception(is_passing),
            stop=tenacity.stop_after_delay(self._settings.kafka.timeout_s),
            wait=tenacity.wait_fixed(0.1),
            reraise=True,
        )
        try:
            return retrying(self._ask)
        except (KafkaException, TimeoutError) as error:
            refusal = isinstance(error, KafkaException) and access_error(
                error.args[0], self._settings.kafka, f"to see the consumer group {self._settings.worker.group_id}"
            )
            raise refusal or BrokerUnavailableError(
                f"Kafka at {self._settings.kafka.bootstrap_servers} did not tell the group's offsets ({error}).",
                hint="Check it with `shopstream doctor`.",
            ) from error

    def total(self) -> int:
        """Return how many records the group has not committed."""
        return sum(lag.lag_records for lag in self.read())

    def _ask(self) -> list[PartitionLag]:
        from confluent_kafka import TopicPartition as NativePartition

        native = [NativePartition(*tp) for tp in self._partitions]
        ends = [self._ends(partition) for partition in native]
        committed = self._committed(native) if self._is_known() else {}
        return [
            PartitionLag(
                tp=tp,
                earliest=earliest,
                produced=produced,
                committed=offset if (offset := committed.get(tp, -1)) >= 0 else None,
            )
            for tp, (earliest, produced) in zip(self._partitions, ends, strict=True)
        ]

    def _ends(self, partition: Any) -> tuple[int, int]:
        found: tuple[int, int] | None = self._member.get_watermark_offsets(
            partition, timeout=self._settings.kafka.timeout_s
        )
        if found is None:
            raise TimeoutError(f"where {partition.topic}-{partition.partition} ends was not told in time")
        return found

    def _is_known(self) -> bool:
        """Tell whether the group exists; refusals and a coordinator that is not ready are told here."""
        from confluent_kafka import KafkaError, KafkaException

        group, timeout_s = self._settings.worker.group_id, self._settings.kafka.timeout_s
        try:
            self._admin.describe_consumer_groups([group], request_timeout=timeout_s)[group].result(timeout_s)
        except KafkaException as error:
            if error.args[0].code() == KafkaError.GROUP_ID_NOT_FOUND:
                return False
            raise
        return True

    def _committed(self, partitions: list[Any]) -> dict[tuple[str, int], int]:
        from confluent_kafka import KafkaException

        answered = self._member.committed(partitions, timeout=self._settings.kafka.timeout_s)
        for partition in answered:
            if partition.error is not None:
                raise KafkaException(partition.error)
        return {(partition.topic, partition.partition): partition.offset for partition in answered}


def is_passing(error: BaseException) -> bool:
    """Tell whether the broker only asks for patience: a coordinator is being loaded or moved, a topic was just made."""
    from confluent_kafka import KafkaError, KafkaException

    return isinstance(error, KafkaException) and error.args[0].code() in {
        KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
        KafkaError.COORDINATOR_NOT_AVAILABLE,
        KafkaError.NOT_COORDINATOR,
        KafkaError.NOT_LEADER_FOR_PARTITION,
        KafkaError.LEADER_NOT_AVAILABLE,
        KafkaError.FENCED_LEADER_EPOCH,
        KafkaError.UNKNOWN_LEADER_EPOCH,
    }


def workers_folder(settings: Settings) -> Path:
    """Return where the workers of this definition version say where their metrics are."""
    return settings.home / versioned("workers")


def read_workers(settings: Settings) -> WorkerReport:
    """Add up what the workers that were started under this home report; a worker that is gone is left out."""
    report = WorkerReport()
    for path in sorted(workers_folder(settings).glob("*.json")):
        try:
            entry = json.loads(path.read_text())
        except (OSError, ValueError):
            continue  # it ends or starts just now
        try:
            with urllib.request.urlopen(entry["metrics"], timeout=2) as answer:  # noqa: S310 - our own file
                text = answer.read().decode()
            report.rss_bytes += psutil.Process(entry["pid"]).memory_info().rss
        except (OSError, http.client.HTTPException, psutil.NoSuchProcess):  # it may end while it answers
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
        case "shopstream_halted" if value:
            report.halted[TopicPartition(labels["topic"], int(labels["partition"]))] = round(value * 1000)
        case "shopstream_partition_braked" if value:
            report.braked[TopicPartition(labels["topic"], int(labels["partition"]))] = labels["reason"]
