"""The event contract on a real broker and a real registry."""

import asyncio
import json
import random
import struct
import time
import uuid
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiokafka import AIOKafkaConsumer
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, ResourceType
from confluent_kafka.schema_registry import SchemaRegistryClient, topic_subject_name_strategy
from confluent_kafka.schema_registry.avro import AvroSerializer
from confluent_kafka.serialization import MessageField, SerializationContext

from cli.main import run
from config.settings import Settings
from schemas.codec import Codec, Decoded
from schemas.dead_letter import DeadLetter, Reason
from schemas.encoder import subject_of
from schemas.errors import DeliveryError, IncompatibleSchemaError, TopicError, UnknownSubjectError
from schemas.event import CARTS_TOPIC, CLICKS_TOPIC, DEAD_LETTERS_TOPIC, EVENT_TOPICS, Event, Record
from schemas.loading import own_schema
from schemas.partitioner import partition_of
from schemas.producer import Delivery, EventProducer
from schemas.registry import COMPATIBILITY, RegistryClient, register_own_schemas
from schemas.topics import ALL_TOPICS, describe_topics, ensure_topics
from tests.waiting import wait_until

pytestmark = pytest.mark.stack

DEADLINE_S = 60


@pytest.fixture
def registry(settings: Settings) -> Iterator[RegistryClient]:
    with closing(RegistryClient(settings.registry)) as client:
        register_own_schemas(client, ALL_TOPICS)
        yield client


@pytest.fixture
def codec(settings: Settings, registry: RegistryClient) -> Codec:
    return Codec(
        registry,
        limits=settings.events,
        unknown_id_ttl_s=settings.registry.unknown_id_ttl_s,
        clock_ms=lambda: time.time_ns() // 1_000_000,
    )


@pytest.fixture
def producer(settings: Settings, registry: RegistryClient, topics: tuple[str, ...]) -> Iterator[EventProducer]:
    with EventProducer(settings) as made:
        yield made


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def clicks(count: int) -> list[Event]:
    return [
        Event(event_id=f"e-{at}", kind="click", user_id=f"ü-{at % 37}", event_time_ms=now_ms(), page=f"/{at}")
        for at in range(count)
    ]


def read(settings: Settings, topic: str, count: int) -> list[Record]:
    """Read a topic from its beginning, as the worker's client does."""

    async def consume() -> list[Record]:
        consumer = AIOKafkaConsumer(
            topic,
            bootstrap_servers=settings.kafka.bootstrap_servers,
            auto_offset_reset="earliest",
            enable_auto_commit=False,
            max_partition_fetch_bytes=8 * 1024 * 1024,
        )
        await consumer.start()
        found: list[Record] = []
        try:
            async with asyncio.timeout(DEADLINE_S):
                while len(found) < count:
                    message = await consumer.getone()
                    assert message.timestamp_type == 1, "LogAppendTime"
                    found.append(
                        Record(
                            topic=message.topic,
                            partition=message.partition,
                            offset=message.offset,
                            append_time_ms=message.timestamp,
                            key=message.key,
                            value=message.value,
                        )
                    )
        finally:
            await consumer.stop()
        return found

    return asyncio.run(consume())


def decode_all(codec: Codec, records: list[Record], partition_count: int) -> list[Decoded | DeadLetter]:
    codec.resolve(codec.unresolved(records))
    return [codec.decode(record, partition_count) for record in records]


def events_of(results: list[Decoded | DeadLetter]) -> list[Event]:
    assert [result for result in results if isinstance(result, DeadLetter)] == []
    return sorted((result.event for result in results if isinstance(result, Decoded)), key=lambda event: event.event_id)


def test_registering_twice_changes_nothing(registry: RegistryClient) -> None:
    first = register_own_schemas(registry, ALL_TOPICS)
    assert register_own_schemas(registry, ALL_TOPICS) == first
    for topic, schema_id in first.items():
        subject = subject_of(topic)
        assert registry.compatibility(subject) == COMPATIBILITY
        assert registry.lookup(subject, own_schema(topic)) == schema_id
        assert registry.latest(subject).schema_id == schema_id
        assert [version.version for version in registry.versions(subject)] == [1]
        assert json.loads(registry.fetch(schema_id)) == json.loads(own_schema(topic))


