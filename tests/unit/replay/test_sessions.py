"""The table `sessions`, made of real Delta tables, against brute force over all events at once."""

import json
import random
import threading
from collections.abc import Iterable, Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from deltalake import DeltaTable
from typer.testing import CliRunner

from cli.main import app
from features.apply import fold
from features.finalize import finalize
from features.state import decode
from replay import sessions as job
from replay.errors import NotRetainedError
from replay.session_runs import SessionEvent, sessions_of
from replay.sessions import make_sessions
from schemas.event import CARTS_TOPIC, CLICKS_TOPIC, EVENT_TOPICS, Event, Record
from schemas.partitioner import partition_of
from schemas.privacy import Pseudonyms
from sinks import sessions as table
from sinks.delta import opened
from sinks.erasures import REQUESTED, ErasureRow, note_erasures
from sinks.errors import LakeBusyError, LakePinnedError, LakeUnavailableError
from sinks.lake import LakeSink
from sinks.lake_lock import exclusive
from sinks.lake_root import Pin, pinned
from sinks.maintenance import maintain_lake
from sinks.rows import PartitionFlush, RawRow
from tests.logs import DAY, HOUR, MINUTE, NOON, event, topic_of

FIRST = date(2023, 11, 15)  # NOON is of this day
GAP = 30 * MINUTE


class Shop:
    """A lake that events are written to in the order in which they arrive; what counts as append time is told."""

    def __init__(self, lake: Path, partitions: int = 2) -> None:
        self.lake = lake
        self._partitions = partitions
        self._next: dict[tuple[str, int], int] = {}
        self._sink = LakeSink(lake)

    def write(self, events: Iterable[Event], append_ms: int | None = None) -> None:
        flushes: dict[tuple[str, int], list[RawRow]] = {}
        for made in events:
            log = topic_of(made), partition_of(made.user_id.encode(), self._partitions)
            offset = self._next.get(log, 0)
            self._next[log] = offset + 1
            at_ms = made.event_time_ms if append_ms is None else append_ms
            record = Record(*log, offset, at_ms, made.user_id.encode(), b"framed")
            flushes.setdefault(log, []).append(RawRow(record, made, 7, at_ms))
        self._sink.write(
            [
                PartitionFlush(
                    topic, topic, f"{topic}:{self._partitions}", number, rows[0].record.offset, rows[-1].record.offset,
                    raw=rows, features=[], letters=[],
                )
                for (topic, number), rows in flushes.items()
            ]
        )  # fmt: skip


def of(user_id: str, at_ms: int, kind: str = "page_view", **fields: Any) -> Event:
    made = event(at_ms, kind, **fields)
    values = {name: getattr(made, name) for name in made.__struct_fields__}
    return Event(**{**values, "user_id": user_id, "event_id": fields.get("event_id") or f"{user_id}-{made.event_id}"})


def held(lake: Path) -> list[dict[str, Any]]:
    handle = opened(lake / "sessions")
    rows: list[dict[str, Any]] = handle.to_pyarrow_table().to_pylist() if handle else []
    return sorted(rows, key=lambda row: (row["user_id"], row["start_ms"]))


def brute_force(events: Iterable[Event], closed_before_ms: int) -> list[dict[str, Any]]:
    """Compare each event with each other; nothing of the code under test is used."""
    kept: dict[str, list[Event]] = {}
    for made in sorted(events, key=lambda made: (made.user_id, made.event_time_ms, topic_of(made) == CLICKS_TOPIC)):
        own = kept.setdefault(made.user_id, [])
        same = [e for e in own if e.event_id == made.event_id and topic_of(e) == topic_of(made)]
        if not any(made.event_time_ms - e.event_time_ms <= 10 * MINUTE for e in same):
            own.append(made)
    rows = []
    for user_id, own in kept.items():
        firsts = [i for i, e in enumerate(own) if i == 0 or e.event_time_ms - own[i - 1].event_time_ms > GAP]
        for begin, end in zip(firsts, [*firsts[1:], len(own)], strict=True):
            run = own[begin:end]
            if run[-1].event_time_ms < closed_before_ms:
                rows.append(brute_row(user_id, run))
    return sorted(rows, key=lambda row: (row["user_id"], row["start_ms"]))


