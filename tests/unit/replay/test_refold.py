"""Folding the lake again gives the states that live gave, however either cut the log."""

import asyncio
from collections.abc import Mapping
from pathlib import Path

from feature_repo.states import StoredState
from features.apply import fold
from features.state import Trailer, with_trailer
from replay.lake_folds import FoldOrder
from replay.refold import compare_with_live
from schemas.event import CLICKS_TOPIC, Event, Record
from schemas.topics import TopicInfo
from sinks.lake import LakeSink
from sinks.lake_reads import PartitionLog
from sinks.repairs import RepairNote, RepairSink
from sinks.rows import PartitionFlush, RawRow

TOPIC = TopicInfo(CLICKS_TOPIC, "id", 1, "LogAppendTime")
T0 = 1_700_000_000_000


class Live:
    def __init__(self, states: Mapping[str, bytes]) -> None:
        self.states = states

    async def load(self, topic: str, user_ids: list[str], /) -> Mapping[str, StoredState]:
        return {user: StoredState(self.states[user], 0) for user in user_ids if user in self.states}


def log() -> list[tuple[int, Event]]:
    return [
        (
            offset,
            Event(event_id=f"e{offset % 25}", kind="page_view", user_id=f"u{offset % 4}", event_time_ms=T0 + offset),
        )
        for offset in range(30)
    ]


def write(lake: Path) -> None:
    rows = [RawRow(Record(CLICKS_TOPIC, 0, offset, T0, b"k", b"v"), event, 1, T0) for offset, event in log()]
    LakeSink(lake).write([PartitionFlush(CLICKS_TOPIC, "id", TOPIC.log_epoch, 0, 0, 29, raw=rows)])


def live() -> dict[str, bytes]:
    """Fold one event at a time, as a quiet topic is."""
    states: dict[str, bytes] = {}
    for offset, event in log():
        states[event.user_id] = fold(states.get(event.user_id), [(offset, event)]).state
    return states


def test_states_agree_with_live(tmp_path: Path) -> None:
    write(tmp_path)
    agreement = asyncio.run(compare_with_live(tmp_path, {CLICKS_TOPIC: TOPIC}, Live(live())))
    assert (agreement.state_count, agreement.differing) == (4, 0)


def test_a_lost_event_and_a_lost_state_are_found(tmp_path: Path) -> None:
    write(tmp_path)
    states = live()
    del states["u0"]
    states["u1"] = fold(None, [(offset, event) for offset, event in log() if event.user_id == "u1"][1:]).state
    agreement = asyncio.run(compare_with_live(tmp_path, {CLICKS_TOPIC: TOPIC}, Live(states)))
    assert agreement.differing == 2
    assert agreement.examples == ((CLICKS_TOPIC, "u0"), (CLICKS_TOPIC, "u1"))


def test_another_log_of_the_same_name_is_not_folded(tmp_path: Path) -> None:
    write(tmp_path)
    other = TopicInfo(CLICKS_TOPIC, "other", 1, "LogAppendTime")
    agreement = asyncio.run(compare_with_live(tmp_path, {CLICKS_TOPIC: other}, Live(live())))
    assert agreement.state_count == 0


def test_a_user_who_was_repaired_is_compared_with_the_order_of_event_times(tmp_path: Path) -> None:
    early = Event(event_id="late", kind="click", user_id="u2", event_time_ms=T0 - 3_600_000)
    write(tmp_path)
    record = Record(CLICKS_TOPIC, 0, 30, T0, b"k", b"v")
    raw = [RawRow(record, early, 1, T0)]
    LakeSink(tmp_path).write([PartitionFlush(CLICKS_TOPIC, "id", TOPIC.log_epoch, 0, 30, 30, raw=raw)])
    states = live()
    in_log_order = fold(states["u2"], [(30, early)]).state
    in_time_order = [(0, early), *((1 + offset, event) for offset, event in log() if event.user_id == "u2")]
    corrected = with_trailer(fold(None, in_time_order).state, Trailer(1, 0, 31))

    def differing(state: bytes) -> int:
        compared = compare_with_live(tmp_path, {CLICKS_TOPIC: TOPIC}, Live(states | {"u2": state}))
        return asyncio.run(compared).differing

    assert (differing(in_log_order), differing(corrected)) == (0, 1)
    sink = RepairSink(tmp_path, PartitionLog(TOPIC.log_epoch, CLICKS_TOPIC, 0), FoldOrder.EVENT_TIME.value)
    sink.note([RepairNote("u2", 1, 31)], T0)
    assert (differing(in_log_order), differing(corrected)) == (1, 0)
