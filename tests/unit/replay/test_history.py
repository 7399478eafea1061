"""The history of a range: what it says after each event, once, however often and by whomever it is written."""

import random
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from config.settings import Settings, load_settings
from features.catalog import FEATURES, STATUS_FIELDS
from replay.errors import CatalogChangedError
from replay.history import HistoryTarget, open_history
from replay.history_corrections import Corrections
from replay.plan import ReplayPlan, ReplayRequest
from replay.ranges import PartitionRange
from replay.runs import Runs
from replay.targets import Chunk, Into, Part, RunInfo
from schemas.event import CARTS_TOPIC, CLICKS_TOPIC, Event
from sinks.delta import opened
from sinks.derived_tables import FEATURE_HISTORY
from sinks.erasures import Tombstones
from sinks.feature_history import HistoryAppender
from sinks.lake_reads import PartitionLog
from sinks.log_pieces import Piece
from sinks.maintenance import maintain_lake
from tests import oracle
from tests.logs import DAY, HOUR, MINUTE, NOON, SECOND, event

CLICKS = PartitionLog("clicks:4", CLICKS_TOPIC, 0)
CARTS = PartitionLog("carts:4", CARTS_TOPIC, 0)
LANE = (CLICKS, CARTS)
FROM_ORACLE = [name for name in oracle.expected({}) if name != "clamped"]

Log = list[tuple[int, int, Event]]  # offset, append time, event


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.chdir(tmp_path)
    return load_settings({"home": tmp_path / "home"})


def shuffled(seed: int, count: int) -> dict[PartitionLog, Log]:
    """Logs of three users, with disorder, duplicates and late events, over a good day."""
    chance = random.Random(seed)
    logs: dict[PartitionLog, Log] = {CLICKS: [], CARTS: []}
    at_ms = 0
    for number in range(count):
        at_ms += chance.choice((SECOND, MINUTE, MINUTE, 8 * MINUTE, 31 * MINUTE))
        log = chance.choice(LANE)
        kinds = ("page_view", "click", "search") if log is CLICKS else ("add", "remove", "purchase")
        made = event(
            at_ms - chance.choice((0, 0, 0, 5 * MINUTE, 20 * MINUTE)),
            chance.choice(kinds),
            event_id=f"e{number if number % 7 else max(0, number - 3)}",
            product_id=f"p{chance.randrange(5)}",
            category_id=f"c{chance.randrange(3)}",
        )
        made = structs.replace(made, user_id=f"u{chance.randrange(3)}")
        logs[log].append((3 + 2 * len(logs[log]), NOON + at_ms, made))
    return logs


def run_info(logs: Mapping[PartitionLog, Log], *, first: int = 0, run_id: str = "run", version: int = 1) -> RunInfo:
    return RunInfo(run_id, "lake", Into.HISTORY, version, dict.fromkeys(logs, (first, 10**9)))


def chunks(logs: Mapping[PartitionLog, Log], *, first: int = 0, size: int = 40) -> Iterator[Chunk]:
    """Cut logs where all of one chunk was appended before all of the next; offsets below `first` are warm-up."""
    times = sorted(append_ms for log in logs.values() for _, append_ms, _ in log)
    cuts = [*times[size::size], times[-1] + 1]
    before_ms = 0
    for number, end_ms in enumerate(cuts):
        parts = []
        for log, entries in logs.items():
            found = [entry for entry in entries if before_ms <= entry[1] < end_ms]
            offsets, append_times = [offset for offset, _, _ in found], [append_ms for _, append_ms, _ in found]
            events = [made for _, _, made in found]
            piece = Piece((offsets or [0])[-1] + 1, offsets, append_times, events, [], 0)
            parts.append(Part(log, piece, sum(offset < first for offset in offsets)))
        yield Chunk(number, parts)
        before_ms = end_ms


def written(settings: Settings) -> list[dict[str, Any]]:
    handle = opened(settings.lake_path / "feature_history")
    assert handle is not None
    rows: list[dict[str, Any]] = (
        handle.to_pyarrow_table().sort_by([("topic", "ascending"), ("offset", "ascending")]).to_pylist()
    )
    return rows


