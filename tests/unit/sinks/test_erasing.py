"""Rows of an erased user leave a table, and with them every file that ever held them."""

import os
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from deltalake import CommitProperties, DeltaTable, Transaction, write_deltalake
from deltalake.exceptions import CommitFailedError

from schemas.dead_letter import DeadLetter, Reason, Stage
from schemas.event import CLICKS_TOPIC, Event, Record
from schemas.privacy import Pseudonyms
from sinks.arrow_rows import dead_letters, raw_events
from sinks.delta import DeltaAppender, TablePart
from sinks.erasing import TableEraser, erasable_tables, logs_of_users
from sinks.erasures import ErasedLog, Tombstones
from sinks.letter_search import letters_naming, names_user
from sinks.rows import PartitionFlush, RawRow
from sinks.tables import DEAD_LETTERS, RAW_EVENTS, LakeTable, application_id
from tests.privacy_search import lake_contents

KEY = Pseudonyms(b"a key of the tests, long enough")
VICTIM = "the-one-who-leaves"
LOG = ErasedLog("tid", CLICKS_TOPIC, 0)
T0 = 1_700_000_000_000


def row(offset: int, user_id: str) -> RawRow:
    event = Event(event_id=f"event-of-{user_id}-{offset}", kind="page_view", user_id=user_id, event_time_ms=T0)
    return RawRow(Record(CLICKS_TOPIC, 0, offset, T0 + offset, user_id.encode(), f"v {user_id}".encode()), event, 1, T0)


def letter(offset: int, key: bytes | None, value: bytes | None) -> DeadLetter:
    return DeadLetter(
        topic=CLICKS_TOPIC,
        partition=0,
        offset=offset,
        append_time_ms=T0,
        key=key,
        value=value,
        schema_id=None,
        stage=Stage.FRAME,
        reason=Reason.UNDECODABLE,
        detail="It is broken.",
        first_seen_ms=T0,
    )


def flush(**rows: Any) -> PartitionFlush:
    return PartitionFlush(CLICKS_TOPIC, "tid", "tid:4", 0, 0, 10**9, **rows)


def part(table: LakeTable, last: int, rows: Any) -> TablePart:
    return TablePart(application_id("tid", 0, table), last, rows)


def append(appender: DeltaAppender, users: Iterable[tuple[int, str]]) -> None:
    rows = [row(offset, user) for offset, user in users]
    appender.append([part(RAW_EVENTS, rows[-1].record.offset, raw_events(flush(raw=rows)))])


def tombstones(end: int) -> Tombstones:
    return Tombstones(pseudonyms=KEY).with_ends([(LOG, KEY.subject(VICTIM), end)])


def eraser(lake: Path, end: int, ids: tuple[str, ...] | None = (VICTIM,), **more: Any) -> TableEraser:
    return TableEraser(lake, RAW_EVENTS, tombstones(end), ids, logs=[LOG], **more)


def table(lake: Path) -> DeltaTable:
    return DeltaTable(lake / "raw_events")


def offsets(lake: Path) -> list[int]:
    found: list[int] = table(lake).to_pyarrow_table(columns=["offset"]).column("offset").to_pylist()
    return sorted(found)


def left_of(lake: Path, needle: str) -> list[str]:
    return [where for where, content in lake_contents(lake) if needle.encode() in content]


def every_third(first: int, end: int) -> list[tuple[int, str]]:
    return [(offset, VICTIM if offset % 3 == 0 else f"u{offset % 7}") for offset in range(first, end)]


