"""A shop with a daily rhythm in the lake: history, a stable stretch, a null bug that is mended, a shift of categories.

Events come from the simulator at an even pace; their times are bent so that a day has busy and quiet hours. They lie in
the lake as a worker would have written them, appended when they happened.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Any

import pyarrow as pa
from deltalake import write_deltalake

from schemas.event import CLICKS_TOPIC, Event
from sinks.delta import open_or_create, writer_properties
from sinks.noting import note
from sinks.quality_tables import GATE_LOG
from sinks.tables import EVENT_COLUMNS, RAW_EVENTS, arrow_schema
from traffic.changes import DailyRhythm
from traffic.simulator import Simulator, SimulatorConfig

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
START_MS = 1_700_006_400_000  # a midnight, UTC
WARM_UP = 25
BROKEN, MENDED = 4, 2
EVENING = range(18, 23)  # hours, UTC


@dataclass(frozen=True)
class Plan:
    """How many windows of an hour there are of each kind.

    Attributes:
        history: that the reference is taken from, after `WARM_UP` windows.
        stable: that are judged and have not changed.
        shifted: windows with a part of the events in other categories; before them come `BROKEN` windows with a null
            bug, and `MENDED` ones without.
        events: per window, on average.
        amplitude: by how much more the busiest hour has than the average, as a share.
        shift: share of the events that come from other categories.
        null_share: share of events that lose their category by the bug.
        evening: share of the events from `EVENING` that are of a few categories, every day; no drift, but a rhythm.
    """

    seed: int
    history: int = 72
    stable: int = 100
    shifted: int = 4
    events: int = 1_250
    users: int = 2_000
    amplitude: float = 0.5
    shift: float = 0.3
    null_share: float = 0.05
    evening: float = 0.0

    @property
    def history_ms(self) -> tuple[int, int]:
        """From when to when the reference is taken."""
        return self._at(WARM_UP), self._at(WARM_UP + self.history)

    @property
    def broken_ms(self) -> tuple[int, int]:
        """From when to when categories are lost."""
        first = WARM_UP + self.history + self.stable
        return self._at(first), self._at(first + BROKEN)

    @property
    def shifted_ms(self) -> tuple[int, int]:
        """From when to when categories are others."""
        first = WARM_UP + self.history + self.stable + BROKEN + MENDED
        return self._at(first), self._at(first + self.shifted)

    @property
    def windows(self) -> int:
        """How many windows there are; the last one only closes the one before."""
        return WARM_UP + self.history + self.stable + BROKEN + MENDED + self.shifted + 1

    @property
    def ends_ms(self) -> int:
        """When the last window ends."""
        return self._at(self.windows)

    def _at(self, window: int) -> int:
        return START_MS + window * HOUR_MS


def events_of(plan: Plan) -> Iterator[tuple[str, Event]]:
    """Yield topic and event, in the order of the log."""
    config = SimulatorConfig(
        seed=plan.seed, start_ms=START_MS, rate=plan.events / 3_600, users=plan.users, think_s=60.0
    )
    rhythm = DailyRhythm(plan.amplitude, START_MS)
    rng = Random(plan.seed + 1)
    favourites = [f"c{number}" for number in rng.sample(range(config.categories), 10)]
    in_the_evening = [f"c{number}" for number in rng.sample(range(config.categories), 10)]
    # a day that is cut off has had more of the pace or less of it than the average
    for timed in Simulator(config, (plan.windows + WARM_UP) * plan.events).events():
        event = timed.payload
        if not isinstance(event, Event):
            raise TypeError("the plan has no broken events")
        at_ms = rhythm.bent_ms(event.event_time_ms)
        if at_ms > plan.ends_ms:
            return
        changed: dict[str, Any] = {"event_time_ms": at_ms}
        is_evening = at_ms % DAY_MS // HOUR_MS in EVENING
        if is_evening and event.category_id and rng.random() < plan.evening:
            changed["category_id"] = rng.choice(in_the_evening)
        if plan.broken_ms[0] <= at_ms < plan.broken_ms[1] and rng.random() < plan.null_share:
            changed["category_id"] = None
        if plan.shifted_ms[0] <= at_ms < plan.shifted_ms[1] and event.category_id and rng.random() < plan.shift:
            changed["category_id"] = rng.choice(favourites)
        yield timed.topic, Event(**{name: getattr(event, name) for name in event.__struct_fields__} | changed)


def write(lake: Path, plan: Plan) -> int:
    """Write the world into a lake; return how many events it has."""
    fields = [column.name for column in EVENT_COLUMNS]
    columns: dict[str, list[Any]] = {name: [] for name in (*fields, "topic")}
    for topic, event in events_of(plan):
        columns["topic"].append(topic)
        for name in fields:
            columns[name].append(getattr(event, name))
    count = len(columns["topic"])
    times = columns["event_time_ms"]
    days = {at // DAY_MS: datetime.fromtimestamp(at / 1_000, UTC).date() for at in times}
    columns |= {
        "log_epoch": [f"{topic}:1" for topic in columns["topic"]],
        "partition": [0] * count,
        "offset": list(range(count)),
        "append_time_ms": times,
        "append_date": [days[at // DAY_MS] for at in times],
        "ingest_time_ms": times,
        "schema_id": [1] * count,
        "key": [None] * count,
        "value": [None] * count,
    }
    schema = arrow_schema(RAW_EVENTS)
    table = pa.table({field.name: pa.array(columns[field.name], field.type) for field in schema}, schema)
    handle = open_or_create(lake / RAW_EVENTS.name, RAW_EVENTS)
    write_deltalake(handle, table, mode="append", writer_properties=writer_properties(RAW_EVENTS))
    return count


def note_halt(lake: Path, plan: Plan) -> None:
    """Note what the gate of nulls would have: it halts with the bug, and somebody resumes when it is mended."""
    first_ms, end_ms = plan.broken_ms
    row = {"topic": CLICKS_TOPIC, "gate": "nulls", "evidence": "{}"}
    halted = {**row, "step": "halted", "detail": "category_id is empty in 5 % of the clicks", "noted_ms": first_ms}
    note(lake, GATE_LOG, [halted, {**row, "step": "resumed", "detail": "mended", "noted_ms": end_ms - 1}])