class FixedSource:
    """Events in time order, as a source gives them."""

    def __init__(self, entries: Sequence[tuple[int, Event]]) -> None:
        self._entries = entries

    def in_time_order(
        self, log: PartitionLog, end: int, *, users: Mapping[str, int]
    ) -> Iterator[list[tuple[int, Event]]]:
        """Yield them all."""
        found = [entry for entry in self._entries if entry[0] < end and entry[1].user_id in users and log is CLICKS]
        yield sorted(found, key=lambda entry: (entry[1].event_time_ms, entry[0]))


NO_CORRECTIONS = Corrections(FixedSource([]), {}, Tombstones())  # type: ignore[arg-type]


def written_by(target: HistoryTarget, chunks_of_it: Iterable[Chunk]) -> None:
    for chunk in chunks_of_it:
        target.write(chunk)
    target.save()


def backfill(settings: Settings, logs: Mapping[PartitionLog, Log], *, first: int = 0, **how: Any) -> dict[str, int]:
    """Write the history of logs at one go; return the closing counts."""
    run = run_info(logs, first=first, **how)
    table = HistoryAppender(settings.lake_path, run.definition_version)
    target = HistoryTarget(run, LANE, table, NO_CORRECTIONS)
    written_by(target, chunks(logs, first=first))
    return dict(target.counts())


def test_each_row_is_what_the_oracle_says_just_after_the_event(settings: Settings) -> None:
    logs = shuffled(1, 160)
    counts = backfill(settings, logs)
    assert counts == {"events": 160, "written": 160, "held": 0, "replaced": 0, "users": 3}
    order = sorted(
        (append_ms, log.topic, offset, made) for log, entries in logs.items() for offset, append_ms, made in entries
    )
    found = {(row["topic"], row["offset"]): row for row in written(settings)}
    assert len(found) == 160
    so_far: dict[str, dict[str, list[tuple[int, Event]]]] = {}
    for append_ms, topic, offset, made in order:
        own = so_far.setdefault(made.user_id, {CLICKS_TOPIC: [], CARTS_TOPIC: []})
        own[topic].append((offset, made))
        row = found[topic, offset]
        expected = oracle.expected(own, made.event_time_ms)
        assert {name: row[name] for name in FROM_ORACLE} == {name: expected[name] for name in FROM_ORACLE}
        assert (row["user_id"], row["append_time_ms"], row["event_time_ms"]) == (
            made.user_id, append_ms, made.event_time_ms,
        )  # fmt: skip
        assert (row["definition_version"], row["feature_count"], row["run_id"]) == (
            1,
            len(FEATURES) + len(STATUS_FIELDS),
            "run",
        )
    outcomes = Counter(row["outcome"] for row in found.values())
    assert outcomes.keys() == {"applied", "duplicate", "late"}


def test_what_lies_before_the_range_makes_states_and_no_rows(settings: Settings) -> None:
    logs = shuffled(2, 120)
    backfill(settings, logs)
    whole = {(row["topic"], row["offset"]): row for row in written(settings)}
    other = load_settings({"home": settings.home / "other"})
    counts = backfill(other, logs, first=61)
    part = written(other)
    assert counts["events"] == len(part) == sum(offset >= 61 for _, offset in whole)
    assert part == [whole[row["topic"], row["offset"]] for row in part]


def test_a_second_backfill_adds_nothing_and_an_overlapping_one_what_is_missing(settings: Settings) -> None:
    logs = shuffled(3, 100)
    early = {log: entries[:30] for log, entries in logs.items()}
    late = {log: entries[20:] for log, entries in logs.items()}
    first = backfill(settings, late, run_id="late")
    before = written(settings)
    assert backfill(settings, late, run_id="again") == {**first, "written": 0, "held": first["events"]}
    assert written(settings) == before
    assert backfill(settings, early, run_id="early")["written"] == 40
    rows = written(settings)
    assert len(rows) == len({(row["topic"], row["offset"]) for row in rows}) == 100
    assert Counter(row["run_id"] for row in rows) == {"late": len(before), "early": 40}


