"""`shopstream events tail` on a real broker: decoded events, dead letters with their reason, a clean end."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from config.settings import Settings
from schemas.event import CARTS_TOPIC, CLICKS_TOPIC, DEAD_LETTERS_TOPIC, Event
from schemas.producer import EventProducer
from schemas.registry import RegistryClient, register_own_schemas
from schemas.topics import ALL_TOPICS
from sinks.dead_letters import DeadLetterTopic
from tests.rows import letter
from tests.waiting import wait_until

pytestmark = pytest.mark.stack

ROOT = Path(__file__).resolve().parents[2]
COMMAND = [sys.executable, "-c", "from cli.events import app; app()", "tail"]
NOON_MS = 1_700_000_000_000


def click(number: int, user_id: str = "u1") -> Event:
    return Event(event_id=f"e{number}", kind="click", user_id=user_id, event_time_ms=NOON_MS + number, position=number)


@pytest.fixture
def producer(settings: Settings, topics: tuple[str, ...]) -> Iterator[EventProducer]:
    client = RegistryClient(settings.registry)
    register_own_schemas(client, ALL_TOPICS)
    client.close()
    with EventProducer(settings) as opened:
        yield opened


def environment(settings: Settings) -> dict[str, str]:
    return {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "SHOPSTREAM_HOME": str(settings.home),
        "SHOPSTREAM_KAFKA__BOOTSTRAP_SERVERS": settings.kafka.bootstrap_servers,
        "SHOPSTREAM_REGISTRY__URL": settings.registry.url,
    }


def tail(settings: Settings, *arguments: str) -> tuple[list[str], str]:
    """Run the command to its end; return the lines of stdout, and stderr."""
    done = subprocess.run(
        [*COMMAND, *arguments],
        cwd=settings.home.parent,
        env=environment(settings),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines(), done.stderr


@contextmanager
def running(settings: Settings, *arguments: str, stdout: Any = subprocess.PIPE) -> Iterator["subprocess.Popen[str]"]:
    """Run the command beside the test, from the moment when it has chosen where to begin."""
    process = subprocess.Popen(
        [*COMMAND, *arguments],
        cwd=settings.home.parent,
        env=environment(settings),
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stderr is not None
        assert "Reading" in process.stderr.readline()
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def test_each_line_is_one_event_or_dead_letter(settings: Settings, producer: EventProducer) -> None:
    producer.send(CLICKS_TOPIC, click(1))
    producer.send_raw(CLICKS_TOPIC, b"u1", b"junk")
    cart = Event(
        event_id="c1",
        kind="add",
        user_id="u1",
        event_time_ms=NOON_MS,
        product_id="p1",
        quantity=2,
        unit_price_minor=999,
        currency="EUR",
    )
    producer.send(CARTS_TOPIC, cart)
    assert producer.flush(30) == 0
    lines, _ = tail(settings, "--from-beginning", "--max", "3", "--json")
    found = sorted((json.loads(line) for line in lines), key=lambda row: (row["topic"], row["offset"]))
    assert [(row["topic"], row["offset"]) for row in found] == [(CARTS_TOPIC, 0), (CLICKS_TOPIC, 0), (CLICKS_TOPIC, 1)]
    added, clicked, broken = found
    assert added["event"] == {
        "event_id": "c1",
        "kind": "add",
        "user_id": "u1",
        "event_time_ms": NOON_MS,
        "product_id": "p1",
        "quantity": 2,
        "unit_price_minor": 999,
        "currency": "EUR",
    }
    assert clicked["event"]["position"] == 1
    assert set(clicked) == {"topic", "partition", "offset", "append_time_ms", "schema_id", "event"}
    assert broken["dead_letter"] == {
        "stage": "frame",
        "reason": "undecodable",
        "detail": "The first byte is 106; a framed value starts with 0.",
    }


def test_people_read_the_reason_of_a_dead_letter(settings: Settings, producer: EventProducer) -> None:
    producer.send(CLICKS_TOPIC, click(1))
    producer.send_raw(CLICKS_TOPIC, b"u1", b"junk [red]")
    assert producer.flush(30) == 0
    (clicked, broken), progress = tail(settings, "--from-beginning", "--max", "2")
    assert "u1 click event_id=e1" in clicked
    assert "dead letter, undecodable: The first byte is 106" in broken
    assert "2 records, 1 of them dead letters" in progress


def test_only_the_records_of_one_user(settings: Settings, producer: EventProducer) -> None:
    for number in range(200):
        producer.send(CLICKS_TOPIC, click(number, f"u{number % 5}"))
    assert producer.flush(30) == 0
    lines, _ = tail(settings, "--from-beginning", "--max", "40", "--user", "u3", "--json")
    assert [json.loads(line)["event"]["event_id"] for line in lines] == [f"e{number}" for number in range(3, 200, 5)]


def test_the_topic_of_dead_letters_is_shown_with_where_each_came_from(
    settings: Settings, producer: EventProducer
) -> None:
    DeadLetterTopic(settings).write([letter(41, partition=2, topic=CARTS_TOPIC, value=b"x" * 100_000)])
    (line,), _ = tail(settings, "--topic", DEAD_LETTERS_TOPIC, "--from-beginning", "--max", "1", "--json")
    shown = json.loads(line)
    assert shown["topic"] == DEAD_LETTERS_TOPIC
    assert shown["dead_letter"]["topic"] == CARTS_TOPIC
    assert (shown["dead_letter"]["partition"], shown["dead_letter"]["offset"]) == (2, 41)
    assert (shown["dead_letter"]["reason"], shown["dead_letter"]["value_size_bytes"]) == ("undecodable", 100_000)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_begins_with_the_next_record_and_a_signal_ends_it(
    settings: Settings, producer: EventProducer, number: signal.Signals
) -> None:
    producer.send(CLICKS_TOPIC, click(1))
    assert producer.flush(30) == 0
    with running(settings, "--json") as process:
        producer.send(CLICKS_TOPIC, click(2))
        assert producer.flush(30) == 0
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["event"]["event_id"] == "e2"
        process.send_signal(number)
        rest, errors = process.communicate(timeout=60)
    assert (process.returncode, rest) == (0, "")
    assert "Traceback" not in errors


def test_it_ends_quietly_when_nobody_reads_any_more(settings: Settings, producer: EventProducer) -> None:
    reader, writer = os.pipe()
    with running(settings, "--json", stdout=writer) as process:
        os.close(writer)
        os.close(reader)
        producer.send(CLICKS_TOPIC, click(1))
        assert producer.flush(30) == 0
        wait_until(lambda: process.poll() is not None, 60, "the command goes on though nobody reads")
        assert process.stderr is not None
        assert "Error" not in process.stderr.read()
    assert process.returncode == 0


def test_a_topic_that_is_none_of_ours_is_wrong_use(settings: Settings) -> None:
    done = subprocess.run(
        [*COMMAND, "--topic", "orders"], env=environment(settings), capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "shop.clicks.v1" in done.stderr