def test_the_registry_refuses_what_cannot_read_older_events(registry: RegistryClient) -> None:
    subject = f"test-{uuid.uuid4().hex}-value"
    registry.set_compatibility(subject, COMPATIBILITY)
    registry.register(subject, own_schema(CARTS_TOPIC))
    schema = json.loads(own_schema(CARTS_TOPIC))
    schema["fields"].append({"name": "coupon", "type": "string"})
    with pytest.raises(IncompatibleSchemaError):
        registry.register(subject, json.dumps(schema))
    assert len(registry.versions(subject)) == 1


def test_a_schema_that_is_not_registered(registry: RegistryClient) -> None:
    with pytest.raises(UnknownSubjectError, match="schema register"):
        registry.lookup(f"test-{uuid.uuid4().hex}-value", own_schema(CARTS_TOPIC))


def test_topics_keep_the_brokers_time_and_take_8_mb(settings: Settings, topics: tuple[str, ...]) -> None:
    found = ensure_topics(settings)
    assert found == ensure_topics(settings) == describe_topics(settings)
    assert [found[topic].partition_count for topic in EVENT_TOPICS] == [settings.kafka.partitions] * 2
    assert {info.timestamp_type for info in found.values()} == {"LogAppendTime"}
    admin = AdminClient({"bootstrap.servers": settings.kafka.bootstrap_servers})
    resource = ConfigResource(ResourceType.TOPIC, CLICKS_TOPIC)
    config = admin.describe_configs([resource])[resource].result(DEADLINE_S)
    assert config["max.message.bytes"].value == str(8 * 1024 * 1024)


def test_a_topic_with_the_producers_time_is_refused_until_it_is_mended(
    settings: Settings, topics: tuple[str, ...]
) -> None:
    def keep(timestamp_type: str) -> None:
        entry = ConfigEntry("message.timestamp.type", timestamp_type, incremental_operation=AlterConfigOpType.SET)
        resource = ConfigResource(ResourceType.TOPIC, CARTS_TOPIC, incremental_configs=[entry])
        admin = AdminClient({"bootstrap.servers": settings.kafka.bootstrap_servers})
        admin.incremental_alter_configs([resource])[resource].result(DEADLINE_S)
        wait_until(
            lambda: describe_topics(settings)[CARTS_TOPIC].timestamp_type == timestamp_type,
            DEADLINE_S,
            "the broker does not learn of the topic's new setting",
        )

    keep("CreateTime")
    with pytest.raises(TopicError, match=r"shop\.carts\.v1 keeps the producer's timestamps"):
        ensure_topics(settings)
    keep("LogAppendTime")
    ensure_topics(settings)


def test_a_topic_that_is_made_again_is_another_log(settings: Settings, topics: tuple[str, ...]) -> None:
    before = describe_topics(settings)[CLICKS_TOPIC]
    admin = AdminClient({"bootstrap.servers": settings.kafka.bootstrap_servers})
    admin.delete_topics([CLICKS_TOPIC], operation_timeout=DEADLINE_S)[CLICKS_TOPIC].result()

    def refusal() -> str:
        try:
            describe_topics(settings)
        except TopicError as error:
            return str(error)
        return ""

    told = wait_until(refusal, DEADLINE_S, "the broker does not learn that the topic is gone")
    assert "shop.clicks.v1" in told
    after = ensure_topics(settings)[CLICKS_TOPIC]
    assert before.log_epoch != after.log_epoch
    assert before.partition_count == after.partition_count


def test_what_is_published_is_read(settings: Settings, producer: EventProducer, codec: Codec) -> None:
    sent, deliveries = clicks(500), list[Delivery]()
    started_ms = now_ms()
    for event in sent:
        producer.send(CLICKS_TOPIC, event, deliveries.append)
    assert producer.flush(DEADLINE_S) == 0
    records = read(settings, CLICKS_TOPIC, len(sent))
    results = decode_all(codec, records, settings.kafka.partitions)
    assert events_of(results) == sorted(sent, key=lambda event: event.event_id)
    assert {delivery.error for delivery in deliveries} == {None}
    stored = {(record.partition, record.offset, record.append_time_ms) for record in records}
    assert {(each.partition, each.offset, each.append_time_ms) for each in deliveries} == stored
    assert all(each.append_time_ms >= started_ms - 1_000 for each in deliveries)


