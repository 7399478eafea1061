"""Every schema version ever released is still read, to the same events."""

import json
from pathlib import Path

import msgspec
import pytest

from config.settings import EventSettings
from schemas.codec import Codec, Decoded
from schemas.compatibility import fingerprints, problems_of_reading
from schemas.encoder import read_letter, read_retraining
from schemas.event import CARTS_TOPIC, CLICKS_TOPIC, DEAD_LETTERS_TOPIC, RETRAIN_TOPIC, Event, Record
from schemas.loading import own_schema
from schemas.partitioner import partition_of
from tests.golden.write import LETTER, LETTER_BYTES_MAX, RETRAININGS

FOLDER = Path(__file__).resolve().parents[2] / "golden" / "avro"
TOPICS = {"ClickEvent": CLICKS_TOPIC, "CartEvent": CARTS_TOPIC}
VERSIONS = sorted(path.stem for path in FOLDER.glob("*Event.*.avsc"))


class OneSchema:
    """A registry of one schema under every id."""

    def __init__(self, text: str) -> None:
        self._text = text

    def fetch(self, schema_id: int) -> str:
        return self._text


@pytest.mark.parametrize("version", VERSIONS)
def test_its_bytes_decode_to_the_events_of_then(version: str) -> None:
    topic = TOPICS[version.partition(".")[0]]
    source = OneSchema((FOLDER / f"{version}.avsc").read_text(encoding="utf-8"))
    codec = Codec(source, limits=EventSettings(), unknown_id_ttl_s=30, clock_ms=lambda: 0)
    messages = json.loads((FOLDER / f"{version}.json").read_text(encoding="utf-8"))
    assert messages
    for message in messages:
        event = Event(**message["event"])
        key = event.user_id.encode()
        value = bytes.fromhex(message["value"])
        record = Record(topic, partition_of(key, 4), 0, event.event_time_ms, key, value)
        codec.resolve(codec.unresolved([record]))
        assert codec.decode(record, 4) == Decoded(event, int.from_bytes(value[1:5], "big"))


@pytest.mark.parametrize("version", VERSIONS)
def test_the_schema_of_this_release_reads_it(version: str) -> None:
    text = (FOLDER / f"{version}.avsc").read_text(encoding="utf-8")
    assert problems_of_reading(own_schema(TOPICS[version.partition(".")[0]]), text) == []


@pytest.mark.parametrize("record", sorted(TOPICS))
def test_the_schema_of_this_release_is_the_newest_of_them(record: str) -> None:
    numbers = sorted(int(version.rpartition(".v")[2]) for version in VERSIONS if version.startswith(record))
    assert numbers == list(range(1, len(numbers) + 1))
    newest = (FOLDER / f"{record}.v{numbers[-1]}.avsc").read_text(encoding="utf-8")
    assert fingerprints(newest) == fingerprints(own_schema(TOPICS[record])), "see tests/golden/README.md"


def test_dead_letters_in_the_topic_are_still_read() -> None:
    newest = (FOLDER / "DeadLetter.v1.avsc").read_text(encoding="utf-8")
    assert fingerprints(newest) == fingerprints(own_schema(DEAD_LETTERS_TOPIC)), "see tests/golden/README.md"
    (message,) = json.loads((FOLDER / "DeadLetter.v1.json").read_text(encoding="utf-8"))
    published = read_letter(bytes.fromhex(message["value"]))
    assert LETTER.value is not None
    assert published.letter == msgspec.structs.replace(LETTER, value=LETTER.value[:LETTER_BYTES_MAX])
    assert (published.key_size_bytes, published.value_size_bytes) == (3, len(LETTER.value))


def test_requests_for_retrainings_in_the_topic_are_still_read() -> None:
    newest = (FOLDER / "RetrainingRequest.v1.avsc").read_text(encoding="utf-8")
    assert fingerprints(newest) == fingerprints(own_schema(RETRAIN_TOPIC)), "see tests/golden/README.md"
    messages = json.loads((FOLDER / "RetrainingRequest.v1.json").read_text(encoding="utf-8"))
    assert [read_retraining(bytes.fromhex(message["value"])) for message in messages] == RETRAININGS
