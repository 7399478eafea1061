"""What an erasure works on: Kafka, the workers' group, the online store, the key of the hashes."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from config.settings import Settings
from replay.group_watch import GroupWatch
from replay.last_copies import LastCopy, last_copies
from schemas.event import DEAD_LETTERS_TOPIC, EVENT_TOPICS
from schemas.partitioner import partition_of
from schemas.privacy import Pseudonyms
from schemas.topics import TopicInfo, describe_topics
from sinks.erasures import ErasedLog
from sinks.lake_root import lake_of, local_folder

if TYPE_CHECKING:
    from feature_repo.erasing import ErasedStates

Progress = Callable[[str], None]


class Watch(Protocol):
    """The workers' progress, as `GroupWatch` tells it."""

    def ends(self) -> dict[ErasedLog, int]:
        """Return the next offset of each partition."""
        ...

    def unread(self, ends: Mapping[ErasedLog, int]) -> dict[ErasedLog, int]:
        """Return how many records before these ends the group has not committed."""
        ...

    def is_live(self) -> bool:
        """Tell whether a worker runs."""
        ...

    def wait_past(self, ends: Mapping[ErasedLog, int], deadline_s: float, progress: Progress) -> int:
        """Wait until the workers have written everything before these ends; return how many records nobody read."""
        ...


@dataclass(frozen=True, slots=True)
class Ports:
    """What an erasure works on.

    Attributes:
        topics: the event topics as they are.
        now_ms: wall clock, integer milliseconds UTC.
        halted: topics to which nothing is applied at present.
    """

    settings: Settings
    pseudonyms: Pseudonyms
    topics: Mapping[str, TopicInfo]
    watch: Watch
    states: "ErasedStates"
    progress: Progress
    now_ms: Callable[[], int] = field(default=lambda: time.time_ns() // 1_000_000)
    halted: Callable[[], Sequence[str]] = field(default=lambda: ())

    @classmethod
    def open(cls, settings: Settings, progress: Progress = lambda _: None) -> "Ports":
        """Connect to Kafka and Redis; close it.

        Raises:
            SettingsError: privacy.key or an address is not set.
            LakeNotLocalError: the lake is in an object store.
            BrokerUnavailableError, TopicError: Kafka does not answer, or has no such topic.
        """
        from feature_repo.erasing import ErasedStates
        from feature_repo.fence import FenceStore
        from feature_repo.opening import open_feature_store

        local_folder(lake_of(settings), "An erasure")
        pseudonyms = Pseudonyms.required(settings.privacy)
        settings.require("kafka", "redis")
        described = describe_topics(settings)
        topics = {topic: described[topic] for topic in EVENT_TOPICS}
        store = open_feature_store(settings)
        fences = FenceStore.beside(store)

        def halted() -> list[str]:
            return [topic for topic in topics if any(each.is_halted for each in fences.read_blocking(topic).values())]

        watch = GroupWatch(settings, topics)
        return cls(settings, pseudonyms, topics, watch, ErasedStates(store), progress, halted=halted)

    def close(self) -> None:
        """Close the connection to Redis."""
        self.states.close()

    @property
    def logs(self) -> list[ErasedLog]:
        """Every partition of the event topics."""
        return [
            ErasedLog(info.topic_id, topic, number)
            for topic, info in self.topics.items()
            for number in range(info.partition_count)
        ]

    def own_log(self, topic: str, user_id: str) -> ErasedLog:
        """Return the log that a user's key belongs to."""
        info = self.topics[topic]
        return ErasedLog(info.topic_id, topic, partition_of(user_id.encode(), info.partition_count))

    def copies(self) -> list[LastCopy]:
        """Tell until when Kafka keeps what was written."""
        # letters that are published without their bytes name nobody
        letters = () if self.settings.privacy.pseudonymise else (DEAD_LETTERS_TOPIC,)
        return last_copies(self.settings, (*EVENT_TOPICS, *letters), self.now_ms())