def brute_row(user_id: str, run: Sequence[Event]) -> dict[str, Any]:
    def count(kind: str) -> int:
        return sum(e.kind == kind for e in run)

    def money(kind: str) -> int:
        return sum((e.quantity or 0) * (e.unit_price_minor or 0) for e in run if e.kind == kind)

    start, end = run[0].event_time_ms, run[-1].event_time_ms
    return {
        "user_id": user_id,
        "start_ms": start,
        "end_ms": end,
        "duration_s": (end - start) / 1000,
        "event_count": len(run),
        "page_view_count": count("page_view"),
        "click_count": count("click"),
        "search_count": count("search"),
        "cart_add_count": count("add"),
        "cart_remove_count": count("remove"),
        "purchase_count": count("purchase"),
        "cart_value_minor": money("add") - money("remove"),
        "purchase_value_minor": money("purchase"),
        "product_distinct": len({e.product_id for e in run if e.product_id}),
        "device": next((e.device for e in run if e.device), None),
        "capped": end - start > DAY,
        "session_date": datetime.fromtimestamp(start / 1000, UTC).date(),
    }


def many_events(seed: int) -> list[Event]:
    """Make 10 users over 3 days: runs with gaps about the limit, over midnight, both topics, duplicates, a bot."""
    chance = random.Random(seed)
    kinds = ["page_view", "click", "search", "add", "remove", "purchase"]
    made: list[Event] = []
    for number in range(9):
        at = chance.randrange(0, 6 * HOUR)
        while at < 60 * HOUR:
            kind = chance.choice(kinds)
            product = chance.choice(["p1", "p2", "p3"]) if kind not in {"page_view", "search"} else None
            fields: dict[str, Any] = {"product_id": product, "device": chance.choice([None, "app", "web"])}
            if kind in {"add", "remove", "purchase"}:
                fields |= {"quantity": chance.randrange(1, 4), "unit_price_minor": chance.randrange(100, 900)}
            made.append(of(f"u{number}", at, kind, **fields))
            if chance.random() < 0.2:  # delivered twice, or its id used again much later
                later = chance.choice([0, 0, 9 * MINUTE, 10 * MINUTE, 10 * MINUTE + 1, 25 * MINUTE])
                made.append(of(f"u{number}", at + later, kind, event_id=made[-1].event_id, **fields))
            at += chance.choice([1, 5 * MINUTE, GAP - 1, GAP, GAP, GAP + 1, 3 * HOUR])
    made += [of("bot", at) for at in range(0, 50 * HOUR, 20 * MINUTE)]
    chance.shuffle(made)
    return made


@pytest.mark.parametrize("seed", range(6))
def test_days_equal_brute_force_however_the_work_is_cut(tmp_path: Path, seed: int) -> None:
    events = many_events(seed)
    newest_ms = max(made.event_time_ms for made in events)
    shop = Shop(tmp_path)
    for first in range(0, len(events), 100):
        shop.write(events[first : first + 100], append_ms=newest_ms)
    report = make_sessions(tmp_path, FIRST, date(2023, 11, 17), None, events_at_once=40)
    expected = brute_force(events, newest_ms - GAP)
    expected = [row for row in expected if row["session_date"] <= date(2023, 11, 17)]
    assert held(tmp_path) == expected
    assert sum(day.sessions for day in report.days) == len(expected)
    assert sum(day.events for day in report.days) == sum(row["event_count"] for row in expected)
    assert sum(day.capped for day in report.days) == sum(row["capped"] for row in expected)


def test_a_bot_of_days_is_one_session_of_its_first_day(tmp_path: Path) -> None:
    shop = Shop(tmp_path)
    shop.write([of("bot", at) for at in range(0, 6 * DAY, 25 * MINUTE)])
    shop.write([of("u1", 8 * DAY)])
    for day in range(7):
        make_sessions(tmp_path, FIRST + timedelta(days=day), FIRST + timedelta(days=day), None)
    (row,) = held(tmp_path)
    assert row["capped"]
    assert row["event_count"] == len(range(0, 6 * DAY, 25 * MINUTE))


def test_a_session_that_is_open_or_may_go_on_is_not_written_until_it_is_closed(tmp_path: Path) -> None:
    shop = Shop(tmp_path)
    shop.write([of("u1", 0), of("u2", GAP)])
    (day,) = make_sessions(tmp_path, FIRST, FIRST, None).days
    assert (day.sessions, day.open) == (0, 2)  # exactly 30 min later it could still go on
    shop.write([of("u2", GAP + 1)])
    (day,) = make_sessions(tmp_path, FIRST, FIRST, None).days
    assert (day.sessions, day.before, day.open) == (1, 0, 1)
    assert [row["user_id"] for row in held(tmp_path)] == ["u1"]


