"""`shopstream produce` against a real broker: what it says it sent is what the topics hold."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import tenacity

from config.settings import Settings
from schemas.codec import Codec, Decoded
from schemas.event import EVENT_TOPICS, Event, Record
from schemas.registry import RegistryClient
from schemas.topics import describe_topics
from tests.waiting import wait_until
from traffic.broken import EXPECTED_REASONS
from traffic.pacing import Pacer
from traffic.sending import open_sender
from traffic.sent_log import SentLog
from traffic.simulator import Simulator, SimulatorConfig
from traffic.timed import Defect

pytestmark = pytest.mark.stack

ROOT = Path(__file__).resolve().parents[2]


def environment(settings: Settings) -> dict[str, str]:
    return {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "SHOPSTREAM_HOME": str(settings.home),
        "SHOPSTREAM_KAFKA__BOOTSTRAP_SERVERS": settings.kafka.bootstrap_servers,
        "SHOPSTREAM_KAFKA__TIMEOUT_S": str(settings.kafka.timeout_s),
        "SHOPSTREAM_REGISTRY__URL": settings.registry.url,
    }


def start(settings: Settings, *arguments: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "cli.main", "produce", "--json", *arguments],
        cwd=settings.home.parent,
        env=environment(settings),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def produce(settings: Settings, *arguments: str, code: int = 0) -> tuple[dict[str, Any], str]:
    """Run the command; return its JSON object, if there is one, and what it wrote to stderr."""
    process = start(settings, *arguments)
    out, err = process.communicate()
    assert process.returncode == code, err
    return (json.loads(out) if out else {}), err


def _end(consumer: Any, place: Any) -> int:
    """Where a log ends; a broker takes a moment to lead the partitions that it has just made."""
    from confluent_kafka import KafkaException

    for attempt in tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(KafkaException),
        stop=tenacity.stop_after_delay(30),
        wait=tenacity.wait_fixed(0.1),
        reraise=True,
    ):
        with attempt:
            end: int = consumer.get_watermark_offsets(place)[1]
    return end


def records(settings: Settings) -> list[Record]:
    """Everything that the event topics hold, each partition in log order."""
    from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition

    consumer = Consumer({"bootstrap.servers": settings.kafka.bootstrap_servers, "group.id": "reader-of-a-test"})
    infos = describe_topics(settings)
    places = [TopicPartition(name, number) for name in EVENT_TOPICS for number in range(infos[name].partition_count)]
    left = sum(_end(consumer, place) for place in places)
    consumer.assign([TopicPartition(place.topic, place.partition, OFFSET_BEGINNING) for place in places])
    found: list[Record] = []
    deadline = time.monotonic() + 60.0
    while len(found) < left:
        assert time.monotonic() < deadline, f"{len(found)} of {left} records were read"
        for message in consumer.consume(1_000, timeout=1.0):
            assert message.error() is None, message.error()
            found.append(
                Record(
                    message.topic(),
                    message.partition(),
                    message.offset(),
                    message.timestamp()[1],
                    message.key(),
                    message.value(),
                )
            )
    consumer.close()
    return found


def read(settings: Settings) -> tuple[dict[tuple[str, int, int], Event], Counter[str]]:
    """The events by topic, partition and offset, and the dead letters by reason, as a worker would see them."""
    found = records(settings)
    registry = RegistryClient(settings.registry)
    codec = Codec(registry, limits=settings.events, unknown_id_ttl_s=30.0, clock_ms=lambda: time.time_ns() // 1_000_000)
    codec.resolve(codec.unresolved(found))
    registry.close()
    partition_count = settings.kafka.partitions
    events, reasons = {}, Counter[str]()
    for record in found:
        decoded = codec.decode(record, partition_count)
        if isinstance(decoded, Decoded):
            events[record.topic, record.partition, record.offset] = decoded.event
        else:
            reasons[decoded.reason] += 1
    return events, reasons


@pytest.mark.usefixtures("topics")
def test_what_it_reports_is_what_the_topics_hold(settings: Settings) -> None:
    report, _ = produce(settings, "--rate", "2000", "--seconds", "1.5", "--broken", "0.02")
    events, reasons = read(settings)
    assert report["sent"] == report["acknowledged"] == 3_000 == len(events) + reasons.total()
    assert (report["failed"], report["unanswered"], report["interrupted"]) == (0, 0, False)
    assert Counter(event.kind for event in events.values()) == report["kinds"]
    expected = Counter[str]()
    for defect, count in report["defects"].items():
        expected[EXPECTED_REASONS[Defect(defect)]] += count
    assert set(report["defects"]) == set(Defect)
    assert reasons == expected


@pytest.mark.usefixtures("topics")
def test_the_same_seed_and_start_publish_the_same_events(settings: Settings) -> None:
    arguments = ("--rate", "500", "--seconds", "1", "--seed", "11", "--start", "2026-01-31T12:00:00Z")
    first, _ = produce(settings, *arguments)
    once = Counter((event.event_id, event.user_id, event.kind) for event in read(settings)[0].values())
    second, _ = produce(settings, *arguments)
    twice = Counter((event.event_id, event.user_id, event.kind) for event in read(settings)[0].values())
    assert first["kinds"] == second["kinds"]
    assert twice == {event: 2 * count for event, count in once.items()}


@pytest.mark.usefixtures("topics")
def test_the_reference_tables_name_whatever_the_topics_hold(settings: Settings, tmp_path: Path) -> None:
    produce(settings, "--rate", "1000", "--seconds", "1", "--taste", "0.8", "--reference-tables", str(tmp_path))
    events = read(settings)[0].values()
    for kind, name in (("products", "product_id"), ("categories", "category_id"), ("users", "user_id")):
        with (tmp_path / f"{kind}.csv").open(newline="") as file:
            known = {row[name] for row in csv.DictReader(file)}
        assert {getattr(event, name) for event in events} - {None} <= known


@pytest.mark.usefixtures("topics")
def test_since_places_the_event_times(settings: Settings) -> None:
    before_ms = time.time_ns() // 1_000_000
    quiet = ("--late", "0", "--disordered", "0", "--duplicates", "0")
    produce(settings, "--rate", "200", "--seconds", "1", "--since", "2h", *quiet)
    after_ms = time.time_ns() // 1_000_000
    times_ms = [event.event_time_ms for event in read(settings)[0].values()]
    two_hours_ms = 2 * 3_600_000
    assert before_ms - two_hours_ms <= min(times_ms)
    assert max(times_ms) <= after_ms - two_hours_ms + 1_000


@pytest.mark.usefixtures("topics")
def test_the_sent_log_knows_where_each_event_is(settings: Settings) -> None:
    log = SentLog()
    start_ms = time.time_ns() // 1_000_000
    source = Simulator(SimulatorConfig(seed=5, start_ms=start_ms, broken_share=0.01), 3_000).events()
    with open_sender(settings, log, broken=True) as sender:
        sender.run(source, Pacer(clock=time.monotonic, sleep=time.sleep, speed=None))
    events, reasons = read(settings)
    noted = {(sent.topic, sent.partition, sent.offset): sent for sent in log.records()}
    assert {place: sent.event for place, sent in noted.items() if sent.event is not None} == events
    assert Counter(EXPECTED_REASONS[sent.defect] for sent in noted.values() if sent.defect is not None) == reasons
    append_times_ms = {(r.topic, r.partition, r.offset): r.append_time_ms for r in records(settings)}
    assert {place: sent.append_time_ms for place, sent in noted.items()} == append_times_ms


@pytest.mark.usefixtures("topics")
def test_the_real_sample_is_sent_at_full_speed_with_its_odd_rows_named(settings: Settings, rees46_file: Path) -> None:
    report, _ = produce(settings, "--rees46", str(rees46_file), "--currency", "USD")
    events, reasons = read(settings)
    assert (len(events), reasons.total()) == (12_621, 0)
    assert report["kinds"] == {"add": 125, "page_view": 12_337, "purchase": 159}
    assert (report["rows"]["read"], report["rows"]["sent"], report["rows"]["left_out"]) == (12_622, 12_621, 1)
    assert [odd["oddity"] for odd in report["rows"]["odd"]] == ["exact_duplicate"] * 5 + ["cut_last_line"]
    assert len({event.event_id for event in events.values()}) == 12_616
    assert {event.currency for event in events.values()} == {None, "USD"}


@pytest.mark.usefixtures("topics")
def test_ctrl_c_flushes_and_reports(settings: Settings) -> None:
    process = start(settings, "--rate", "500", "--seconds", "3600")
    try:
        wait_until(lambda: len(records(settings)) > 100, 60.0, "no event arrived")
        process.send_signal(signal.SIGINT)
        out, err = process.communicate()
    finally:
        process.kill()  # harmless when it has ended; else it would go on into the next tests' topics
    assert (process.returncode, err) == (0, "")
    report = json.loads(out)
    assert report["interrupted"] is True
    assert report["sent"] == report["acknowledged"] == len(records(settings))


def test_topics_and_schemas_are_made_where_they_are_missing(settings: Settings, topics: tuple[str, ...]) -> None:
    from confluent_kafka.admin import AdminClient

    admin = AdminClient({"bootstrap.servers": settings.kafka.bootstrap_servers})
    for deletion in admin.delete_topics(list(topics), operation_timeout=30).values():
        deletion.result()
    produce(settings, "--rate", "100", "--seconds", "0.5")
    assert {info.timestamp_type for info in describe_topics(settings).values()} == {"LogAppendTime"}
    assert len(records(settings)) == 50


def test_a_broker_that_does_not_answer_is_one_clear_sentence(settings: Settings) -> None:
    nowhere = settings.kafka.model_copy(update={"bootstrap_servers": "127.0.0.1:1", "timeout_s": 1.0})
    report, err = produce(settings.model_copy(update={"kafka": nowhere}), "--seconds", "1", code=1)
    assert report == {}
    assert err.startswith("shopstream: Kafka at 127.0.0.1:1 does not answer")
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--speed", "2"), "--rees46"),
        (("--currency", "euro"), "three capital letters"),
        (("--start", "noon"), "ISO 8601"),
        (("--start", "2999-01-01"), "between the year 2000 and now"),
        (("--since", "yesterday"), "duration"),
        (("--since", "1h", "--start", "2026-01-01"), "one of them"),
        (("--broken", "0.5", "--late", "0.5"), "do not go together"),
        (("--rate", "0"), "--rate"),
        (("--rees46", "export.csv"), "--seconds"),
    ],
)
def test_options_that_make_no_sense_are_refused(settings: Settings, arguments: tuple[str, ...], said: str) -> None:
    report, err = produce(settings, "--seconds", "1", *arguments, code=2)
    assert report == {}
    assert said in err


def test_a_file_that_is_no_export_is_refused(settings: Settings, topics: tuple[str, ...], tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.csv"
    wrong.write_text("a,b\n1,2\n")
    _, err = produce(settings, "--rees46", str(wrong), code=1)
    assert "is no REES46 export" in err
    assert records(settings) == []
