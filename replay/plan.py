"""What a replay of a range will read and write: lanes of partitions, each with its warm-up."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import msgspec

from config.definition import DEFINITION_VERSION
from config.settings import Settings
from replay.ranges import Bound, Instant, PartitionRange, RangeRequest, named_logs, resolve, shown
from replay.sources import EventSource, LakeReach
from replay.targets import NEEDS, Into, RunInfo
from schemas.partitioner import partition_of
from schemas.topics import TopicInfo
from sinks.erasures import Tombstones, log_of
from sinks.lake_reads import PartitionLog

WARM_UP_MS: Final = 25 * 3_600_000  # 24 h windows, the session gap, lateness, rounding

Lane = tuple[PartitionRange, ...]


class ReplayRequest(msgspec.Struct, frozen=True):
    """What was asked for, as it was typed.

    Attributes:
        begin, end: `--from` and `--to`.
        topics: whose partitions are read.
        users: whom, by their ids as their producers write them; empty for everybody.
        to_topic: where to publish; empty for other targets.
        as_of: as of when the lake is read; empty for now.
    """

    source: str
    into: Into
    begin: str
    end: str
    topics: tuple[str, ...]
    users: tuple[str, ...] = ()
    to_topic: str = ""
    as_of: str = ""


class ReplayPlan(msgspec.Struct, frozen=True):
    """A range, resolved.

    Attributes:
        stored_users: the users as they are stored, pseudonyms where those are in use; None for everybody.
        lanes: sets of partitions in which users are whole, by number.
        notes: what people must know before they start it.
    """

    request: ReplayRequest
    definition_version: int
    stored_users: tuple[str, ...] | None
    lanes: tuple[Lane, ...]
    notes: tuple[str, ...] = ()

    @property
    def ranges(self) -> list[PartitionRange]:
        """Every partition's range."""
        return [part for lane in self.lanes for part in lane]

    @property
    def record_count(self) -> int:
        """How many offsets are read, warm-up included."""
        return sum(part.record_count for part in self.ranges)

    @property
    def warm_up_count(self) -> int:
        """How many of them lie before the range."""
        return sum(part.first_offset - part.warm_up_offset for part in self.ranges)

    @property
    def complete_from_ms(self) -> int | None:
        """The instant from which on every value is complete; None if all of the range are."""
        return max((part.complete_from_ms for part in self.ranges if part.complete_from_ms is not None), default=None)

    @property
    def run_id(self) -> str:
        """The same for the same range, source, target, users and definition version."""
        request = self.request
        identity = [
            request.source,
            request.into.value,
            request.to_topic,
            request.as_of,
            sorted(request.users),
            self.definition_version,
            sorted((*part.log, part.first_offset, part.end_offset) for part in self.ranges),
        ]
        return hashlib.blake2b(msgspec.json.encode(identity), digest_size=6).hexdigest()

    def info(self, begun_ms: int) -> RunInfo:
        """Return what targets may know."""
        return RunInfo(
            run_id=self.run_id,
            source=self.request.source,
            into=self.request.into,
            definition_version=self.definition_version,
            ranges={part.log: (part.first_offset, part.end_offset) for part in self.ranges},
            users=None if self.stored_users is None else frozenset(self.stored_users),
            to_topic=self.request.to_topic,
            begun_ms=begun_ms,
        )

    def payload(self) -> dict[str, Any]:
        """Return the JSON form."""
        complete_from_ms = self.complete_from_ms
        return {
            "run": self.run_id,
            "source": self.request.source,
            "into": self.request.into.value,
            "to_topic": self.request.to_topic or None,
            "from": self.request.begin,
            "to": self.request.end,
            "lake_as_of": self.request.as_of or None,
            "users": list(self.request.users) or None,
            "definition_version": self.definition_version,
            "partitions": [_range_payload(part) for part in self.ranges],
            "records": self.record_count - self.warm_up_count,
            "warm_up_records": self.warm_up_count,
            "complete_from": None if complete_from_ms is None else shown(complete_from_ms),
            "notes": list(self.notes),
        }

    def overlaps(self, other: "ReplayPlan") -> bool:
        """Tell whether both read the same records of a source into the same target."""
        mine, theirs = self.request, other.request
        if (mine.into, mine.to_topic, mine.source) != (theirs.into, theirs.to_topic, theirs.source):
            return False
        if mine.into is Into.HISTORY and self.definition_version != other.definition_version:
            return False  # each writes rows of its own
        ranges = {part.log: part for part in other.ranges}
        return any(
            part.log in ranges
            and part.first_offset < ranges[part.log].end_offset
            and ranges[part.log].first_offset < part.end_offset
            for part in self.ranges
        )


@dataclass(frozen=True, slots=True)
class Bounds:
    """`--from` and `--to`, read."""

    begin: Bound
    end: Bound


class _Completeness(NamedTuple):
    """Where the warm-up of a partition starts, and from when on values are complete."""

    warm_up_offset: int
    complete_from_ms: int | None