def test_rows_before_the_end_go_and_all_others_stay(tmp_path: Path) -> None:
    appender = DeltaAppender(tmp_path, RAW_EVENTS)
    for first in range(0, 2_000, 100):
        append(appender, every_third(first, first + 100))
    done = eraser(tmp_path, 1_900).erase()
    expected = [offset for offset in range(2_000) if offset % 3 or offset >= 1_900]
    assert offsets(tmp_path) == expected
    assert done is not None
    assert done.rows == 2_000 - len(expected)
    # what is held of the partition is still known, so a redelivery adds nothing
    assert table(tmp_path).transaction_version(application_id("tid", 0, RAW_EVENTS)) == 1_999
    append(appender, [(offset, user) for offset, user in every_third(0, 2_000) if user != VICTIM])
    assert offsets(tmp_path) == expected
    assert left_of(tmp_path, f"event-of-{VICTIM}-1899") == []
    assert left_of(tmp_path, f"event-of-{VICTIM}-1902")


def test_no_file_no_log_and_no_checkpoint_holds_the_user_any_more(tmp_path: Path) -> None:
    append(DeltaAppender(tmp_path, RAW_EVENTS), every_third(0, 100))
    table(tmp_path).create_checkpoint()
    assert left_of(tmp_path, VICTIM)
    eraser(tmp_path, 100).erase()
    table(tmp_path).create_checkpoint()
    assert left_of(tmp_path, VICTIM) == []


def test_files_are_left_of_the_types_that_readers_know(tmp_path: Path) -> None:
    append(DeltaAppender(tmp_path, RAW_EVENTS), every_third(0, 100))
    eraser(tmp_path, 100).erase()
    for file in table(tmp_path).file_uris():
        assert {str(field.type) for field in pq.read_schema(file)} <= {"string", "binary", "int32", "int64"}


def test_erasing_twice_finds_nothing_the_second_time(tmp_path: Path) -> None:
    append(DeltaAppender(tmp_path, RAW_EVENTS), every_third(0, 100))
    eraser(tmp_path, 100).erase()
    version = table(tmp_path).version()
    again = eraser(tmp_path, 100).erase()
    assert again is not None
    assert (again.rows, again.files, again.leftovers) == (0, 0, 0)
    assert table(tmp_path).version() == version


def test_a_table_that_was_never_written_is_no_matter(tmp_path: Path) -> None:
    assert eraser(tmp_path, 100).erase() is None
    assert eraser(tmp_path, 100).count() == 0


def test_everybody_whom_the_tombstones_cover_is_found_without_being_named(tmp_path: Path) -> None:
    append(DeltaAppender(tmp_path, RAW_EVENTS), [(0, VICTIM), (1, "u1"), (2, KEY.of(VICTIM)), (3, VICTIM)])
    assert eraser(tmp_path, 3, None).count() == 2
    eraser(tmp_path, 3, None).erase()
    assert offsets(tmp_path) == [1, 3]


def test_rows_go_beside_a_writer_that_never_stops(tmp_path: Path) -> None:
    appender = DeltaAppender(tmp_path, RAW_EVENTS)
    append(appender, every_third(0, 3_000))
    written, stop = [3_000], threading.Event()

    def write() -> None:
        while not stop.is_set():
            append(appender, every_third(written[-1], written[-1] + 50))
            written.append(written[-1] + 50)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        done = eraser(tmp_path, 3_000).erase()
    finally:
        stop.set()
        writer.join()
    assert done is not None
    assert done.rows == 1_000
    assert offsets(tmp_path) == [offset for offset in range(written[-1]) if offset % 3 or offset >= 3_000]


def test_what_a_killed_writer_left_goes_if_it_names_the_user(tmp_path: Path) -> None:
    append(DeltaAppender(tmp_path, RAW_EVENTS), every_third(0, 30))
    folder = Path(table(tmp_path).file_uris()[0]).parent
    half = folder / "part-half.parquet#1"
    half.write_bytes(f"PAR1 {VICTIM}".encode())
    for name, users in {"hers": every_third(0, 30), "others": [(1, "u1")], "later": [(99, VICTIM)]}.items():
        rows = raw_events(flush(raw=[row(offset, user) for offset, user in users])).drop_columns(["append_date"])
        pq.write_table(rows, folder / f"part-{name}.parquet")
    told: list[str] = []
    waited: list[float] = []

    def wait(seconds: float) -> None:
        waited.append(seconds)
        age(folder)

    done = eraser(tmp_path, 30, progress=told.append, sleep=wait).erase()
    assert done is not None
    assert done.leftovers == 2
    assert waited
    assert any("just written" in line for line in told)
    assert {path.name for path in folder.iterdir()} >= {"part-others.parquet", "part-later.parquet"}
    assert not half.exists()
    assert left_of(tmp_path, f"event-of-{VICTIM}-3") == []


