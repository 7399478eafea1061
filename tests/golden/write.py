"""Write the golden messages of a new schema version: `python -m tests.golden.write ClickEvent 2`. Never overwrites."""

import json
import sys
from pathlib import Path
from typing import Any

import msgspec

from schemas.dead_letter import DeadLetter, Reason, Stage
from schemas.encoder import Encoder
from schemas.event import CARTS_TOPIC, CLICKS_TOPIC, DEAD_LETTERS_TOPIC, RETRAIN_TOPIC, Event
from schemas.loading import own_schema
from schemas.retraining import RetrainingEvent

FOLDER = Path(__file__).parent / "avro"
TOPICS = {
    "ClickEvent": CLICKS_TOPIC,
    "CartEvent": CARTS_TOPIC,
    "DeadLetter": DEAD_LETTERS_TOPIC,
    "RetrainingRequest": RETRAIN_TOPIC,
}
_TIME_MS = 1_717_747_750_123
_COMMON = Event(event_id="e-1", kind="", user_id="u-1", event_time_ms=_TIME_MS)
_FULL = msgspec.structs.replace(_COMMON, session_id="s-1", device="mobile", product_id="p-1", category_id="c-1")
EVENTS = {
    "ClickEvent": [
        msgspec.structs.replace(_COMMON, kind="page_view"),
        msgspec.structs.replace(_FULL, kind="click", position=3, recommendation_id="r-1", page="/home"),
        msgspec.structs.replace(_FULL, kind="search", query="schöne Schuhe 👟", result_count=2**31 - 1, page=""),
        Event(event_id="x" * 64, kind="page_view", user_id="ü" * 128, event_time_ms=946_684_800_000),
    ],
    "CartEvent": [
        msgspec.structs.replace(_COMMON, kind="add", product_id="p-1", quantity=1, unit_price_minor=0, currency="EUR"),
        msgspec.structs.replace(_FULL, kind="remove", quantity=3, unit_price_minor=1_999, currency="USD"),
        msgspec.structs.replace(
            _FULL, kind="purchase", quantity=1_000_000, unit_price_minor=10**6, currency="JPY", order_id="o-1"
        ),
    ],
}

LETTER = DeadLetter(
    topic=CLICKS_TOPIC,
    partition=3,
    offset=2**40,
    append_time_ms=_TIME_MS,
    key=b"u-1",
    value=b"\0\0\0\0\1broken",
    schema_id=1,
    stage=Stage.DECODE,
    reason=Reason.UNDECODABLE,
    detail="The body is not Avro of schema 1; event_id: 49 bytes are announced and 5 are left.",
    first_seen_ms=_TIME_MS + 1,
)
LETTER_BYTES_MAX = 8
RETRAININGS = [
    RetrainingEvent(
        request_id="retrain-drift-1717747200000-0a1b2c3d",
        cause="drift",
        window_start_ms=_TIME_MS - 3_600_000,
        window_end_ms=_TIME_MS,
        detail="category_id moved for 3 windows: schöne Schuhe 👟",
        evidence={"scores": {"category_id": {"psi": 0.31, "p_value": 1e-9}}, "windows_in_row": 3},
        lake_versions={"raw_events": 2**40, "feature_log": 0},
        requested_ms=_TIME_MS + 1,
    ),
    RetrainingEvent(
        request_id="retrain-forced-1717747750123-00000000",
        cause="forced",
        window_start_ms=None,
        window_end_ms=None,
        detail="a new season",
        evidence={},
        lake_versions={},
        requested_ms=_TIME_MS,
    ),
]


def write(record: str, version: int) -> None:
    """Write the schema of this release and its messages as this version."""
    topic = TOPICS[record]
    encoder = Encoder({topic: version})
    if topic == DEAD_LETTERS_TOPIC:
        messages: list[dict[str, Any]] = [{"value": encoder.letter(LETTER, bytes_max=LETTER_BYTES_MAX).hex()}]
    elif topic == RETRAIN_TOPIC:
        messages = [{"value": encoder.retraining(request).hex()} for request in RETRAININGS]
    else:
        messages = [{"value": encoder.event(topic, event).hex(), "event": _given(event)} for event in EVENTS[record]]
    for suffix, text in (
        (".avsc", own_schema(topic)),
        (".json", json.dumps(messages, indent=1, ensure_ascii=False) + "\n"),
    ):
        with (FOLDER / f"{record}.v{version}{suffix}").open("x", encoding="utf-8") as file:
            file.write(text)


def _given(event: Event) -> dict[str, Any]:
    return {name: value for name, value in msgspec.structs.asdict(event).items() if value is not None}


if __name__ == "__main__":
    write(sys.argv[1], int(sys.argv[2]))
