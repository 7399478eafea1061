"""What is looked at when a run has come to rest."""

from collections import Counter
from collections.abc import Sequence
from itertools import combinations
from operator import itemgetter
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from feature_repo.fence import PartitionStatus
from features.apply import fold
from features.catalog import FEATURES
from features.finalize import finalize
from features.state import TRAILER_BYTES, Trailer, decode, read_trailer, with_trailer
from schemas.event import Event
from sinks.tables import EVENT_COLUMNS
from streams.ports import TopicPartition
from tests.oracle import expected
from tests.simulation.load import BASE_MS, Fate
from tests.simulation.promises import Promise
from tests.simulation.weather import Halt

if TYPE_CHECKING:
    from tests.simulation.world import World

USERS_COMPARED = 2
Positions = dict[tuple[str, int, int], dict[str, Any]]
Log = Sequence[tuple[int, Event]]


async def verdict(world: "World") -> None:
    """Look at everything; the first broken promise is noted in the world."""
    raw, dead = _rows(world, "raw_events"), _rows(world, "dead_letters")
    _records(world, raw, dead)
    _counts(world)
    await _rebuild(world, raw)
    _states(world, raw)
    _history(world)
    _features(world)


def _rows(world: "World", table: str) -> Positions:
    """Return the rows of a table by position; each must be there once."""
    found = world.lake.tables[table]
    if not found.commits:
        return {}
    rows = (
        pa.concat_tables(found.commits)
        .select(
            [
                "topic",
                "partition",
                "offset",
                "key",
                "value",
                *([c.name for c in EVENT_COLUMNS] if table == "raw_events" else ()),
            ]
        )
        .to_pylist()
    )
    by_position: Positions = {}
    for row in rows:
        position = (row["topic"], row["partition"], row["offset"])
        if position in by_position:
            world.violate(Promise.ONCE, f"{table} holds {position} twice")
        by_position[position] = row
    return by_position


def _records(world: "World", raw: Positions, dead: Positions) -> None:
    """Every record is where it belongs, as it was read, and nothing else is."""
    known = set()
    for made in world.load.produced:
        record = made.record
        position = (record.topic, record.partition, record.offset)
        known.add(position)
        places = (position in raw, position in dead)
        right = {Fate.EVENT: [(True, False)], Fate.LETTER: [(False, True)]}.get(
            made.fate, [(True, False), (False, True), (True, True)]
        )
        if places not in right:
            world.violate(Promise.ACCOUNTED, f"{position} ({made.fate.name}) in (raw_events, dead_letters): {places}")
        row = raw.get(position) or dead.get(position)
        if row is not None and (row["key"], row["value"]) != (record.key, record.value):
            world.violate(Promise.ONCE, f"{position} is in the lake with other bytes than were read")
        if position in dead and position not in raw and position not in world.published:
            world.violate(Promise.ACCOUNTED, f"the letter of {position} was never published")
    unknown = (raw.keys() | dead.keys()) - known
    if unknown:
        world.violate(Promise.ACCOUNTED, f"{min(unknown)} is in the lake and was never produced")


def _counts(world: "World") -> None:
    for life in world.lives:
        counted = sum(life.metrics.outcomes.values())
        if counted != life.read_count and not life.was_cut_short:
            world.violate(Promise.COUNTS, f"{life.name} read {life.read_count} records and counted {counted}")
        halted = life.metrics.read_while_halted.count
        if halted != life.halted_count and not life.was_cut_short:
            world.violate(Promise.COUNTS, f"{life.name} read {life.halted_count} halted records and counted {halted}")
    last = world.lives[-1]
    if last.read_count and not world.store.was_lost:
        world.violate(Promise.COUNTS, f"all was committed, and the next start read {last.read_count} records again")
    if any(not isinstance(fault, Halt) for fault in world.faults) or world.truth.uncertain:
        return
    total = sum((life.metrics.outcomes for life in world.lives), Counter())
    # what was stored and not fenced when somebody else halted the topic comes again
    if (total["redelivered"] and not world.faults) or sum(total.values()) != len(world.load.produced):
        world.violate(Promise.COUNTS, f"{len(world.load.produced)} records, nothing failed, and it counted {total}")


async def _rebuild(world: "World", raw: Positions) -> None:
    """Rebuild the users of emptied partitions from the lake, as a replay does, so that they can be judged, too."""
    states, fences = world.store.states, world.store.fences
    for tp in sorted(states.emptied):
        fence = fences.read_blocking(tp.topic).get(tp.partition)
        if fence is None or fence.status is not PartitionStatus.REBUILDING:
            world.violate(Promise.TOLD, f"{tp.topic}-{tp.partition} was emptied, and its fence is {fence}")
            continue
        for user, log in _logs(raw, tp).items():
            folded = fold(None, log).state
            stored = states.rows.get((tp.topic, user))
            generation = 1 + (read_trailer(stored.state).generation if stored else 0)
            repaired = with_trailer(folded, Trailer(generation, 0, read_trailer(folded).version))
            await states.push(tp.topic, [(user, repaired)], BASE_MS)
        await fences.set_status(tp.topic, tp.partition, PartitionStatus.LIVE, since_ms=BASE_MS)


