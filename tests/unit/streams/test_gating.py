"""The gatekeeper: what it counts, when it halts, and what it makes of notes that others have left."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from config.errors import SettingsError
from config.quality import DriftSettings, GatePolicy, GateSettings
from feature_repo.errors import OnlineStoreError
from feature_repo.gate_store import Accepted, GateNotes, Halt, Override
from quality.known_ids import KnownIds, id_hashes
from schemas.event import CARTS_TOPIC, CLICKS_TOPIC, Event, Record
from sinks.errors import LakeUnavailableError
from sinks.rows import RawRow
from streams.decoding import DecodedBatch
from streams.gate_counting import rules_of
from streams.gating import GateNews, WorkerGates
from streams.metrics import WorkerMetrics
from streams.ports import Batch, TopicPartition

T0 = 1_700_000_000_000


class Notes:
    def __init__(self) -> None:
        self.notes = GateNotes()
        self.is_down = False
        self.hidden = 0
        self.published: dict[str, Mapping[str, Any]] = {}

    async def read(self, topic: str) -> GateNotes:
        self._check()
        if self.hidden:
            self.hidden -= 1
            return GateNotes()
        return self.notes if topic == CLICKS_TOPIC else GateNotes()

    async def halt(self, halt: Halt) -> bool:
        self._check()
        is_first = self.notes.halt is None
        if is_first:
            self.notes = GateNotes(halt, self.notes.accepted, self.notes.overrides)
        return is_first

    async def publish(self, topic: str, worker: str, counts: Mapping[str, Any]) -> None:
        self._check()
        self.published[topic] = counts

    async def forget(self, topic: str, workers: Sequence[str]) -> None:
        self._check()

    def _check(self) -> None:
        if self.is_down:
            raise OnlineStoreError("Redis does not answer.")


class Tables:
    def __init__(self, known: Mapping[str, KnownIds | None] | None = None) -> None:
        self.known = dict(known or {})

    def newest(self) -> Mapping[str, KnownIds | None]:
        return self.known


class Writers:
    def is_expected(self, topic: str, schema_id: int) -> bool:
        return schema_id == 1

    def describe(self, schema_id: int) -> str:
        return f"fingerprint of {schema_id}"


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def now_ms(self) -> int:
        return T0

    def monotonic_s(self) -> float:
        self.now_s += 10  # whatever is due at times is due now
        return self.now_s


class World:
    def __init__(
        self, *, tell: Callable[[GateNews], None] | None = None, tables: Tables | None = None, **gates: Any
    ) -> None:
        self.notes, self.news = Notes(), list[GateNews]()
        self.gates = WorkerGates(
            rules_of(GateSettings(**{"min_count": 100, **gates})),
            self.notes,
            worker="w",
            epochs={CLICKS_TOPIC: "e", CARTS_TOPIC: "e"},
            tables=tables or Tables(),
            writers=Writers(),
            tellers=[*([tell] if tell else []), self.news.append],
            metrics=WorkerMetrics(CollectorRegistry()),
            clock=Clock(),
        )

    def judge(self, *works: DecodedBatch) -> list[str | None]:
        """Judge batches one after the other, and let what is told be told."""

        async def body() -> list[str | None]:
            said = [await self.gates.judge(CLICKS_TOPIC, [work]) for work in works]
            while tasks := [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]:
                await asyncio.gather(*tasks)
            return said

        return asyncio.run(body())


def batch(
    begin: int,
    count: int,
    *,
    bad: float = 0.0,
    age_ms: int = 50,
    at_ms: int = T0,
    schema_id: int = 1,
    step_ms: int = 1,
    partition: int = 0,
) -> DecodedBatch:
    """Return clicks, one each `step_ms`, of which a share has no category."""
    rows = []
    for offset in range(begin, begin + count):
        time_ms = at_ms + (offset - begin) * step_ms
        category = None if bad and offset % round(1 / bad) == 0 else "c"
        event = Event(
            event_id=str(offset), kind="click", user_id=f"u{offset}", event_time_ms=time_ms - age_ms,
            product_id="p", category_id=category,
        )  # fmt: skip
        rows.append(RawRow(Record(CLICKS_TOPIC, partition, offset, time_ms, b"k", b"v"), event, schema_id, time_ms))
    end = begin + count
    whole = Batch(TopicPartition(CLICKS_TOPIC, partition), [row.record for row in rows], end, 0, end)
    return DecodedBatch(whole, rows, [], {})


def accepted(offset: int, epoch: str = "e") -> Accepted:
    return Accepted(epoch, {0: offset}, T0, "mended")


def test_a_null_bug_halts_within_one_window_and_says_where() -> None:
    world = World()
    said = world.judge(batch(0, 1_000), batch(1_000, 1_000, bad=0.05))
    assert said[0] is None
    assert said[1] is not None
    assert said[1].startswith("nulls: click.category_id is empty in")
    halt = world.notes.notes.halt
    assert halt is not None
    assert halt.evidence["offsets"] == {"0": [1_000, 1_980]}
    assert [(news.gate, news.step) for news in world.news] == [("nulls", "halted")]


def test_five_percent_of_nulls_halt_before_a_window_has_passed_and_before_drift_can_look() -> None:
    gates = GateSettings()
    world = World(min_count=gates.min_count)  # as the settings have it
    step_ms, size = 250, 40  # four clicks a second
    healthy = [batch(n * size, size, step_ms=step_ms, at_ms=T0 + n * size * step_ms) for n in range(60)]
    began_ms = T0 + 60 * size * step_ms
    broken = [
        batch(n * size, size, bad=0.05, step_ms=step_ms, at_ms=T0 + n * size * step_ms) for n in range(60, 60 + 30)
    ]
    said = world.judge(*healthy, *broken)
    assert not any(said[:60])
    first = next(n for n, halted in enumerate(said) if halted)
    halted_ms = T0 + (first + 1) * size * step_ms
    assert halted_ms - began_ms < gates.window_ms < DriftSettings().window_ms
    assert said[first:] == [said[first]] * len(said[first:])


def test_in_a_backlog_a_partition_that_is_hours_behind_does_not_hide_what_another_one_reads() -> None:
    world, size, step_ms = World(), 30, 1_000  # half a minute of a click a second
    behind_ms, broken_from = 2 * 3_600_000, 20
    said = []
    for n in range(broken_from + 10):
        at_ms, begin = T0 + n * size * step_ms, n * size
        bad = 1 / 70 if n >= broken_from else 0.0  # half of it would pass
        said += world.judge(batch(begin, size, at_ms=at_ms, step_ms=step_ms, bad=bad))
        said += world.judge(batch(begin, size, at_ms=at_ms - behind_ms, step_ms=step_ms, partition=1))
    halt = world.notes.notes.halt
    assert not any(said[: 2 * broken_from])
    assert halt is not None
    began_ms = T0 + broken_from * size * step_ms
    assert began_ms < halt.evidence["event_time_ms"] <= began_ms + GateSettings().window_ms
    assert set(halt.evidence["offsets"]) == {"0"}


def test_a_halt_stands_for_whoever_reads_it_and_each_tells_the_same_once() -> None:
    world = World()
    assert all(world.judge(batch(0, 500, bad=0.5), batch(500, 500, bad=0.5), batch(1_000, 500)))
    assert [news.step for news in world.news] == ["halted"]
    other = World()  # or the same after a kill -9: nobody knows whether it has told
    other.notes.notes = world.notes.notes
    assert all(other.judge(batch(0, 10), batch(10, 10)))
    assert other.news == world.news


def test_of_two_workers_that_halt_at_once_one_is_told() -> None:
    world = World()
    assert world.judge(batch(0, 500)) == [None]
    world.notes.notes = GateNotes(Halt(CLICKS_TOPIC, "references", T0 - 5, "the other was faster"))
    world.notes.hidden = 2  # it is there when ours is noted, and was not when we looked
    assert world.judge(batch(500, 500, bad=0.5)) == ["references: the other was faster"]
    assert [(news.gate, news.at_ms) for news in world.news] == [("references", T0 - 5)]


def test_a_violation_in_the_middle_of_a_long_batch_is_not_averaged_away() -> None:
    world = World(window_ms=10_000)
    broken, good = batch(0, 200, bad=0.5, step_ms=10).rows, batch(200, 50_000, at_ms=T0 + 60_000, step_ms=10).rows
    whole = Batch(TopicPartition(CLICKS_TOPIC, 0), [], 50_200, 0, 50_200)
    assert all(world.judge(DecodedBatch(whole, [*broken, *good], [], {})))


def test_what_is_accepted_is_not_looked_at_and_what_comes_after_it_is() -> None:
    world = World()
    assert all(world.judge(batch(0, 500, bad=0.5)))
    world.notes.notes = GateNotes(accepted=accepted(500))
    # it is read again from the fence
    assert world.judge(batch(0, 500, bad=0.5), batch(500, 500)) == [None, None]
    assert all(world.judge(batch(1_000, 500, bad=0.5)))


def test_offsets_of_another_log_accept_nothing() -> None:
    world = World()
    world.notes.notes = GateNotes(accepted=accepted(500, epoch="other"))
    assert all(world.judge(batch(0, 500, bad=0.5)))


def test_redelivered_records_are_counted_once() -> None:
    world = World(min_count=150)
    assert world.judge(*[batch(0, 100, bad=0.5)] * 3) == [None, None, None]


def test_an_overridden_gate_does_not_halt_until_its_time() -> None:
    world = World()
    world.notes.notes = GateNotes(overrides={"nulls": Override("nulls", T0 + 1_000, T0, "known")})
    assert world.judge(batch(0, 500, bad=0.5)) == [None]
    assert all(world.judge(batch(500, 500, bad=0.5, at_ms=T0 + 2_000)))


def test_freshness_halts_when_all_that_arrives_is_old_and_not_for_a_quiet_topic() -> None:
    world = World()
    two_hours = 7_200_000
    # something old among the fresh, and nothing for hours
    assert world.judge(batch(0, 200, age_ms=two_hours), batch(200, 1, at_ms=T0 + two_hours))[1] is not None
    world = World()
    assert (
        world.judge(batch(0, 99), batch(99, 200, age_ms=two_hours), batch(299, 5, at_ms=T0 + two_hours)) == [None] * 3
    )
    # the window has passed, and only old events come
    assert all(world.judge(batch(304, 200, age_ms=two_hours, at_ms=T0 + 2 * two_hours)))


def test_a_producer_whose_clock_is_ahead_is_not_stale_and_does_not_move_the_window() -> None:
    world = World()
    assert world.judge(batch(0, 500, age_ms=-240_000)) == [None]


@pytest.mark.parametrize(
    ("policy", "halts"), [(GatePolicy.ALERT, False), (GatePolicy.HALT, True), (GatePolicy.OFF, False)]
)
def test_an_unexpected_schema_alerts_once_or_halts_by_policy(policy: GatePolicy, halts: bool) -> None:
    world = World(schema_policy=policy)
    said = world.judge(batch(0, 10, schema_id=7), batch(10, 10, schema_id=7))
    assert all((found is not None) is halts for found in said)
    assert [news.gate for news in world.news] == ["schema"] * (policy is not GatePolicy.OFF)
    if world.news:
        assert world.news[0].evidence["schemas"] == {"7": "fingerprint of 7"}


def test_unknown_ids_halt_and_a_missing_table_does_not() -> None:
    assert World().judge(batch(0, 500)) == [None]
    known = Tables({"product_id": KnownIds(id_hashes(["other"])), "category_id": None, "user_id": None})
    said = World(tables=known).judge(batch(0, 500))
    assert said[0] is not None
    assert said[0].startswith("references: 100 % of")
    people = Tables({"product_id": None, "category_id": None, "user_id": KnownIds(id_hashes(["other"]))})
    world = World(tables=people)
    assert world.judge(batch(0, 500)) != [None]
    halt = world.notes.notes.halt
    assert halt is not None
    assert "u499" not in str(halt.evidence)  # no erasure looks there


def test_a_halt_is_not_lost_when_redis_or_the_lake_do_not_take_it(caplog: pytest.LogCaptureFixture) -> None:
    def refuse(_: GateNews) -> None:
        raise LakeUnavailableError(Path("gate_log"), "no space", hint="Make room.")

    world = World(tell=refuse)
    assert world.judge(batch(0, 500)) == [None]
    world.notes.is_down = True
    assert all(world.judge(batch(500, 500, bad=0.5)))
    assert "this was not recorded" in caplog.text
    assert [news.step for news in world.news] == ["halted"]
    world.notes.is_down = False
    assert all(world.judge(batch(1_000, 10)))
    assert world.notes.notes.halt is not None


@pytest.mark.parametrize("text", ["click.colour", "glance.product_id", "click"])
def test_a_critical_field_that_does_not_exist_is_named(text: str) -> None:
    with pytest.raises(SettingsError, match=text):
        rules_of(GateSettings(critical_fields=[text]))
