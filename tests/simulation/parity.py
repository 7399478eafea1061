"""Parity at the end of a run: the online store, a replay of the broker's log, and a replay of the lake.

The comparison is the real one (`replay.parity`), with the real fold; only where the events come from is simulated.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import pyarrow as pa

from config.settings import EventSettings
from feature_repo.fence import Fence
from feature_repo.layout import STATE
from feature_repo.on_demand import AS_OF, STATE_OK, STATE_STATUS, session_features
from features.catalog import FEATURES, ON_DEMAND_VIEW, VIEWS
from features.state import decode
from replay.parity import LiveUser, ParityPlan, ParityPorts, compare
from replay.parity_content import InstantsOf, instants_from_newest, packed
from replay.parity_report import LIVE, ParityReport
from schemas.codec import Codec, Decoded
from schemas.event import Event
from sinks.erasures import Tombstones
from sinks.tables import EVENT_COLUMNS, LAKE_TABLES, application_id
from streams.ports import TopicPartition
from tests.fakes.event_source import Entries, MemorySource
from tests.simulation.promises import Promise

if TYPE_CHECKING:
    from tests.simulation.world import World

_FIELDS: Final = [column.name for column in EVENT_COLUMNS]

Rows = dict[TopicPartition, dict[int, dict[str, Any]]]


class SimulatedLive:
    """The simulated online store through the on-demand view; implements `replay.parity_ports.LiveWay`."""

    def __init__(self, world: "World") -> None:
        self._states = world.store.states
        self._fences = world.store.fences

    def users(self) -> list[str]:
        """Return every user who has a state."""
        return sorted({user for _, user in self._states.rows})

    def fences(self, topic: str) -> Mapping[int, Fence]:
        """Return the fences of a topic."""
        return self._fences.read_blocking(topic)

    def read(self, user_ids: Sequence[str], instants_of: InstantsOf) -> Mapping[str, LiveUser]:
        """Read users as serving does."""
        found = {}
        for user in user_ids:
            states = {
                topic: self._states.rows[topic, user].state for topic in VIEWS if (topic, user) in self._states.rows
            }
            newest_ms = max((decode(state).newest_ms for state in states.values()), default=None)
            instants = () if newest_ms is None else instants_of(user, newest_ms)
            found[user] = LiveUser(states, instants, packed(_values(states, instants)))
        return found


def look_at_parity(world: "World") -> ParityReport:
    """Compare the three ways; a difference breaks a promise."""
    raw, dead = _rows(world, "raw_events"), _rows(world, "dead_letters")
    lake_ends = {
        tp: max(_end(world, tp, table) for table in ("raw_events", "dead_letters")) for tp in world.load.partitions
    }
    log_ends = {tp: world.logs.end(tp) for tp in world.load.partitions}
    kafka = MemorySource("kafka", _decoded(world), log_ends)
    lake_events = {
        tp: {at: Event(**{name: row[name] for name in _FIELDS}) for at, row in rows.items()} for tp, rows in raw.items()
    }
    ports = ParityPorts(
        live=SimulatedLive(world),
        sources=(kafka, MemorySource("lake", lake_events, lake_ends)),
        tombstones=Tombstones,
        letters_only=lambda log: _letters_only(raw, dead, TopicPartition(log.topic, log.partition)),
        tolerance_ms=EventSettings().future_tolerance_ms,
        monotonic_s=lambda: 0.0,
        sleep=lambda _seconds: None,
    )
    report = compare(ports, ParityPlan(world.load.topics, None, instants_from_newest, wait_s=0.0), lambda _line: None)
    _judge(world, report)
    return report


def _letters_only(raw: Rows, dead: Rows, tp: TopicPartition) -> frozenset[int]:
    return frozenset(dead.get(tp, {}).keys() - raw.get(tp, {}).keys())


def _judge(world: "World", report: ParityReport) -> None:
    doubtful = _judged_both_ways(world)
    for user in report.differing:
        if not any((topic, user.user_id) in doubtful for topic in world.load.topics):
            world.violate(Promise.PARITY, f"{user.user_id}: {user.differences[0].payload()}; {'; '.join(user.causes)}")
    if not doubtful:
        for failure in report.failures if world.store.states.rows else ():
            world.violate(Promise.PARITY, failure)
        if len({way.total for way in report.ways.values()}) > 1:
            world.violate(
                Promise.PARITY, f"the contents differ: { {name: way.total for name, way in report.ways.items()} }"
            )
        if report.ways[LIVE].state_count != len(world.store.states.rows):
            world.violate(
                Promise.PARITY, f"{report.ways[LIVE].state_count} states were compared, of all that there are"
            )


def _judged_both_ways(world: "World") -> set[tuple[str, str]]:
    """Return topic and user of the events that were judged twice and differently (ADR 0012)."""
    twice = {position for position, judged in world.judged.items() if len(judged) > 1}
    return {
        (made.record.topic, made.event.user_id)
        for made in world.load.produced
        if made.event is not None and (made.record.topic, made.record.partition, made.record.offset) in twice
    }


def _decoded(world: "World") -> Entries:
    """Decode the broker's log again, with the schemas that are known by now."""
    codec = Codec(world.registry, limits=EventSettings(), unknown_id_ttl_s=1e9, clock_ms=lambda: 0)
    found: dict[TopicPartition, dict[int, Event]] = {}
    for tp in world.load.partitions:
        records = world.logs.read(tp, 0, len(world.load.produced))
        codec.resolve(codec.unresolved(records))
        count = world.load.topics[tp.topic].partition_count
        results = ((record.offset, codec.decode(record, count)) for record in records)
        found[tp] = {at: result.event for at, result in results if isinstance(result, Decoded)}
    return found


def _rows(world: "World", table: str) -> Rows:
    commits = world.lake.tables[table].commits
    found: Rows = {}
    names = ["topic", "partition", "offset", *(_FIELDS if table == "raw_events" else ())]
    for row in pa.concat_tables(commits).select(names).to_pylist() if commits else ():
        found.setdefault(TopicPartition(row["topic"], row["partition"]), {})[row["offset"]] = row
    return found


def _end(world: "World", tp: TopicPartition, table: str) -> int:
    app_id = application_id(world.load.topics[tp.topic].topic_id, tp.partition, LAKE_TABLES[table])
    held = world.lake.tables[table].open().last_offset(app_id)
    return 0 if held is None else held + 1


def _values(states: Mapping[str, bytes], instants: Sequence[int]) -> list[dict[str, Any]]:
    inputs: dict[str, list[Any]] = {
        f"{view.view}__{STATE}": [states.get(t)] * len(instants) for t, view in VIEWS.items()
    }
    if not instants:
        return []
    columns = session_features({**inputs, AS_OF: list(instants)})
    assert set(columns[f"{ON_DEMAND_VIEW}__{STATE_STATUS}"]) == {STATE_OK}
    return [{feature.name: columns[feature.name][n] for feature in FEATURES} for n in range(len(instants))]
