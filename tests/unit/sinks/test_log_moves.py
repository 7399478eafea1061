"""Which log follows which: written once, and asked by every fold."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from schemas.event import CARTS_TOPIC, CLICKS_TOPIC
from schemas.partitioner import partition_of
from sinks.derived_tables import LOG_MOVES
from sinks.lake_reads import PartitionLog
from sinks.log_moves import LogMoves, MoveRow, note_log_move, read_log_moves


def rows(from_epoch: str, to_epoch: str, first_offsets: Sequence[int], topic: str = CLICKS_TOPIC) -> list[MoveRow]:
    return [MoveRow(topic, from_epoch, to_epoch, number, offset, 5) for number, offset in enumerate(first_offsets)]


def log(epoch: str, partition: int = 0, topic: str = CLICKS_TOPIC) -> PartitionLog:
    return PartitionLog(epoch, topic, partition)


def test_a_lake_without_the_table_knows_no_move(tmp_path: Path) -> None:
    moves = read_log_moves(tmp_path)
    assert moves.before(log("id:4")) is None
    assert moves.first_offset(log("id:4")) is None
    assert moves.end_offset(log("id:4")) is None


def test_a_move_is_noted_once(tmp_path: Path) -> None:
    first = note_log_move(tmp_path, rows("id:2", "id:3", [7, 8, 0]))
    again = note_log_move(tmp_path, rows("id:2", "id:3", [9, 9, 9]))
    note_log_move(tmp_path, rows("id:2", "id:3", [1, 1, 1], CARTS_TOPIC))
    assert first.rows == again.rows
    found = read_log_moves(tmp_path)
    assert {number: row.first_offset for number, row in found.into(CLICKS_TOPIC, "id:3").items()} == {0: 7, 1: 8, 2: 0}
    assert found.first_offset(log("id:3", 1, CARTS_TOPIC)) == 1


def test_of_two_that_note_at_the_same_time_one_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import deltalake

    write = deltalake.write_deltalake
    others = rows("id:2", "id:3", [1, 2, 3])

    def overtaken(*arguments: object, **named: object) -> None:
        monkeypatch.setattr(deltalake, "write_deltalake", write)
        note_log_move(tmp_path, others)
        write(*arguments, **named)  # type: ignore[call-overload]

    note_log_move(tmp_path, rows("id:1", "id:2", [0, 0]))  # the table is there
    monkeypatch.setattr(deltalake, "write_deltalake", overtaken)
    held = note_log_move(tmp_path, rows("id:2", "id:3", [9, 9, 9]))
    assert list(held.into(CLICKS_TOPIC, "id:3").values()) == others


@pytest.mark.parametrize(("was", "now"), [(4, 6), (2, 8), (3, 5), (6, 4)])
def test_a_partition_follows_those_that_its_users_may_have_been_in(was: int, now: int) -> None:
    moves = LogMoves(rows(f"a:{was}", f"b:{now}", [0] * now))
    for user in (f"user-{number}" for number in range(200)):
        before = moves.before(log(f"b:{now}", partition_of(user.encode(), now)))
        assert before is not None
        assert log(f"a:{was}", partition_of(user.encode(), was)) in before.former


def test_doubling_reads_each_former_partition_twice() -> None:
    moves = LogMoves(rows("a:4", "a:8", [1] * 4 + [0] * 4))
    read: list[PartitionLog] = []
    for number in range(8):
        before = moves.before(log("a:8", number))
        assert before is not None
        read += before.former
    assert sorted(read) == sorted([log("a:4", number) for number in range(4)] * 2)


def test_a_log_ends_where_the_same_topic_goes_on() -> None:
    moves = LogMoves([*rows("a:1", "a:2", [7, 0]), *rows("a:2", "b:2", [0, 0])])
    assert moves.end_offset(log("a:1")) == 7
    assert moves.end_offset(log("a:2")) is None  # the topic was created again
    assert moves.first_offset(log("a:2")) == 7


def test_the_table_names_no_user() -> None:
    assert "user_id" not in {column.name for column in LOG_MOVES.columns}
