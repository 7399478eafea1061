"""What people say of a range, `--from` and `--to`, and the offsets that it means in each partition."""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, NamedTuple

from replay.errors import NotRetainedError, RangeError
from replay.sources import EventSource, LakeReach
from schemas.topics import TopicInfo
from sinks.lake_reads import PartitionLog

BEGINNING: Final = "beginning"
END: Final = "end"
NOW: Final = "now"

_RELATIVE = re.compile(r"^-(\d+)(ms|s|m|h|d)$")
_UNITS_MS: Final = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_OFFSETS = re.compile(r"^[^=,\s]+=[^,]*(,|$)")
_SPELLED: Final = (
    "a time such as 2026-07-01T12:00:00Z, one relative to now such as -2h, or offsets such as 0=1200,1=900"
)


class Instant(NamedTuple):
    """An append time, integer milliseconds UTC."""

    ms: int


class Offsets(NamedTuple):
    """Offsets of some partitions; a partition that is not named is not read."""

    by_partition: Mapping[tuple[str, int], int]


Bound = Instant | Offsets | None


class PartitionRange(NamedTuple):
    """What is read of one partition: `first_offset` is in it, `end_offset` is not.

    Attributes:
        warm_up_offset: where folding starts, at most `first_offset`; nothing is written for what lies between.
        complete_from_ms: values are complete only from here on, integer milliseconds UTC; None if all of them are.
    """

    log: PartitionLog
    warm_up_offset: int
    first_offset: int
    end_offset: int
    complete_from_ms: int | None = None

    @property
    def record_count(self) -> int:
        """How many offsets are read, warm-up included."""
        return self.end_offset - self.warm_up_offset


def parse_bound(text: str, option: str, topic: str | None, now_ms: int) -> Bound:
    """Read one bound as it was typed; None for the beginning or the end of what there is.

    Args:
        option: its name, for the sentence about what is wrong.
        topic: the only topic, which offsets may leave out.

    Raises:
        RangeError: it is none.
    """
    word = text.strip()
    if word in {BEGINNING, END}:
        if word != (BEGINNING if option == "--from" else END):
            raise RangeError(f"{option} {word} leaves nothing to read.", hint="Leave it out for all that there is.")
        return None
    if word == NOW:
        return Instant(now_ms)
    relative = _RELATIVE.match(word)
    if relative is not None:
        return Instant(now_ms - int(relative[1]) * _UNITS_MS[relative[2]])
    if _OFFSETS.match(word):
        return _offsets(word, option, topic)
    try:
        moment = datetime.fromisoformat(word)
    except ValueError as error:
        raise RangeError(
            f"{option} {word!r} is neither {_SPELLED}.", hint="See docs/how-to/replay-a-range.md."
        ) from error
    if moment.tzinfo is None:
        raise RangeError(
            f"{option} {word!r} has no time zone, so it does not say which instant it is.",
            hint=f"Write {word}Z for UTC, or {word}+02:00.",
        )
    found = Instant(round(moment.timestamp() * 1000))
    if option == "--from" and found.ms > now_ms:
        raise RangeError(
            f"--from {word} lies in the future; it is {shown(now_ms)} now.", hint="A replay reads what happened."
        )
    return found


def _offsets(text: str, option: str, topic: str | None) -> Offsets:
    found: dict[tuple[str, int], int] = {}
    for item in text.split(","):
        place, _, number = item.strip().partition("=")
        named, colon, partition = place.rpartition(":")
        if not colon and topic is None:
            raise RangeError(
                f"{option} {item.strip()!r} does not say of which topic.",
                hint="Write topic:partition=offset, or name the topic with --topic.",
            )
        key = named or topic or ""
        if not partition.isdecimal() or not number.isdecimal():
            raise RangeError(
                f"{option} {item.strip()!r} is not topic:partition=offset.",
                hint="Partition and offset are numbers from 0 on.",
            )
        if topic is not None and key != topic:
            raise RangeError(f"{option} names {key}, and --topic {topic}.", hint="Leave one of them out.")
        if (key, int(partition)) in found:
            raise RangeError(f"{option} names {key}:{partition} twice.", hint="Give one offset for each partition.")
        found[key, int(partition)] = int(number)
    return Offsets(found)


@dataclass(frozen=True, slots=True)
class RangeRequest:
    """A range as it was asked for.

    Attributes:
        partitions: only these numbers, because only there the users' events are; None for all.
    """

    begin: Bound
    end: Bound
    partitions: Collection[int] | None = None


