"""What a worker's metrics say of its partitions and batches."""

from collections import Counter
from collections.abc import Mapping

from feature_repo.fence import PartitionStatus
from features.apply import Outcome
from streams.brake import Braked
from streams.decoding import DecodedBatch
from streams.metrics import WorkerMetrics
from streams.ports import TopicPartition
from streams.progress import PartitionProgress


class PartitionCounts:
    """Publishes where partitions are, and counts every record of a batch as exactly one outcome."""

    def __init__(self, metrics: WorkerMetrics) -> None:
        self._metrics = metrics

    def opened(self, partitions: Mapping[TopicPartition, PartitionProgress]) -> None:
        """Publish where partitions begin."""
        for tp, progress in partitions.items():
            labels = (tp.topic, str(tp.partition))
            self._metrics.next_offset.labels(*labels).set(progress.applied_offset)
            self._metrics.committed_offset.labels(*labels).set(progress.committed_offset or 0)
            self._metrics.rebuilding.labels(*labels).set(progress.status is PartitionStatus.REBUILDING)
            self._metrics.halted.labels(*labels).set(progress.halted_since_ms / 1000)

    def released(self, partitions: Mapping[TopicPartition, PartitionProgress]) -> None:
        """Publish that partitions are somebody else's."""
        for tp, progress in partitions.items():
            labels = (tp.topic, str(tp.partition))
            for gauge in (
                self._metrics.lag, self._metrics.commit_age, self._metrics.rebuilding, self._metrics.halted,
            ):  # fmt: skip
                gauge.labels(*labels).set(0)
            if progress.braked is not None:
                self._metrics.braked.labels(*labels, progress.braked.reason.value).set(0)

    def braked(self, tp: TopicPartition, braked: Braked) -> None:
        """Publish that a partition was stopped."""
        self._metrics.braked.labels(tp.topic, str(tp.partition), braked.reason.value).set(1)

    def freed(self, progress: PartitionProgress, braked: Braked | None) -> None:
        """Publish that a partition is read again from where it was halted."""
        labels = (progress.tp.topic, str(progress.tp.partition))
        self._metrics.halted.labels(*labels).set(0)
        self._metrics.lag.labels(*labels).set(progress.lag_records)
        if braked is not None:
            self._metrics.braked.labels(*labels, braked.reason.value).set(0)

    def halted(self, work: DecodedBatch, progress: PartitionProgress) -> None:
        """Count a batch of a halted partition: it is read again, and its outcomes are counted then."""
        topic, partition = work.batch.tp.topic, str(work.batch.tp.partition)
        self._metrics.halted_records.labels(topic).inc(len(work.batch.records))
        self._metrics.batches.labels(topic).inc()
        self._metrics.lag.labels(topic, partition).set(progress.lag_records)

    def done(self, work: DecodedBatch, progress: PartitionProgress, servable_ms: int) -> None:
        """Count a batch that is in the online store."""
        topic, partition = work.batch.tp.topic, str(work.batch.tp.partition)
        outcomes = Counter(outcome for item in work.folds.values() for outcome in item.outcomes)
        if erased_count := work.erased_count + sum(item.erased_count for item in work.folds.values()):
            outcomes[Outcome.REDELIVERED] += erased_count
        for outcome, count in outcomes.items():
            self._metrics.records.labels(topic, outcome.value).inc(count)
        for letter in work.letters:
            self._metrics.dead_letter(letter)
        self._metrics.forgotten.labels(topic).inc(sum(item.forgotten_count for item in work.folds.values()))
        self._metrics.batches.labels(topic).inc()
        waited_ms = max(0, servable_ms - work.batch.records[0].append_time_ms)
        self._metrics.freshness.labels(topic).observe(waited_ms / 1000)
        self._metrics.lag.labels(topic, partition).set(progress.lag_records)
        self._metrics.next_offset.labels(topic, partition).set(progress.applied_offset)