def make_plan(
    settings: Settings,
    request: ReplayRequest,
    bounds: Bounds,
    topics: Mapping[str, TopicInfo],
    source: EventSource,
    *,
    tombstones: Tombstones,
    stored_users: Sequence[str] | None,
) -> ReplayPlan:
    """Resolve a range and its warm-up; reads, and changes nothing.

    Args:
        topics: those of the request.
        tombstones: what was erased is not missing at the beginning of a lake.
        stored_users: the request's users, as they are stored; None for everybody.

    Raises:
        RangeError: the range, a topic or a partition is none.
        NotRetainedError: the source does not hold the range.
        ShopstreamError: the source does not answer.
    """
    is_aligned = len({info.partition_count for info in topics.values()}) == 1
    counts = [info.partition_count for info in topics.values()]
    of_users = {partition_of(user.encode(), counts[0]) for user in request.users} if is_aligned else None
    logs = named_logs(RangeRequest(bounds.begin, bounds.end, of_users if request.users else None), topics)
    ranges = resolve(RangeRequest(bounds.begin, bounds.end), logs, source)
    numbers = sorted({part.log.partition for part in ranges})
    lanes = (
        [tuple(part for part in ranges if part.log.partition == number) for number in numbers]
        if is_aligned
        else [tuple(ranges)]
    )
    if NEEDS[request.into].warm_up:
        tolerance_ms = settings.events.future_tolerance_ms
        lanes = [_with_warm_up(lane, bounds.begin, source, tombstones, tolerance_ms) for lane in lanes]
    return ReplayPlan(
        request,
        DEFINITION_VERSION,
        None if stored_users is None else tuple(stored_users),
        tuple(lanes),
        tuple(_notes(topics, lanes, is_aligned=is_aligned)),
    )


def _with_warm_up(lane: Lane, begin: Bound, source: EventSource, tombstones: Tombstones, tolerance_ms: int) -> Lane:
    begins_ms = [begin.ms] if isinstance(begin, Instant) else [_append_ms(part, source) for part in lane]
    known_ms = [ms for ms in begins_ms if ms is not None]
    if not known_ms:
        return lane
    # an event may be appended before it happened, by the tolerance
    wanted_ms = min(known_ms) - WARM_UP_MS - tolerance_ms
    warmed = []
    for part in lane:
        found = _completeness(part, wanted_ms, source, tombstones, tolerance_ms)
        warmed.append(part._replace(warm_up_offset=found.warm_up_offset, complete_from_ms=found.complete_from_ms))
    return tuple(warmed)


def _append_ms(part: PartitionRange, source: EventSource) -> int | None:
    """Return when the first event of a range was appended; None where there is none."""
    if part.first_offset >= part.end_offset:
        return None
    reach = source.reach(part.log)
    if reach is not None and part.first_offset <= reach.first_offset:
        return reach.first_append_ms
    for piece in source.read(part.log, part.first_offset, part.end_offset):
        if piece.append_times_ms:
            return piece.append_times_ms[0]
    return None


def _completeness(
    part: PartitionRange, wanted_ms: int, source: EventSource, tombstones: Tombstones, tolerance_ms: int
) -> _Completeness:
    reach = source.reach(part.log)
    if reach is None or part.first_offset >= part.end_offset:
        return _Completeness(part.first_offset, None)
    warm_up_offset = max(reach.first_offset, min(part.first_offset, source.offset_at(part.log, wanted_ms)))
    if _holds_the_beginning(part.log, reach, source, tombstones) or reach.first_append_ms <= wanted_ms:
        return _Completeness(warm_up_offset, None)
    return _Completeness(warm_up_offset, reach.first_append_ms + tolerance_ms + WARM_UP_MS)


def _holds_the_beginning(log: PartitionLog, reach: LakeReach, source: EventSource, tombstones: Tombstones) -> bool:
    erased_end = tombstones.reach(log_of(log.topic, log.log_epoch, log.partition))
    return (reach.first_offset == 0 or reach.first_offset <= erased_end) and source.former(log) is None


def _notes(topics: Mapping[str, TopicInfo], lanes: Sequence[Lane], *, is_aligned: bool) -> list[str]:
    notes = []
    if not is_aligned:
        counts = ", ".join(f"{name} has {info.partition_count}" for name, info in sorted(topics.items()))
        notes.append(
            f"The topics have different partition counts ({counts}), so a user's events lie anywhere in both: "
            "one process reads all."
        )
    complete_ms = [part.complete_from_ms for lane in lanes for part in lane if part.complete_from_ms is not None]
    if complete_ms:
        notes.append(
            f"What the source holds begins less than 25 hours before the range: values are complete only from "
            f"{shown(max(complete_ms))} on."
        )
    return notes


def _range_payload(part: PartitionRange) -> dict[str, Any]:
    return {
        "topic": part.log.topic,
        "partition": part.log.partition,
        "warm_up_offset": part.warm_up_offset,
        "first_offset": part.first_offset,
        "end_offset": part.end_offset,
        "complete_from": None if part.complete_from_ms is None else shown(part.complete_from_ms),
    }