def test_a_closed_session_is_what_features_said_while_it_was_open(tmp_path: Path) -> None:
    # an id that is used again much later is another event here, and a duplicate there if nothing came between
    ids: dict[str, int] = {}
    events = [
        made
        for made in sorted(many_events(99), key=lambda made: made.event_time_ms)
        if made.event_time_ms - ids.setdefault(made.event_id, made.event_time_ms) <= 10 * MINUTE
    ]
    shop = Shop(tmp_path)
    shop.write([made for made in events if made.user_id == "u3"])
    shop.write([of("end", 70 * HOUR)])
    make_sessions(tmp_path, FIRST, date(2023, 11, 18), None)
    rows = [row for row in held(tmp_path) if row["user_id"] == "u3"]
    assert rows
    for row in rows:
        states = {}
        for topic in EVENT_TOPICS:
            log = [(n, e) for n, e in enumerate(e for e in events if e.user_id == "u3" and topic_of(e) == topic)
                   if e.event_time_ms <= row["end_ms"]]  # fmt: skip
            states[topic] = decode(fold(None, log).state) if log else None
        values = finalize(states, row["end_ms"])
        for name in ("start_ms", "duration_s", "event_count", "page_view_count", "cart_add_count", "cart_value_minor"):
            assert values[f"session_{name}"] == row[name], name
        assert values["session_product_distinct"] == row["product_distinct"]


def test_a_late_event_changes_its_day_when_that_is_made_again_and_no_other(tmp_path: Path) -> None:
    shop = Shop(tmp_path)
    shop.write([of("u1", 0), of("u1", 50 * MINUTE), of("u1", DAY), of("u1", 3 * DAY)])
    make_sessions(tmp_path, FIRST, date(2023, 11, 17), None)
    assert [row["event_count"] for row in held(tmp_path)] == [1, 1, 1]
    before = held(tmp_path)[2]
    shop.write([of("u1", 25 * MINUTE)], append_ms=NOON + 3 * DAY)
    (day,) = make_sessions(tmp_path, FIRST, FIRST, None).days
    assert (day.before, day.sessions) == (2, 1)
    assert [row["event_count"] for row in held(tmp_path)] == [3, 1]
    assert held(tmp_path)[1] == before


def test_again_gives_the_same_and_a_day_that_lost_all_its_sessions_is_empty(tmp_path: Path) -> None:
    shop = Shop(tmp_path)
    midnight = 12 * HOUR
    shop.write([of("u1", midnight + MINUTE), of("u2", 0), of("u2", 2 * DAY)])
    for _ in range(2):
        make_sessions(tmp_path, FIRST, date(2023, 11, 16), None)
        assert [row["session_date"] for row in held(tmp_path)] == [date(2023, 11, 16), FIRST]
    maintain_lake(tmp_path, retention_hours=24)
    shop.write([of("u1", midnight - MINUTE)], append_ms=NOON + 2 * DAY)  # so it began the day before
    make_sessions(tmp_path, FIRST, date(2023, 11, 16), None)
    assert [(row["session_date"], row["event_count"]) for row in held(tmp_path)] == [(FIRST, 2), (FIRST, 1)]


def test_a_run_that_dies_leaves_the_old_day_and_the_next_one_mends_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = Shop(tmp_path)
    shop.write([of("u1", 0), of("u1", DAY), of("u1", 3 * DAY)])
    make_sessions(tmp_path, FIRST, date(2023, 11, 16), None)
    before = held(tmp_path)
    shop.write([of("u2", 0), of("u2", DAY)], append_ms=NOON + 3 * DAY)
    real, calls = table.replace_day, []

    def dies(*arguments: Any) -> int:
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr("replay.sessions.replace_day", dies)
    with pytest.raises(KeyboardInterrupt):
        make_sessions(tmp_path, FIRST, date(2023, 11, 16), None)
    assert [row["user_id"] for row in held(tmp_path)] == ["u1", "u1", "u2"]  # the first day is new, the second is not
    assert held(tmp_path)[:2] == before
    monkeypatch.setattr("replay.sessions.replace_day", real)
    make_sessions(tmp_path, FIRST, date(2023, 11, 16), None)
    assert [row["user_id"] for row in held(tmp_path)] == ["u1", "u1", "u2", "u2"]


def test_two_that_replace_one_day_at_once_do_not_both_succeed(tmp_path: Path) -> None:
    made = next(iter(sessions_of([SessionEvent("u1", NOON, CLICKS_TOPIC, "e", "click", None, None, None, None)])))
    batch = table.session_batch(FIRST, list(zip(job._row(made), strict=True)))
    table.replace_day(tmp_path, FIRST, [batch])
    gate, outcomes = threading.Barrier(3), []

    def work() -> None:
        gate.wait()
        try:
            table.replace_day(tmp_path, FIRST, [batch])
            outcomes.append("done")
        except LakeUnavailableError:
            outcomes.append("refused")

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes.count("done") >= 1
    assert len(held(tmp_path)) == 1


