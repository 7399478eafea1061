"""What tests of redrive share: records that their producer spoiled, and what the features must be after all."""

import json
import time
import uuid
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from io import BytesIO
from random import Random

from config.settings import Settings
from schemas.event import CLICKS_TOPIC, EVENT_TOPICS, Event
from schemas.loading import load, own_schema
from schemas.partitioner import partition_of
from schemas.producer import Delivery, EventProducer, OnDelivery
from schemas.registry import RegistryClient, register_own_schemas
from schemas.topics import TopicInfo, describe_topics
from tests.oracle import corrected
from traffic.sent_log import Sent
from traffic.timed import BrokenEvent, TimedEvent

SEND_DEADLINE_S = 60.0


@dataclass
class LateSchema:
    """A compatible schema of clicks, with one more field, whose id is used before it is registered.

    The registry counts its ids; so the next one is known before there is one.
    """

    schema_id: int
    text: str

    @classmethod
    def announced(cls, settings: Settings) -> "LateSchema":
        registry = RegistryClient(settings.registry)
        register_own_schemas(registry, EVENT_TOPICS)
        last_id = registry.register(f"later-{uuid.uuid4().hex}", _with_field(f"before_{uuid.uuid4().hex}"))
        registry.close()
        return cls(last_id + 1, _with_field(f"note_{uuid.uuid4().hex}"))

    def register(self, settings: Settings) -> None:
        registry = RegistryClient(settings.registry)
        assert registry.register(f"later-{uuid.uuid4().hex}", self.text) == self.schema_id
        registry.close()

    def frame(self, event: Event) -> bytes:
        from fastavro import schemaless_writer

        fields = {
            name: getattr(event, name) for name in load(own_schema(CLICKS_TOPIC)).field_names if name != "event_time"
        }
        body = BytesIO()
        schemaless_writer(body, load(self.text).wire, {**fields, "event_time": event.event_time_ms})
        return b"\x00" + self.schema_id.to_bytes(4, "big") + body.getvalue()


def _with_field(name: str) -> str:
    schema = json.loads(own_schema(CLICKS_TOPIC))
    schema["fields"].append({"name": name, "type": ["null", "string"], "default": None})
    return json.dumps(schema)


@dataclass
class Spoiled:
    """Everything that was sent, and which of it no worker could read.

    Attributes:
        sent: each event with where it was stored.
        spoiled: positions of those that became dead letters.
    """

    sent: list[Sent] = field(default_factory=list)
    spoiled: set[tuple[str, int, int]] = field(default_factory=set)

    def affected(self) -> set[tuple[str, str]]:
        """Return topic and user of each event that became a dead letter."""
        return {
            (sent.topic, sent.event.user_id)
            for sent in self.sent
            if sent.event is not None and (sent.topic, sent.partition, sent.offset) in self.spoiled
        }

    def as_corrected(self) -> dict[str, list[Sent]]:
        """Return each user's events as they must count: of affected users in event-time order, else in log order."""
        affected = self.affected()
        logs: dict[tuple[str, str], list[tuple[int, Event]]] = {}
        for sent in self.sent:
            assert sent.event is not None
            logs.setdefault((sent.topic, sent.event.user_id), []).append((sent.offset, sent.event))
        users: dict[str, list[Sent]] = {}
        for (topic, user_id), log in logs.items():
            entries = corrected(log) if (topic, user_id) in affected else sorted(log, key=lambda entry: entry[0])
            users.setdefault(user_id, []).extend(Sent(topic, 0, offset, 0, event, None) for offset, event in entries)
        return users


def send_spoiled(
    settings: Settings, events: Iterable[TimedEvent], schema: LateSchema, *, share: float, seed: int = 1
) -> Spoiled:
    """Send events, a share of them as careless producers would: by CRC32, under another key, by an unknown schema."""
    log = Spoiled()
    random = Random(seed)
    topics = describe_topics(settings)
    with EventProducer(settings) as producer:
        for timed in events:
            event = timed.payload
            assert not isinstance(event, BrokenEvent)
            if random.random() < share:
                _send_spoiled(producer, timed.topic, event, topics, schema, random, log)
            else:
                producer.send(timed.topic, event, _noting(log, event, spoiled=False))
        assert producer.flush(SEND_DEADLINE_S) == 0
    return log


def _send_spoiled(
    producer: EventProducer,
    topic: str,
    event: Event,
    topics: Mapping[str, TopicInfo],
    schema: LateSchema,
    random: Random,
    log: Spoiled,
) -> None:
    key, count, note = event.user_id.encode(), topics[topic].partition_count, _noting(log, event, spoiled=True)
    by_crc = zlib.crc32(key) % count
    kind = random.choice(("crc", "key", "schema"))
    if kind == "schema" and topic == CLICKS_TOPIC:
        producer.send_raw(topic, key, schema.frame(event), None, note)
    elif kind == "crc" and by_crc != partition_of(key, count):
        producer.send_raw(topic, key, producer.encode(topic, event), by_crc, note)
    else:
        producer.send_raw(topic, b"cart-" + key, producer.encode(topic, event), None, note)


def _noting(log: Spoiled, event: Event, *, spoiled: bool) -> OnDelivery:
    def note(delivery: Delivery) -> None:
        assert delivery.error is None
        log.sent.append(Sent(delivery.topic, delivery.partition, delivery.offset, delivery.append_time_ms, event, None))
        if spoiled:
            log.spoiled.add((delivery.topic, delivery.partition, delivery.offset))

    return note


def redriven_headers(settings: Settings) -> Iterator[bytes]:
    """Yield the header of each record that was published again, of all topics."""
    from confluent_kafka import Consumer, KafkaError, TopicPartition

    from sinks.republishing import POSITION_HEADER

    consumer = Consumer(
        {
            "bootstrap.servers": settings.kafka.bootstrap_servers,
            "group.id": f"look-{time.time_ns()}",
            "enable.partition.eof": True,
            "enable.auto.commit": False,
        }
    )
    try:
        partitions = [
            TopicPartition(info.topic, number, 0)
            for info in describe_topics(settings).values()
            for number in range(info.partition_count)
        ]
        consumer.assign(partitions)
        ended: set[tuple[str, int]] = set()
        while len(ended) < len(partitions):
            message = consumer.poll(1.0)
            if message is None:
                continue
            if message.error() is not None:
                assert message.error().code() == KafkaError._PARTITION_EOF
                ended.add((message.topic(), message.partition()))
                continue
            header = dict(message.headers() or ()).get(POSITION_HEADER)
            if header is not None:
                yield header
    finally:
        consumer.close()