def test_each_kind_of_broken_record_gets_its_reason(settings: Settings, producer: EventProducer, codec: Codec) -> None:
    good = clicks(1)[0]
    value, key = producer.encode(CLICKS_TOPIC, good), good.user_id.encode()
    partition = partition_of(key, settings.kafka.partitions)
    with closing(RegistryClient(settings.registry)) as registry:
        recursive = '{"type": "record", "name": "ClickEvent", "namespace": "shop", "fields": [{"name": "next", "type": '
        recursive += '["null", "shop.ClickEvent"]}]}'
        recursive_id = registry.register(f"test-{uuid.uuid4().hex}-value", recursive)
        cart_id = registry.lookup(subject_of(CARTS_TOPIC), own_schema(CARTS_TOPIC))
    past = msgspec.structs.replace(good, event_time_ms=0)
    future = msgspec.structs.replace(good, event_time_ms=now_ms() + 3_600_000)
    nobody = msgspec.structs.replace(good, user_id="")
    broken: list[tuple[bytes | None, bytes | None, int | None, Reason]] = [
        (key, None, partition, Reason.UNDECODABLE),
        (key, b"", partition, Reason.UNDECODABLE),
        (key, b"\1" + value[1:], partition, Reason.UNDECODABLE),
        (key, value[:-3], partition, Reason.UNDECODABLE),
        (key, value + b"\0", partition, Reason.UNDECODABLE),
        (key, value.replace(b"e-0", b"e\xff0"), partition, Reason.UNDECODABLE),
        (key, b"\0" + struct.pack(">I", recursive_id) + b"\2" * 20_000, partition, Reason.UNDECODABLE),
        (key, b"\0" + struct.pack(">I", cart_id) + value[5:], partition, Reason.UNDECODABLE),
        (key, b"\0" + struct.pack(">I", 2**31 - 1) + value[5:], partition, Reason.UNKNOWN_SCHEMA),
        (key, b"\0" + struct.pack(">I", 2**32 - 1) + value[5:], partition, Reason.UNKNOWN_SCHEMA),
        (key, value + b"\0" * 2_000_000, partition, Reason.TOO_LARGE),
        (b"", producer.encode(CLICKS_TOPIC, nobody), None, Reason.MISSING_FIELD),
        (key, producer.encode(CLICKS_TOPIC, past), partition, Reason.INVALID_VALUE),
        (key, producer.encode(CLICKS_TOPIC, future), partition, Reason.FUTURE_EVENT),
        (None, value, partition, Reason.MISROUTED),
        (b"other", value, partition, Reason.MISROUTED),
        (key, value, (partition + 1) % settings.kafka.partitions, Reason.MISROUTED),
    ]
    reason_at: dict[tuple[int, int], Reason] = {}
    for raw_key, raw_value, where, reason in broken:
        # one at a time, so that the callback's order is that of the list
        producer.send_raw(
            CLICKS_TOPIC,
            raw_key,
            raw_value,
            where,
            lambda each, reason=reason: reason_at.update({(each.partition, each.offset): reason}),  # type: ignore[misc]
        )
        producer.send(CLICKS_TOPIC, good)
    assert producer.flush(DEADLINE_S) == 0
    records = read(settings, CLICKS_TOPIC, 2 * len(broken))
    results = decode_all(codec, records, settings.kafka.partitions)
    for record, result in zip(records, results, strict=True):
        expected = reason_at.get((record.partition, record.offset))
        if expected is None:
            assert isinstance(result, Decoded), "the next good record is read"
            assert result.event == good
        else:
            assert isinstance(result, DeadLetter)
            assert result.reason == expected, result.detail


@pytest.mark.parametrize("compression", ["none", "gzip", "snappy", "lz4", "zstd"])
def test_an_independent_producer_is_read(
    compression: str, settings: Settings, topics: tuple[str, ...], registry: RegistryClient, codec: Codec
) -> None:
    """Plain confluent-kafka, as its own documentation shows it, with the two settings that our how-to asks for."""
    with SchemaRegistryClient({"url": settings.registry.url}) as client:
        serializer = AvroSerializer(
            client,
            own_schema(CARTS_TOPIC),
            conf={
                "auto.register.schemas": False,
                "use.latest.version": True,
                "subject.name.strategy": topic_subject_name_strategy,
            },
        )
        plain = Producer(
            {
                "bootstrap.servers": settings.kafka.bootstrap_servers,
                "partitioner": "murmur2_random",
                "compression.type": compression,
                "linger.ms": 50,
            }
        )
        context = SerializationContext(CARTS_TOPIC, MessageField.VALUE)
        for at in range(200):
            fields: dict[str, Any] = {
                "event_id": f"e-{at:03}",
                "kind": "add",
                "user_id": f"u-{at % 11}",
                "event_time": now_ms(),
                "product_id": "p-1",
                "quantity": 2,
                "unit_price_minor": 1_999,
                "currency": "EUR",
            }
            plain.produce(CARTS_TOPIC, key=fields["user_id"].encode(), value=serializer(fields, context))
    assert plain.flush(DEADLINE_S) == 0
    events = events_of(decode_all(codec, read(settings, CARTS_TOPIC, 200), settings.kafka.partitions))
    assert [event.event_id for event in events] == [f"e-{at:03}" for at in range(200)]
    assert {(event.quantity, event.unit_price_minor, event.currency) for event in events} == {(2, 1_999, "EUR")}


