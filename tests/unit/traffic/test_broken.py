from itertools import islice

import pytest

from config.settings import EventSettings
from schemas.codec import Codec
from schemas.dead_letter import DeadLetter
from schemas.encoder import Encoder
from schemas.errors import UnknownSchemaIdError
from schemas.event import CARTS_TOPIC, CLICKS_TOPIC, EVENT_TOPICS, Record
from schemas.loading import own_schema
from schemas.partitioner import partition_of
from traffic.broken import EXPECTED_REASONS, OVERSIZED_BYTES, BrokenWriter, foreign_schemas
from traffic.simulator import Simulator, SimulatorConfig
from traffic.timed import BrokenEvent, Defect

NOW_MS = 1_700_000_000_000
OWN_IDS = {CLICKS_TOPIC: 1, CARTS_TOPIC: 2}
FOREIGN_IDS = {schema.defect: 10 + number for number, schema in enumerate(foreign_schemas())}


class Schemas:
    """A registry that holds our schemas and the foreign ones."""

    def fetch(self, schema_id: int) -> str:
        own = {number: own_schema(topic) for topic, number in OWN_IDS.items()}
        foreign = {FOREIGN_IDS[schema.defect]: schema.text for schema in foreign_schemas()}
        try:
            return (own | foreign)[schema_id]
        except KeyError:
            raise UnknownSchemaIdError(schema_id) from None


def broken_events() -> dict[Defect, tuple[str, BrokenEvent]]:
    config = SimulatorConfig(
        seed=1, start_ms=NOW_MS, broken_share=0.9, duplicate_share=0.0, late_share=0.0, disorder_share=0.0
    )
    found: dict[Defect, tuple[str, BrokenEvent]] = {}
    for timed in islice(Simulator(config).events(), 100):
        if isinstance(timed.payload, BrokenEvent):
            found.setdefault(timed.payload.defect, (timed.topic, timed.payload))
    return found


def records(partition_count: int, defect: Defect) -> Record:
    """The record as the broker would hold it."""
    topic, broken = broken_events()[defect]
    writer = BrokenWriter(Encoder(OWN_IDS), FOREIGN_IDS, dict.fromkeys(EVENT_TOPICS, partition_count))
    raw = writer.write(topic, broken)
    partition = raw.partition if raw.partition is not None else partition_of(raw.key or b"", partition_count)
    return Record(topic, partition, 0, NOW_MS, raw.key, raw.value)


@pytest.mark.parametrize("partition_count", [1, 4])
@pytest.mark.parametrize("defect", list(Defect))
def test_each_defect_is_refused_for_its_own_reason(defect: Defect, partition_count: int) -> None:
    record = records(partition_count, defect)
    codec = Codec(Schemas(), limits=EventSettings(), unknown_id_ttl_s=30.0, clock_ms=lambda: NOW_MS)
    codec.resolve(codec.unresolved([record]))
    letter = codec.decode(record, partition_count)
    assert isinstance(letter, DeadLetter)
    assert (letter.reason, letter.value) == (EXPECTED_REASONS[defect], record.value)


def test_the_oversized_value_has_2_mb() -> None:
    assert len(records(4, Defect.OVERSIZED).value or b"") == OVERSIZED_BYTES == 2_000_000


def test_the_key_is_the_user_unless_the_key_is_the_defect() -> None:
    for defect, (_, broken) in broken_events().items():
        if defect not in {Defect.WRONG_KEY, Defect.EMPTY_USER_ID}:
            assert records(4, defect).key == broken.event.user_id.encode()