def test_events_of_erased_users_make_no_session(tmp_path: Path) -> None:
    shop = Shop(tmp_path, partitions=1)
    shop.write([of("u1", 0), of("u2", MINUTE), of("u1", 2 * MINUTE), of("u1", 3 * HOUR), of("u2", 2 * DAY)])
    pseudonyms = Pseudonyms(b"k" * 32)
    epoch = f"{CLICKS_TOPIC}:1"
    note_erasures(
        tmp_path,
        [ErasureRow("r", REQUESTED, pseudonyms.subject("u1"), pseudonyms.key_id, epoch, CLICKS_TOPIC, 0, 3, NOON)],
    )
    make_sessions(tmp_path, FIRST, FIRST, pseudonyms)
    assert [(row["user_id"], row["start_ms"] - NOON) for row in held(tmp_path)] == [("u1", 3 * HOUR), ("u2", MINUTE)]


def test_a_range_outside_of_the_lake_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    with pytest.raises(NotRetainedError, match="holds no events"):
        make_sessions(tmp_path / "none", None, None, None)
    LakeSink(tmp_path)
    with pytest.raises(NotRetainedError, match="holds no events"):
        make_sessions(tmp_path, None, None, None)
    Shop(tmp_path).write([of("u1", 0), of("u1", DAY)])
    with pytest.raises(NotRetainedError, match=r"2023-11-14 is before what the lake holds.*2023-11-15 to 2023-11-16"):
        make_sessions(tmp_path, date(2023, 11, 14), FIRST, None)
    with pytest.raises(NotRetainedError, match="2023-11-17 is after"):
        make_sessions(tmp_path, FIRST, date(2023, 11, 17), None)
    with pytest.raises(LakePinnedError):
        make_sessions(pinned(tmp_path, Pin({"raw_events": 1})), FIRST, FIRST, None)
    with exclusive(tmp_path), pytest.raises(LakeBusyError):
        make_sessions(tmp_path, FIRST, FIRST, None)
    assert not DeltaTable.is_deltatable(str(tmp_path / "sessions"))


@pytest.fixture
def home(tmp_path: Path) -> Path:
    Shop(tmp_path / "lake").write([of("u1", 0), of("u1", MINUTE, "purchase"), of("u2", DAY), of("u3", 2 * DAY)])
    return tmp_path


def run(home: Path, *options: str) -> Any:
    return CliRunner().invoke(app, ["--home", str(home), "lake", "sessions", *options])


def test_the_command_makes_yesterday_and_today_unless_told_otherwise(home: Path) -> None:
    done = run(home, "--json")
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert [(day["day"], day["sessions"], day["open"]) for day in report["days"]] == [
        ("2023-11-16", 1, 0),
        ("2023-11-17", 0, 1),
    ]
    assert report["closed_before_ms"] == NOON + 2 * DAY - GAP
    assert "2023-11-16: 1 sessions, 0 still open (1 of 2 days)" in done.stderr
    done = run(home, "--day", "2023-11-15")
    assert "Sessions whose last event was before 2023-11-17 11:30:00 UTC are closed." in done.stdout
    assert run(home, "--from", "2023-11-15", "--to", "2023-11-16").exit_code == 0
    assert [(row["user_id"], row["purchase_count"]) for row in held(home / "lake")] == [("u1", 1), ("u2", 0)]


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (("--day", "yesterday"), "'yesterday' is no day"),
        (("--day", "2999-01-01"), "has not begun"),
        (("--day", "2023-11-15", "--from", "2023-11-15"), "combined"),
        (("--from", "2023-11-15"), "give both"),
        (("--from", "2023-11-17", "--to", "2023-11-15"), "is after --to"),
    ],
)
def test_what_is_no_day_is_wrong_use(home: Path, options: Sequence[str], why: str) -> None:
    done = run(home, *options)
    assert done.exit_code == 2
    assert why in " ".join(done.stderr.replace("│", " ").split())


def test_both_topics_join_in_one_session() -> None:
    rows = [
        SessionEvent("u1", NOON, CLICKS_TOPIC, "1", "page_view", None, None, None, None),
        SessionEvent("u1", NOON + 20 * MINUTE, CARTS_TOPIC, "1", "add", "p1", 2, 150, "app"),
        SessionEvent("u1", NOON + 40 * MINUTE, CLICKS_TOPIC, "2", "click", "p1", None, None, "web"),
    ]
    (only,) = sessions_of(rows)
    assert (only.event_count, only.sums["cart_value_minor"], only.device, only.products) == (3, 300, "app", {"p1"})
