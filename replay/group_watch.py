"""Where the logs end, and whether the workers have everything before that in every sink."""

import time
from collections.abc import Callable, Mapping
from typing import Final

import tenacity

from config.settings import Settings
from replay.errors import NotCommittedError
from schemas.errors import BrokerUnavailableError
from schemas.kafka_client import access_error, client_settings
from schemas.topics import TopicInfo
from sinks.erasures import ErasedLog
from streams.observing import GroupLags, is_passing

POLL_S: Final = 0.5
_TOLD_EVERY_S: Final = 5.0


class GroupWatch:
    """The event topics and the workers' consumer group.

    Args:
        topics: the event topics as they are.

    Raises:
        BrokerUnavailableError: Kafka does not answer.
        TopicError: an event topic does not exist.
    """

    def __init__(self, settings: Settings, topics: Mapping[str, TopicInfo]) -> None:
        from confluent_kafka.admin import AdminClient

        self._settings = settings
        self._topics = topics
        self._lags = GroupLags(settings)
        self._admin = AdminClient(client_settings(settings.kafka))

    def ends(self) -> dict[ErasedLog, int]:
        """Return the next offset of each partition.

        Raises:
            BrokerUnavailableError: Kafka does not answer.
        """
        return {self._log(lag.tp.topic, lag.tp.partition): lag.produced for lag in self._lags.read()}

    def unread(self, ends: Mapping[ErasedLog, int]) -> dict[ErasedLog, int]:
        """Return how many records before these ends the group has not committed, where there are any.

        Raises:
            BrokerUnavailableError: Kafka does not answer.
        """
        left = {}
        for lag in self._lags.read():
            log = self._log(lag.tp.topic, lag.tp.partition)
            done = lag.earliest if lag.committed is None else lag.committed
            if ends.get(log, 0) > done:
                left[log] = ends[log] - done
        return left

    def is_live(self) -> bool:
        """Tell whether a worker is a member of the group; one that was killed is for `worker.session_timeout_ms`.

        Raises:
            BrokerUnavailableError: Kafka does not answer.
        """
        from confluent_kafka import KafkaError, KafkaException

        group_id, kafka = self._settings.worker.group_id, self._settings.kafka
        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception(is_passing),
            stop=tenacity.stop_after_delay(kafka.timeout_s),
            wait=tenacity.wait_fixed(0.1),
            reraise=True,
        )
        try:
            return retrying(self._has_members, group_id)
        except (KafkaException, TimeoutError) as error:
            answer = error.args[0] if isinstance(error, KafkaException) else None
            if answer is not None and answer.code() == KafkaError.GROUP_ID_NOT_FOUND:
                return False
            refusal = answer and access_error(answer, kafka, f"to see the consumer group {group_id}")
            raise refusal or BrokerUnavailableError(
                f"Kafka at {kafka.bootstrap_servers} did not describe the consumer group {group_id} ({error}).",
                hint="Check it with `shopstream doctor`.",
            ) from error

    def _has_members(self, group_id: str) -> bool:
        timeout_s = self._settings.kafka.timeout_s
        asked = self._admin.describe_consumer_groups([group_id], request_timeout=timeout_s)
        return bool(asked[group_id].result(timeout_s).members)

    def wait_past(
        self,
        ends: Mapping[ErasedLog, int],
        deadline_s: float,
        progress: Callable[[str], None],
        *,
        sleep: Callable[[float], None] = time.sleep,
    ) -> int:
        """Wait until the group has committed everything before these ends, or no worker runs.

        Returns:
            How many records before the ends nobody has read; 0 unless no worker runs.

        Raises:
            NotCommittedError: workers run, and have not come so far in time.
            BrokerUnavailableError: Kafka does not answer.
        """
        started_s = time.monotonic()
        told_s = started_s
        while left := self.unread(ends):
            count = sum(left.values())
            if not self.is_live():
                return count
            now_s = time.monotonic()
            if now_s - started_s >= deadline_s:
                raise NotCommittedError(self._settings.worker.group_id, len(left), count, deadline_s)
            if now_s - told_s >= _TOLD_EVERY_S:
                progress(f"waiting for the workers to commit {count:,} records of {len(left)} partitions")
                told_s = now_s
            sleep(POLL_S)
        return 0

    def _log(self, topic: str, partition: int) -> ErasedLog:
        return ErasedLog(self._topics[topic].topic_id, topic, partition)
