"""Folding the lake again gives the states that live gave, however either cut the log."""

import asyncio
from collections.abc import Mapping
from pathlib import Path

from feature_repo.states import StoredState
from features.apply import fold
from replay.refold import compare_with_live, fold_partition
from schemas.event import CLICKS_TOPIC, Event, Record
from schemas.topics import TopicInfo
from sinks.lake import LakeSink
from sinks.lake_reads import Stretch
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


def test_only_the_stretch_is_folded(tmp_path: Path) -> None:
    write(tmp_path)
    states = fold_partition(tmp_path, Stretch(TOPIC.log_epoch, CLICKS_TOPIC, 0, 0, 2))
    assert sorted(states) == ["u0", "u1"]
    assert fold_partition(tmp_path, Stretch("other:1", CLICKS_TOPIC, 0)) == {}