def _logs(raw: Positions, tp: TopicPartition) -> dict[str, list[tuple[int, Event]]]:
    logs: dict[str, list[tuple[int, Event]]] = {}
    names = [column.name for column in EVENT_COLUMNS]
    for (topic, partition, offset), row in sorted(raw.items(), key=lambda item: item[0]):
        if (topic, partition) == tp:
            logs.setdefault(row["user_id"], []).append((offset, Event(**{name: row[name] for name in names})))
    return logs


def _states(world: "World", raw: Positions) -> None:
    """Each state is the fold of what the lake holds of its user; where nothing is uncertain, of the load."""
    for tp in world.load.partitions:
        _fence(world, tp)
        for user, log in _logs(raw, tp).items():
            stored = world.store.states.rows.get((tp.topic, user))
            if stored is None:
                world.violate(Promise.STATES, f"{tp.topic}: {user} has no state")
            elif not _same(stored.state, fold(None, log).state) and not _is_judged_anew(world, tp, log, stored.state):
                partial = ", partial" if decode(stored.state).partial else ""
                found = read_trailer(stored.state)
                world.violate(Promise.STATES, f"{tp.topic}: {user} at {found}{partial} is not what the lake folds to")
    for (topic, user), right in sorted(world.truth.final.items()):
        stored = world.store.states.rows.get((topic, user))
        if stored is None:
            world.violate(Promise.STATES, f"{topic}: {user} has no state")
        elif (topic, user) not in world.truth.uncertain and not _same(stored.state, right):
            world.violate(Promise.STATES, f"{topic}: {user} is not what the load folds to")


def _fence(world: "World", tp: TopicPartition) -> None:
    if tp not in world.store.states.emptied:
        fence = world.store.fences.read_blocking(tp.topic).get(tp.partition)
        if fence is None or fence.status is not PartitionStatus.LIVE or fence.next_offset < world.logs.end(tp):
            world.violate(Promise.QUIET, f"{tp.topic}-{tp.partition} ends at {world.logs.end(tp)}, fence {fence}")


def _is_judged_anew(world: "World", tp: TopicPartition, log: Log, state: bytes) -> bool:
    """Tell whether a state is right but for events that were judged twice and differently (ADR 0012)."""
    user = log[0][1].user_id
    doubtful = [
        (made.record.offset, made.event)
        for made in world.truth.by_partition[tp]
        if made.event is not None
        and made.event.user_id == user
        and len(world.judged.get((*tp, made.record.offset), ())) > 1
    ]
    sure = [(offset, event) for offset, event in log if offset not in dict(doubtful)]
    for size in range(len(doubtful) + 1):
        for some in combinations(doubtful, size):
            chosen = sorted([*sure, *some], key=itemgetter(0))
            if chosen and _same(state, fold(None, chosen).state):
                world.judged_anew_count += 1
                return True
    return False


def _same(state: bytes, other: bytes) -> bool:
    return (
        state[:-TRAILER_BYTES] == other[:-TRAILER_BYTES] and read_trailer(state).version == read_trailer(other).version
    )


def _history(world: "World") -> None:
    """The states of feature_log are right, none is there twice, and the last of each user is among them."""
    table = world.lake.tables["feature_log"]
    rows = pa.concat_tables(table.commits).to_pylist() if table.commits else []
    seen: set[tuple[str, int, int]] = set()
    for row in rows:
        tp = TopicPartition(row["topic"], row["partition"])
        position = (*tp, row["version"])
        if position in seen:
            world.violate(Promise.HISTORY, f"feature_log holds {position} twice")
        seen.add(position)
        if tp not in world.store.states.ever_emptied and not world.truth.is_right(
            tp.topic, row["user_id"], row["state"]
        ):
            world.violate(Promise.HISTORY, f"feature_log holds another state of {row['user_id']} at {position}")
    for (topic, user), state in world.truth.final.items():
        tp = world.partition_of(topic, user)
        version = read_trailer(state).version
        is_certain = (topic, user) not in world.truth.uncertain and tp not in world.store.states.ever_emptied
        if is_certain and (*tp, version) not in seen:
            world.violate(Promise.HISTORY, f"feature_log lacks version {version} of {user} in {topic}")


def _features(world: "World") -> None:
    """Features of some users are what brute force over their events gives."""
    logs = world.load.by_user()
    certain = [
        user
        for user in world.load.users
        if not any((topic, user) in world.truth.uncertain for topic in world.load.topics)
    ]
    for user in world.rng.sample(certain, min(USERS_COMPARED, len(certain))):
        own = {topic: logs[topic, user] for topic in world.load.topics if (topic, user) in logs}
        stored = {topic: world.store.states.rows.get((topic, user)) for topic in own}
        if not own or None in stored.values():
            continue
        as_of_ms = BASE_MS + world.rng.randint(0, 3_600_000)
        values = finalize({topic: decode(row.state) for topic, row in stored.items() if row}, as_of_ms)
        right = expected(own, as_of_ms)
        for feature in FEATURES:
            if values[feature.name] != right[feature.name]:
                world.violate(
                    Promise.FEATURES,
                    f"{user}: {feature.name} is {values[feature.name]!r}, should be {right[feature.name]!r}",
                )
