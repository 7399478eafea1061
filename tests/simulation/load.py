"""The traffic of one simulated run: records of every kind, when each arrives, and what must become of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, auto
from functools import cache
from random import Random
from typing import Final

from msgspec import structs

from schemas.encoder import Encoder
from schemas.event import CARTS_TOPIC, CLICKS_TOPIC, EVENT_TOPICS, KINDS_BY_TOPIC, Event, Record
from schemas.partitioner import partition_of
from schemas.topics import TopicInfo
from streams.ports import TopicPartition

BASE_MS: Final = 1_700_000_000_000
MINUTE_MS: Final = 60_000
SCHEMA_IDS: Final = {CLICKS_TOPIC: 1, CARTS_TOPIC: 2}
LATE_SCHEMA_ID: Final = 3  # clicks, registered while the run is under way
NO_SCHEMA_ID: Final = 99

LogsByUser = dict[tuple[str, str], list[tuple[int, Event]]]


class Fate(Enum):
    """What must become of a record."""

    EVENT = auto()
    LETTER = auto()
    EITHER = auto()  # its schema was registered late: an event or a dead letter, or (ADR 0004, 0012) both


@dataclass(frozen=True, slots=True)
class Produced:
    """One record of the load.

    Attributes:
        at_s: virtual time of its arrival.
        event: what it holds, None for a sure dead letter.
    """

    record: Record
    at_s: float
    fate: Fate
    event: Event | None

    @property
    def tp(self) -> TopicPartition:
        """Return its partition."""
        return TopicPartition(self.record.topic, self.record.partition)


@dataclass(frozen=True)
class Load:
    """All records, in the order of their arrival.

    Attributes:
        late_schema_at_s: when the late schema becomes known.
    """

    topics: Mapping[str, TopicInfo]
    produced: list[Produced]
    late_schema_at_s: float
    users: tuple[str, ...]

    @property
    def partitions(self) -> list[TopicPartition]:
        """Return every partition, in order."""
        return [TopicPartition(info.topic, n) for info in self.topics.values() for n in range(info.partition_count)]

    def by_user(self) -> LogsByUser:
        """Return the sure events of each topic and user, in log order."""
        logs: LogsByUser = {}
        for made in self.produced:
            if made.event is not None and made.fate is Fate.EVENT:
                logs.setdefault((made.record.topic, made.event.user_id), []).append((made.record.offset, made.event))
        return logs

    def uncertain_users(self) -> set[tuple[str, str]]:
        """Return the users who have events of the late schema."""
        return {
            (made.record.topic, made.event.user_id)
            for made in self.produced
            if made.event is not None and made.fate is Fate.EITHER
        }


@cache
def _encoder(schema_id: int | None = None) -> Encoder:
    return Encoder(SCHEMA_IDS if schema_id is None else dict.fromkeys(EVENT_TOPICS, schema_id))


def make_load(rng: Random) -> Load:
    """Make the load of a run."""
    return _Maker(rng).load()


@dataclass
class _Maker:
    rng: Random
    made: list[Produced] = field(default_factory=list)
    next_offsets: dict[TopicPartition, int] = field(default_factory=dict)
    recent: dict[str, list[Event]] = field(default_factory=lambda: {topic: [] for topic in EVENT_TOPICS})

    def load(self) -> Load:
        rng = self.rng
        self.counts = {topic: rng.choice((1, 1, 2, 3)) for topic in EVENT_TOPICS}
        self.users = tuple(f"user-{n}" for n in range(rng.randint(2, 6)))
        self.span_ms = rng.choice((4, 40, 40, 300, 1_560)) * MINUTE_MS
        self.carts_behind_ms = rng.choice((0, 0, 14 * MINUTE_MS))
        self.late_share = rng.choice((0.0, 0.05))
        self.broken_share = rng.choice((0.0, 0.03, 0.15))
        self.late_schema_share = rng.choice((0.0, 0.08))
        gap_share = rng.choice((0.0, 0.0, 0.03))
        count = rng.randint(10, 70)
        duration_s = rng.choice((2.0, 6.0, 12.0))
        for number in range(count):
            at_s = duration_s * number / count
            if rng.random() < gap_share:
                tp = self._partition(rng.choice(EVENT_TOPICS), rng.choice(self.users))
                self.next_offsets[tp] = self.next_offsets.get(tp, 0) + rng.randint(1, 3)
            self._one(number, at_s, number / count)
        topics = {
            topic: TopicInfo(topic, f"id-{topic}", partitions, "LogAppendTime")
            for topic, partitions in self.counts.items()
        }
        return Load(topics, self.made, duration_s * rng.random() * 1.5, self.users)

    def _partition(self, topic: str, user: str) -> TopicPartition:
        return TopicPartition(topic, partition_of(user.encode(), self.counts[topic]))

    def _one(self, number: int, at_s: float, share_done: float) -> None:
        rng = self.rng
        topic = CLICKS_TOPIC if rng.random() < 0.6 else CARTS_TOPIC
        event = self._event(topic, number, at_s, share_done)
        chance = rng.random()
        if chance < self.broken_share:
            self._broken(topic, event, at_s)
        elif topic == CLICKS_TOPIC and chance > 1 - self.late_schema_share:
            self._append(topic, event.user_id, _encoder(LATE_SCHEMA_ID).event(topic, event), at_s, Fate.EITHER, event)
        else:
            self.recent[topic].append(event)
            self._append(topic, event.user_id, _encoder().event(topic, event), at_s, Fate.EVENT, event)

    def _event(self, topic: str, number: int, at_s: float, share_done: float) -> Event:
        rng = self.rng
        recent = self.recent[topic]
        if recent and rng.random() < 0.12:
            again = rng.choice(recent[-12:])
            return again if rng.random() < 0.7 else structs.replace(again, event_time_ms=again.event_time_ms + 60_000)
        time_ms = BASE_MS + round(at_s * 1000) - round(self.span_ms * (1 - share_done))
        if topic == CARTS_TOPIC:
            time_ms -= self.carts_behind_ms
        chance = rng.random()
        if chance < self.late_share:
            time_ms -= rng.randint(11, 40) * MINUTE_MS
        elif chance < 0.3:
            time_ms -= rng.randint(0, 9 * MINUTE_MS)
        is_cart = topic == CARTS_TOPIC
        return Event(
            event_id=f"e-{number}",
            kind=rng.choice(KINDS_BY_TOPIC[topic]),
            user_id=rng.choice(self.users),
            event_time_ms=time_ms,
            product_id=f"p-{rng.randint(0, 9)}",
            category_id=f"c-{rng.randint(0, 3)}",
            quantity=rng.randint(1, 3) if is_cart else None,
            unit_price_minor=rng.randint(0, 999) if is_cart else None,
            currency="EUR" if is_cart else None,
        )

    def _broken(self, topic: str, event: Event, at_s: float) -> None:
        rng = self.rng
        user, framed = event.user_id, _encoder().event(topic, event)
        kind = rng.randrange(8)
        value: bytes | None = framed
        number: int | None = None
        if kind == 0:
            value = b"junk"
        elif kind == 1:
            value = framed[: len(framed) // 2]
        elif kind == 2:
            value = None
        elif kind == 3:
            value = framed + b"\0"
        elif kind == 4:
            value = _encoder(NO_SCHEMA_ID).event(topic, event)
        elif kind == 5:
            value = _encoder().event(topic, structs.replace(event, kind="dance"))
        elif kind == 6:
            value = _encoder().event(topic, structs.replace(event, event_time_ms=BASE_MS + 3_600_000))
        elif self.counts[topic] > 1:
            number = (self._partition(topic, user).partition + 1) % self.counts[topic]
        else:
            user = "somebody-else"
        self._append(topic, user, value, at_s, Fate.LETTER, None, number)

    def _append(
        self,
        topic: str,
        key: str,
        value: bytes | None,
        at_s: float,
        fate: Fate,
        event: Event | None,
        partition: int | None = None,
    ) -> None:
        tp = self._partition(topic, key) if partition is None else TopicPartition(topic, partition)
        offset = self.next_offsets.get(tp, 0)
        self.next_offsets[tp] = offset + 1
        record = Record(topic, tp.partition, offset, BASE_MS + round(at_s * 1000), key.encode(), value)
        self.made.append(Produced(record, at_s, fate, event))
