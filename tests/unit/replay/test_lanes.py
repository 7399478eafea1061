"""A lane hands the events of its partitions over in one order, whatever pieces they come in and wherever it stopped."""

import random
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
import pytest
from msgspec import structs

from replay.lanes import LanePorts, LaneProgress, LaneRun
from replay.ranges import PartitionRange
from replay.runs import LaneFile
from replay.targets import Chunk
from schemas.event import CARTS_TOPIC, CLICKS_TOPIC
from schemas.privacy import Pseudonyms
from sinks.erasures import Tombstones, log_of
from sinks.lake_reads import PartitionLog
from tests.fakes.appended_source import Appended, AppendedSource
from tests.logs import NOON, event

CARTS, CLICKS = PartitionLog("a:1", CARTS_TOPIC, 0), PartitionLog("b:1", CLICKS_TOPIC, 0)
Seen = list[tuple[str, int]]


class ListTarget:
    """Keeps the order in which events came; what was not saved is lost."""

    def __init__(self) -> None:
        self.seen: Seen = []
        self.warm_up_count = 0

    def restore(self, saved: bytes) -> None:
        self.seen = msgspec.msgpack.decode(saved, type=Seen)

    def write(self, chunk: Chunk) -> None:
        for entry in chunk.merged():
            self.warm_up_count += entry.is_warm_up
            self.seen.append((entry.log.topic, entry.offset))

    def save(self) -> bytes:
        return msgspec.msgpack.encode(self.seen)

    def counts(self) -> Mapping[str, int]:
        return {"seen": len(self.seen)}

    def close(self) -> None:
        self.closed = True


def logs(seed: int) -> dict[PartitionLog, Appended]:
    """Two logs with gaps in their offsets, equal append times, and a broker's clock that goes back now and then."""
    chance = random.Random(seed)
    made: dict[PartitionLog, Appended] = {}
    for log, kind in ((CARTS, "add"), (CLICKS, "click")):
        entries, offset, now_ms = [], 0, NOON
        for number in range(chance.randrange(5, 60)):
            offset += chance.choice((1, 1, 1, 4))
            now_ms += chance.choice((0, 0, 1, 5, -2))
            entries.append((offset, now_ms, structs.replace(event(number, kind), user_id=f"u{number % 4}")))
        made[log] = entries
    return made


def run(
    source: AppendedSource,
    folder: Path,
    target: ListTarget,
    *,
    stop_after: int | None = None,
    first: int = 0,
    tombstones: Tombstones | None = None,
    reports: list[LaneProgress] | None = None,
) -> LaneProgress:
    asked = 0
    heard: list[LaneProgress] = [] if reports is None else reports

    def stopped() -> bool:
        nonlocal asked
        asked += 1
        return stop_after is not None and asked > stop_after

    lane = tuple(PartitionRange(log, 0, first, source.position(log)) for log in source.logs)
    ports = LanePorts(
        source=source,
        open_target=lambda _: target,
        tombstones=lambda: tombstones or Tombstones(),
        report=heard.append,
        stopped=stopped,
        wait=lambda _: None,
    )
    return LaneRun(0, lane, LaneFile(folder, 0), ports, save_every_s=0.0).run()


def merged(made: Mapping[PartitionLog, Appended]) -> Seen:
    """Sort by (greatest append time so far, topic, offset), by hand."""
    keyed = []
    for log, entries in made.items():
        floor_ms = 0
        for offset, append_ms, _ in entries:
            floor_ms = max(floor_ms, append_ms)
            keyed.append((floor_ms, log.topic, offset))
    return [(topic, offset) for _, topic, offset in sorted(keyed)]


@pytest.mark.parametrize("seed", range(20))
def test_all_events_come_once_in_the_order_of_append_times(seed: int, tmp_path: Path) -> None:
    made = logs(seed)
    for size in (1, 3, 1_000):
        target = ListTarget()
        (tmp_path / str(size)).mkdir()
        progress = run(AppendedSource(made, piece_size=size), tmp_path / str(size), target)
        assert target.seen == merged(made)
        assert progress.is_done
        assert progress.counts.events == len(target.seen)
        assert progress.counts.records == sum(entries[-1][0] + 1 for entries in made.values())


@pytest.mark.parametrize("stop_after", range(1, 8))
def test_a_lane_that_was_stopped_goes_on_where_it_was(stop_after: int, tmp_path: Path) -> None:
    made = logs(3)
    source, target = AppendedSource(made), ListTarget()
    while not run(source, tmp_path, target, stop_after=stop_after).is_done:
        target = ListTarget()  # all that was in memory is gone
    assert target.seen == merged(made)
    assert target.closed


def test_what_lies_before_the_range_is_warm_up(tmp_path: Path) -> None:
    made = logs(5)
    target = ListTarget()
    progress = run(AppendedSource(made), tmp_path, target, first=9)
    before = sum(offset < 9 for entries in made.values() for offset, _, _ in entries)
    assert target.warm_up_count == before == progress.counts.warm_up_events
    assert progress.counts.events == len(target.seen) - before


def test_events_of_erased_users_do_not_come_back(tmp_path: Path) -> None:
    made = logs(7)
    key = Pseudonyms(b"k" * 32)
    log = log_of(CLICKS.topic, CLICKS.log_epoch, CLICKS.partition)
    erased = Tombstones(pseudonyms=key).with_ends([(log, key.subject("u1"), 10**6)])
    target = ListTarget()
    progress = run(AppendedSource(made), tmp_path, target, tombstones=erased)
    gone = [(CLICKS.topic, offset) for offset, _, made_event in made[CLICKS] if made_event.user_id == "u1"]
    assert progress.counts.erased == len(gone) > 0
    assert target.seen == [each for each in merged(made) if each not in gone]


def test_a_rate_is_kept_and_a_new_one_from_then_on(tmp_path: Path) -> None:
    made = logs(13)
    source = AppendedSource(made, piece_size=1_000)
    now_s, rate = 0.0, 8.0
    reports: list[tuple[float, int]] = []

    def wait(seconds: float) -> None:
        nonlocal now_s
        now_s += seconds

    def report(progress: LaneProgress) -> None:
        nonlocal rate
        reports.append((now_s, progress.counts.records))
        rate = 8.0 if progress.counts.records < 40 else 40.0

    lane = tuple(PartitionRange(log, 0, 0, source.position(log)) for log in source.logs)
    ports = LanePorts(
        source=source,
        open_target=lambda _: ListTarget(),
        tombstones=Tombstones,
        report=report,
        stopped=lambda: False,
        wait=wait,
        rate=lambda: rate,
        clock=lambda: now_s,
    )
    done = LaneRun(0, lane, LaneFile(tmp_path, 0), ports).run()
    slow = [(at_s, records) for at_s, records in reports if records < 40]
    assert all(records <= 8 * at_s + 16 for at_s, records in slow), "faster than 8 records a second"
    assert len(slow) > 3, "the events come in a few large pieces, and then none for long"
    expected_s = slow[-1][1] / 8 + (done.counts.records - slow[-1][1]) / 40
    assert now_s == pytest.approx(expected_s, abs=2.5)


def test_how_far_it_is_is_told_and_never_goes_back(tmp_path: Path) -> None:
    reports: list[LaneProgress] = []
    run(AppendedSource(logs(11)), tmp_path, ListTarget(), reports=reports)
    told: Sequence[int] = [report.counts.records for report in reports]
    assert told == sorted(told)
    assert reports[-1].is_done
