"""Rows for tests of what is written down: flushes of any offsets, as the worker makes them."""

from collections.abc import Iterable

from schemas.dead_letter import DeadLetter, Reason, Stage
from schemas.event import CLICKS_TOPIC, Event, Record
from sinks.rows import FeatureLogRow, PartitionFlush, RawRow

NOON_MS = 1_699_963_200_000  # 2023-11-14T12:00:00Z


def record(offset: int, *, partition: int = 0, topic: str = CLICKS_TOPIC, value: bytes | None = None) -> Record:
    return Record(topic, partition, offset, NOON_MS + offset, b"u1", b"value %d" % offset if value is None else value)


def raw_row(offset: int, *, partition: int = 0, topic: str = CLICKS_TOPIC) -> RawRow:
    event = Event(event_id=f"e{offset}", kind="click", user_id="u1", event_time_ms=NOON_MS - 5, product_id="p1")
    return RawRow(record(offset, partition=partition, topic=topic), event, 7, NOON_MS + offset + 3)


def feature_row(offset: int) -> FeatureLogRow:
    return FeatureLogRow("u1", offset + 1, b"state %d" % offset, NOON_MS + offset + 9)


def letter(offset: int, *, partition: int = 0, topic: str = CLICKS_TOPIC, value: bytes | None = b"junk") -> DeadLetter:
    return DeadLetter(
        topic=topic,
        partition=partition,
        offset=offset,
        append_time_ms=NOON_MS + offset,
        key=b"u1",
        value=value,
        schema_id=None,
        stage=Stage.FRAME,
        reason=Reason.UNDECODABLE,
        detail="The first byte is 106; a framed value starts with 0.",
        first_seen_ms=NOON_MS + offset + 2,
    )


def flush(
    raw: Iterable[int] = (),
    *,
    letters: Iterable[int] = (),
    features: Iterable[int] = (),
    last_offset: int | None = None,
    partition: int = 0,
    topic: str = CLICKS_TOPIC,
    topic_id: str = "tid",
    partition_count: int = 4,
) -> PartitionFlush:
    """Return a flush with rows at these offsets; it ends at the greatest of them unless `last_offset` says more."""
    raw, letters, features = list(raw), list(letters), list(features)
    offsets = [*raw, *letters, *features]
    return PartitionFlush(
        topic=topic,
        topic_id=topic_id,
        log_epoch=f"{topic_id}:{partition_count}",
        partition=partition,
        first_offset=min(offsets, default=0),
        last_offset=max(offsets, default=0) if last_offset is None else last_offset,
        raw=[raw_row(offset, partition=partition, topic=topic) for offset in raw],
        features=[feature_row(offset) for offset in features],
        letters=[letter(offset, partition=partition, topic=topic) for offset in letters],
    )