def test_a_message_that_cannot_be_sent(settings: Settings, producer: EventProducer) -> None:
    with pytest.raises(DeliveryError, match="was refused"):
        producer.send_raw(CLICKS_TOPIC, b"k", b"\0" * (9 * 1024 * 1024))
    with pytest.raises(DeliveryError, match="Unknown partition"):
        producer.send_raw(CLICKS_TOPIC, b"k", None, 99)


def test_a_message_that_the_broker_refuses_is_not_lost_in_silence(producer: EventProducer) -> None:
    # below the client's limit, and above the topic's with what a batch adds; random, so that it does not compress
    producer.send_raw(CLICKS_TOPIC, b"k", random.Random(1).randbytes(8 * 1024 * 1024 - 64))
    with pytest.raises(DeliveryError, match="did not store"):
        producer.flush(DEADLINE_S)
    assert producer.flush(DEADLINE_S) == 0, "told once"


def test_the_command_registers_checks_and_compares(
    settings: Settings, topics: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    addresses = [
        "--set", f"kafka.bootstrap_servers={settings.kafka.bootstrap_servers}",
        "--set", f"registry.url={settings.registry.url}",
        "--home", str(tmp_path),
    ]  # fmt: skip

    def call(*arguments: str) -> tuple[object, Any]:
        with pytest.raises(SystemExit) as ended:
            run([*addresses, "schema", *arguments, "--json"])
        return ended.value.code, json.loads(capsys.readouterr().out or "null")

    code, registered = call("register")
    assert code == 0
    assert set(registered) == {CLICKS_TOPIC, CARTS_TOPIC, DEAD_LETTERS_TOPIC}

    same = tmp_path / "same.avsc"
    same.write_text(own_schema(CARTS_TOPIC))
    code, answer = call("check", str(same))
    assert (code, answer["compatible"], answer["files"][0]["registered_as"]) == (0, True, [1])

    worse = tmp_path / "worse.avsc"
    worse.write_text(own_schema(CARTS_TOPIC).replace('"name": "currency"', '"name": "coin"'))
    code, answer = call("check", str(same), str(worse))
    assert (code, [each["compatible"] for each in answer["files"]]) == (3, [True, False])
    assert answer["files"][1]["problems"] == [
        {"version": 1, "words": ["coin is required (it has no default), and is not in what was written"]}
    ]

    code, answer = call("diff", f"{CARTS_TOPIC}@latest", str(worse))
    assert (code, answer["compatible"]) == (3, False)
    assert call("diff", f"{CARTS_TOPIC}@7", str(worse)) == (1, None)


def test_the_how_to_works_as_it_is_written(
    settings: Settings, topics: tuple[str, ...], registry: RegistryClient, codec: Codec, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = Path(__file__).resolve().parents[2]
    text = (root / "docs" / "how-to" / "publish-events.md").read_text(encoding="utf-8")
    monkeypatch.setenv("SHOPSTREAM_KAFKA__BOOTSTRAP_SERVERS", settings.kafka.bootstrap_servers)
    monkeypatch.setenv("SHOPSTREAM_REGISTRY__URL", settings.registry.url)
    monkeypatch.chdir(root)
    blocks = [block.partition("```")[0] for block in text.split("```python\n")[1:]]
    assert len(blocks) == 2
    for block in blocks:
        exec(compile(block, "publish-events.md", "exec"), {"__name__": "how_to"})
    carts = events_of(decode_all(codec, read(settings, CARTS_TOPIC, 1), settings.kafka.partitions))
    assert [(event.kind, event.quantity, event.unit_price_minor) for event in carts] == [("add", 2, 1_999)]
    seen = events_of(decode_all(codec, read(settings, CLICKS_TOPIC, 2), settings.kafka.partitions))
    assert sorted(event.kind for event in seen) == ["click", "page_view"]