def named_logs(request: RangeRequest, topics: Mapping[str, TopicInfo]) -> list[PartitionLog]:
    """Return the partitions that a request is about, by topic and partition.

    Raises:
        RangeError: it names a topic or partition that there is not, or its bounds name different ones.
    """
    named = [set(bound.by_partition) for bound in (request.begin, request.end) if isinstance(bound, Offsets)]
    if len(named) == 2 and named[0] != named[1]:
        topic, partition = min(named[0] ^ named[1])
        raise RangeError(
            f"--from and --to name different partitions: {topic}:{partition} is in one of them only.",
            hint="Name the same partitions in both.",
        )
    for topic, partition in sorted(named[0]) if named else ():
        info = topics.get(topic)
        if info is None:
            raise RangeError(f"There is no topic {topic!r} to replay.", hint=f"It is one of {', '.join(topics)}.")
        if partition >= info.partition_count:
            raise RangeError(f"{topic} has no partition {partition}.", hint=f"It has 0 to {info.partition_count - 1}.")
    return [
        PartitionLog(info.log_epoch, topic, partition)
        for topic, info in sorted(topics.items())
        for partition in range(info.partition_count)
        if (not named or (topic, partition) in named[0])
        and (request.partitions is None or partition in request.partitions)
    ]


def resolve(request: RangeRequest, logs: Sequence[PartitionLog], source: EventSource) -> list[PartitionRange]:
    """Return the offsets of a range in each partition, without warm-up.

    Raises:
        RangeError: it ends before it begins.
        NotRetainedError: it lies outside what the source holds.
    """
    begin, end = request.begin, request.end
    if isinstance(begin, Instant) and isinstance(end, Instant) and begin.ms > end.ms:
        raise RangeError(
            f"The range ends before it begins: --from is {shown(begin.ms)} and --to is {shown(end.ms)}.",
            hint="Change one of them.",
        )
    reaches = {log: source.reach(log) for log in logs}
    oldest_ms = min((reach.first_append_ms for reach in reaches.values() if reach is not None), default=None)
    if isinstance(end, Instant) and oldest_ms is not None and end.ms <= oldest_ms:
        raise NotRetainedError(
            f"The range ends at {shown(end.ms)}, and what the {source.name} source holds begins at {shown(oldest_ms)}.",
            hint=f"Name a later range. {_other_source(source)}",
        )
    return [_resolved(log, begin, end, source, reach) for log, reach in reaches.items()]


def _resolved(
    log: PartitionLog, begin: Bound, end: Bound, source: EventSource, reach: LakeReach | None
) -> PartitionRange:
    position = source.position(log)
    held_from = position if reach is None else reach.first_offset
    first = _first(log, begin, reach, held_from, source)
    last = _last(log, end, position, source)
    if isinstance(begin, Offsets) or isinstance(end, Offsets):
        if last < first:
            raise RangeError(
                f"The range of {log.topic}:{log.partition} ends before it begins: from offset {first} to {last}.",
                hint="Change --from or --to.",
            )
        if first < held_from or last > position:
            raise NotRetainedError(
                f"{log.topic}:{log.partition}: the range from offset {first} to before {last} lies outside what the "
                f"{source.name} source holds, {held_from} to before {position}.",
                hint=_other_source(source),
            )
    return PartitionRange(log, first, first, max(first, last))


def _first(log: PartitionLog, begin: Bound, reach: LakeReach | None, held_from: int, source: EventSource) -> int:
    if begin is None:
        return held_from
    if isinstance(begin, Offsets):
        return begin.by_partition[log.topic, log.partition]
    if reach is not None and reach.first_offset > 0 and begin.ms < reach.first_append_ms:
        raise NotRetainedError(
            f"{log.topic}:{log.partition}: the range begins at {shown(begin.ms)}, and what the {source.name} source "
            f"holds begins at {shown(reach.first_append_ms)} (offset {reach.first_offset}).",
            hint=f"Begin there, with --from {BEGINNING} or a later time. {_other_source(source)}",
        )
    return source.offset_at(log, begin.ms)


def _last(log: PartitionLog, end: Bound, position: int, source: EventSource) -> int:
    if end is None:
        return position
    if isinstance(end, Offsets):
        return end.by_partition[log.topic, log.partition]
    return source.offset_at(log, end.ms)


def _other_source(source: EventSource) -> str:
    other = "lake" if source.name == "kafka" else "kafka"
    return f"Or read it from the other source: --source {other}."


def shown(ms: int) -> str:
    """Return an instant as people read it, UTC, with milliseconds."""
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