@pytest.mark.parametrize("cut", [1, 2, 3])
def test_killed_anywhere_and_resumed_with_other_chunks_it_writes_each_row_once(settings: Settings, cut: int) -> None:
    logs = shuffled(4, 120)
    run = run_info(logs)
    first = open_history(settings, run, LANE)
    cut_chunks = list(chunks(logs, size=20))
    for chunk in cut_chunks[:cut]:
        first.write(chunk)
    saved = first.save()
    for chunk in cut_chunks[cut : cut + 2]:
        first.write(chunk)
    first.save()  # this one is durable, and whoever kept what it returned is killed
    second = open_history(settings, run, LANE)
    second.restore(saved)
    kept = {part.piece.offsets[-1] for chunk in cut_chunks[:cut] for part in chunk.parts if part.piece.offsets}
    assert kept
    done_ms = max(time for chunk in cut_chunks[:cut] for part in chunk.parts for time in part.piece.append_times_ms)
    rest = {log: [entry for entry in entries if entry[1] > done_ms] for log, entries in logs.items()}
    for chunk in chunks(rest, size=33):
        second.write(chunk)
    second.save()
    counts = second.counts()
    assert counts["events"] == 120
    assert counts["held"] > 0
    resumed = written(settings)
    other = load_settings({"home": settings.home / "other"})
    backfill(other, logs)
    assert resumed == written(other)


def test_after_a_repair_in_event_time_order_it_goes_on_with_the_repaired_state(settings: Settings) -> None:
    # the third came back from the dead letters: it was late for live, and the repair up to version 3 has counted it
    entries = [(0, event(0)), (1, event(HOUR)), (2, event(MINUTE)), (5, event(HOUR + MINUTE))]
    corrections = Corrections(FixedSource(entries), {CLICKS: {"u1": 3}}, Tombstones())  # type: ignore[arg-type]
    table = HistoryAppender(settings.lake_path, 1)
    target = HistoryTarget(run_info({CLICKS: []}), [CLICKS], table, corrections)
    for chunk in chunks({CLICKS: [(offset, NOON + DAY + offset, made) for offset, made in entries]}):
        target.write(chunk)
    target.save()
    rows = written(settings)
    assert [(row["outcome"], row["page_view_count_24h"]) for row in rows] == [
        ("applied", 1), ("applied", 2), ("late", 2), ("applied", 4),
    ]  # fmt: skip


def test_another_definition_version_stands_beside(settings: Settings) -> None:
    logs = shuffled(5, 40)
    backfill(settings, logs)
    before = written(settings)
    assert backfill(settings, logs, version=2)["written"] == 40
    assert backfill(settings, logs, version=2)["written"] == 0
    rows = written(settings)
    assert Counter(row["definition_version"] for row in rows) == {1: 40, 2: 40}
    assert [row for row in rows if row["definition_version"] == 1] == before


def test_a_replay_that_was_begun_by_another_definition_version_is_refused(settings: Settings) -> None:
    with pytest.raises(
        CatalogChangedError, match="begun by code with definition version 2, and this code has version 1"
    ):
        open_history(settings, run_info({CLICKS: []}, version=2), [CLICKS])
    assert opened(settings.lake_path / "feature_history") is None


def smaller_catalog(settings: Settings) -> HistoryAppender:
    """Return the table as a release sees it that does not know the last feature."""
    columns = tuple(column for column in FEATURE_HISTORY.columns if column.name != FEATURES[-1].name)
    return HistoryAppender(settings.lake_path, 1, replace(FEATURE_HISTORY, columns=columns))