def age(folder: Path) -> None:
    """Let files be older than they are."""
    for path in folder.iterdir():
        os.utime(path, (T0 / 1000, T0 / 1000))


def test_an_append_that_was_half_done_is_refused_before_its_file_is_deleted(tmp_path: Path) -> None:
    append(DeltaAppender(tmp_path, RAW_EVENTS), every_third(0, 30))
    eraser(tmp_path, 30).erase()
    stale = table(tmp_path)  # the snapshot of a worker that was stopped in the middle of an append
    folder = Path(stale.file_uris()[0]).parent
    rows = raw_events(flush(raw=[row(3, VICTIM)]))
    pq.write_table(rows.drop_columns(["append_date"]), folder / "part-left.parquet")
    age(folder)
    done = eraser(tmp_path, 30).erase()
    assert done is not None
    assert done.leftovers == 1
    with pytest.raises(CommitFailedError):
        write_deltalake(
            stale,
            rows,
            mode="append",
            commit_properties=CommitProperties(
                app_transactions=[Transaction(application_id("tid", 0, RAW_EVENTS), 40)]
            ),
        )


def test_letters_are_found_by_key_and_by_what_they_say(tmp_path: Path) -> None:
    framed = b"\0\0\0\0\x01" + bytes([2 * len(VICTIM)]) + VICTIM.encode() + b"\x02x"
    letters = [
        letter(0, VICTIM.encode(), b"junk"),
        letter(1, None, framed),
        letter(2, b"other", b'{"user_id": "' + VICTIM.encode() + b'"}'),
        letter(3, b"not-" + VICTIM.encode(), None),
        letter(4, None, None),
        letter(5, b"other", VICTIM.encode() + b"-and-more"),
        letter(6, None, framed),
    ]
    DeltaAppender(tmp_path, DEAD_LETTERS).append([part(DEAD_LETTERS, 6, dead_letters(flush(letters=letters)))])
    named = {place.offset for place in letters_naming(tmp_path, VICTIM)}
    assert named == {0, 1, 2, 6}
    assert logs_of_users(tmp_path, DEAD_LETTERS, (VICTIM,)) == {(CLICKS_TOPIC, "tid:4", 0)}
    covered = tombstones(6)
    noted = Tombstones(covered.ends, {LOG: frozenset(offset for offset in named if offset < 6)}, KEY)
    TableEraser(tmp_path, DEAD_LETTERS, noted, (VICTIM,), logs=[LOG]).erase()
    left = DeltaTable(tmp_path / "dead_letters").to_pyarrow_table(columns=["offset"]).column("offset").to_pylist()
    assert sorted(left) == [3, 4, 5, 6]


@pytest.mark.parametrize(
    ("text", "named"),
    [
        (b"u1", True),
        (b"\x04u1\x06abc", True),
        (b"x\x04u1x", True),
        (b"id=u1;", True),
        (b"\x06u12", False),
        (b"not-u1", False),
        (b"u1@example.org", False),
        (b"", False),
    ],
)
def test_an_id_counts_where_it_stands_as_a_whole(text: bytes, named: bool) -> None:
    assert names_user(text, "u1") is named


def test_every_table_that_names_users_is_erased_from() -> None:
    assert {table.name for table in erasable_tables()} >= {"raw_events", "feature_log", "dead_letters", "repairs"}