def test_a_larger_catalog_replaces_the_rows_of_its_range_that_lack_features(settings: Settings) -> None:
    logs = shuffled(6, 60)
    early = {log: entries[:20] for log, entries in logs.items()}
    table, last = smaller_catalog(settings), FEATURES[-1].name
    target = HistoryTarget(run_info(early), LANE, table, NO_CORRECTIONS)
    written_by(target, chunks(early))
    assert last not in written(settings)[0]

    with pytest.raises(CatalogChangedError, match="--restart"):
        open_history(settings, run_info(early), LANE).restore(target.save())
    counts = backfill(settings, logs, first=11)
    rows = written(settings)
    assert counts["replaced"] == sum(offset >= 11 for entries in early.values() for offset, _, _ in entries)
    assert len(rows) == len({(row["topic"], row["offset"]) for row in rows})
    values = {row["offset"] >= 11: row[last] for row in rows}
    assert values[True] is not None
    assert values[False] is None

    # and the other way round: a release that knows fewer features adds nothing to what is there
    assert table.replace_poorer(CLICKS, 0, 10**9) == 0
    poor = HistoryTarget(run_info(early), LANE, table, NO_CORRECTIONS)
    written_by(poor, chunks(early))
    assert poor.counts()["written"] == 0
    assert written(settings) == rows


def test_only_the_rows_of_the_users_that_are_replayed_are_replaced(settings: Settings) -> None:
    logs = shuffled(7, 40)
    written_by(HistoryTarget(run_info(logs), LANE, smaller_catalog(settings), NO_CORRECTIONS), chunks(logs))
    of_u1 = sum(made.user_id == "u1" for _, _, made in logs[CLICKS])
    full = HistoryAppender(settings.lake_path, 1)
    assert full.replace_poorer(CLICKS, 0, 10**9, users=["u1", "o'hara"]) == of_u1
    assert len(written(settings)) == 40 - of_u1


def test_two_backfills_of_one_range_at_the_same_time_write_each_row_once(settings: Settings) -> None:
    logs = shuffled(8, 200)

    def run(name: str) -> dict[str, int]:
        target = open_history(settings, run_info(logs, run_id=name), LANE)
        for chunk in chunks(logs, size=20):
            target.write(chunk)
            target.save()
        return dict(target.counts())

    with ThreadPoolExecutor(2) as pool:
        counts = list(pool.map(run, ("first", "second")))
    rows = written(settings)
    assert len(rows) == len({(row["topic"], row["offset"]) for row in rows}) == 200
    assert sum(each["written"] for each in counts) == 200
    assert all(each["written"] + each["held"] == 200 for each in counts)


def test_after_maintenance_the_rows_are_known_and_can_be_replaced(settings: Settings) -> None:
    logs = shuffled(9, 90)
    target = HistoryTarget(run_info(logs), LANE, smaller_catalog(settings), NO_CORRECTIONS)
    for chunk in chunks(logs, size=10):
        target.write(chunk)
        target.save()
    before = written(settings)
    report = maintain_lake(settings.lake_path, retention_hours=168)
    merged = {table.name: table.merged_files for table in report.tables}
    assert merged["feature_history"] > 0
    assert written(settings) == before
    again = HistoryTarget(run_info(logs), LANE, smaller_catalog(settings), NO_CORRECTIONS)
    written_by(again, chunks(logs))
    assert again.counts()["written"] == 0
    counts = backfill(settings, logs)
    assert (counts["replaced"], counts["written"]) == (90, 90)
    rows = written(settings)
    assert [(row["topic"], row["offset"]) for row in rows] == [(row["topic"], row["offset"]) for row in before]
    assert {row["feature_count"] for row in rows} == {len(FEATURES) + len(STATUS_FIELDS)}


def test_backfills_of_two_versions_may_run_at_once_and_neither_goes_on_with_the_others(tmp_path: Path) -> None:
    request = ReplayRequest("lake", Into.HISTORY, "beginning", "end", (CLICKS_TOPIC,))
    own = ReplayPlan(request, 1, None, ((PartitionRange(CLICKS, 0, 0, 9),),))
    other = structs.replace(own, definition_version=2)
    runs = Runs(tmp_path)
    with (
        runs.begun(own, 1, resume=False, restart=False),
        runs.begun(other, 2, resume=False, restart=False),
    ):
        newest = runs.newest(request)
        assert newest is not None
        assert newest.plan == own
    published = structs.replace(own, request=structs.replace(request, into=Into.TOPIC))
    assert published.overlaps(structs.replace(published, definition_version=2))
