"""What a new schema would do to features: recorded events are replayed under the old and the new one, and compared.

Three ways in which a schema takes effect are tried, each for itself:

- **read**: what was recorded is read by it, as after a release that makes it the system's own;
- **written**: what was recorded is written by it, as producers will, and decoded by the system as it is;
- **left out**: the same by producers that leave to its default what they had to fill before.

A record that is refused on one of these ways is missing from the features there. Nothing is written.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from operator import attrgetter, itemgetter
from typing import Any, Final, NamedTuple

from fastavro import schemaless_reader

from config.settings import EventSettings
from replay.errors import NothingRecordedError
from replay.rehearse_compare import Pair, compare_user
from replay.rehearse_records import NewSchema, Reading, Writing
from replay.rehearse_report import Rehearsal, Way, WayReport
from replay.sources import EventSource, LakeSource, Piece
from schemas.codec import HEADER_BYTES, Codec, Decoded, SchemaSource
from schemas.compatibility import differences
from schemas.encoder import Encoder
from schemas.errors import UnknownSchemaIdError
from schemas.event import EVENT_TOPICS, Event, Record
from schemas.loading import LoadedSchema, load, own_schema
from schemas.rules import Problem, time_problem
from sinks.erasures import Tombstones
from sinks.lake_reads import PartitionLog, partition_rows
from sinks.lake_root import Lake
from sinks.tables import RAW_EVENTS

EVENTS_MAX: Final = 100_000
_FOR_EVER_S: Final = 10.0**9
_ID: Final = 1

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class RehearsalOptions:
    """What is rehearsed, on what.

    Attributes:
        text: of the new schema, which may be loaded.
        events_max: about so many recorded events are replayed, the newest of each partition.
        first_ms: those appended since then, integer milliseconds UTC; None for all.
    """

    topic: str
    text: str
    limits: EventSettings
    events_max: int = EVENTS_MAX
    first_ms: int | None = None


def rehearse(
    lake: Lake,
    schemas: SchemaSource,
    options: RehearsalOptions,
    tombstones: Tombstones,
    progress: Progress = lambda _: None,
) -> Rehearsal:
    """Replay recorded events under the schema of this release and a new one. Blocking; nothing is written.

    Args:
        schemas: the registry, for the schemas that the recorded events were written with.
        tombstones: events of erased users are left out.

    Raises:
        NothingRecordedError: the lake holds no event of the topic in that time.
        LakeUnavailableError, RegistryUnavailableError: one of them does not answer.
    """
    return _Rehearsal(lake, schemas, options, tombstones, progress).run()


class _Recorded(NamedTuple):
    """One recorded event, and what becomes of it.

    Attributes:
        place: orders the events of a user in a topic as their log did.
        otherwise: by way, the event that is not the recorded one; None where the record is refused.
    """

    place: tuple[int, int]
    event: Event
    otherwise: Mapping[Way, Event | None]


class _Rehearsal:
    def __init__(
        self,
        lake: Lake,
        schemas: SchemaSource,
        options: RehearsalOptions,
        tombstones: Tombstones,
        progress: Progress,
    ) -> None:
        self._options = options
        self._tombstones = tombstones
        self._progress = progress
        self._source: EventSource = LakeSource(lake)
        self._logs = [PartitionLog(*rows[:3]) for rows in partition_rows(lake, RAW_EVENTS)]
        self._schema = NewSchema(options.topic, options.text)
        self._ways = {
            way: WayReport(way, is_warning=way is Way.LEFT_OUT and not self._schema.replaced)
            for way in Way
            if way is not Way.LEFT_OUT or self._schema.optional_now
        }
        self._written = _Written(schemas, options.topic)
        self._reading = Reading(self._schema)
        self._written_anew = {
            way: _WrittenAnew(self._schema, options, left_out=self._schema.optional_now * (way is Way.LEFT_OUT))
            for way in self._ways
            if way is not Way.READ
        }

    def run(self) -> Rehearsal:
        by_user: dict[str, list[_Recorded]] = {}
        count, times = 0, set[int]()
        for log, piece in self._recorded():
            for offset, append_ms, event, (_, value) in zip(
                piece.offsets, piece.append_times_ms, piece.events, piece.originals, strict=True
            ):
                if self._tombstones.covers(event.user_id, log.topic, log.log_epoch, log.partition, offset):
                    continue
                made = self._made(event, value, append_ms)
                by_user.setdefault(event.user_id, []).append(_Recorded((append_ms, offset), event, made))
                count += 1
            if piece.append_times_ms:
                times |= {piece.append_times_ms[0], piece.append_times_ms[-1]}
                self._progress(f"{count:,} events replayed")
        if not count:
            raise NothingRecordedError(self._options.topic)
        self._compare(by_user, min(times))
        return Rehearsal(
            count, len(by_user), min(times), max(times), tuple(self._ways.values()), tuple(self._notices())
        )

    def _recorded(self) -> Iterator[tuple[PartitionLog, Piece]]:
        logs = [log for log in self._logs if log.topic == self._options.topic]
        for log in logs:
            first, end = 0, self._source.position(log)
            if self._options.first_ms is not None:
                first = self._source.offset_at(log, self._options.first_ms)
            first = max(first, end - -(-self._options.events_max // len(logs)))
            for piece in self._source.read(log, first, end, originals=True):
                yield log, piece

    def _made(self, event: Event, value: bytes | None, append_ms: int) -> dict[Way, Event | None]:
        """Return what becomes of a recorded event on each way where it is not what it was."""
        written = self._written.fields(event, value)
        made: dict[Way, Event | None] = {}
        for way, report in self._ways.items():
            if way is Way.READ:
                found = self._read(written, append_ms)
            else:
                found = self._written_anew[way].event(event, written, append_ms)
            if isinstance(found, Problem):
                report.refuse(found)
                made[way] = None
            elif _counted(found) != _counted(event):
                made[way] = found
        return made

    def _read(self, written: Mapping[str, Any], append_ms: int) -> Event | Problem:
        found = self._reading.event(written)
        if isinstance(found, Problem):
            return found
        return time_problem(found, append_ms, self._options.limits.future_tolerance_ms) or found

    def _compare(self, by_user: Mapping[str, list[_Recorded]], since_ms: int) -> None:
        affected = {user for user, events in by_user.items() if any(each.otherwise for each in events)}
        if not affected:
            return
        self._progress(f"{len(affected):,} users have events that are not what they were; their features are compared")
        others = self._of_other_topics(affected, since_ms)
        for user in sorted(affected):
            events = sorted(by_user[user], key=attrgetter("place"))
            for way, report in self._ways.items():
                if any(way in each.otherwise for each in events):
                    ours = [(each.place[0], each.event, each.otherwise.get(way, each.event)) for each in events]
                    report.add(compare_user({**others.get(user, {}), self._options.topic: ours}))

    def _of_other_topics(self, users: set[str], since_ms: int) -> dict[str, dict[str, list[Pair]]]:
        found: dict[str, dict[str, list[Pair]]] = {}
        for log in self._logs:
            if log.topic == self._options.topic or log.topic not in EVENT_TOPICS:
                continue
            first = self._source.offset_at(log, since_ms)
            for piece in self._source.read(log, first, self._source.position(log), users=users):
                for append_ms, event in zip(piece.append_times_ms, piece.events, strict=True):
                    of_user = found.setdefault(event.user_id, {}).setdefault(log.topic, [])
                    of_user.append((append_ms, event, event))
        for of_user_topics in found.values():
            for pairs in of_user_topics.values():
                pairs.sort(key=itemgetter(0))  # a user of two epochs is in two logs
        return found

    def _notices(self) -> Iterator[str]:
        schema = self._schema
        for change in schema.unit_changes.values():
            yield change.words()
        for name in schema.optional_now:
            what = "it is taken to be replaced" if name in schema.replaced else "rehearsed as a warning"
            yield f"producers may leave {name} to its default {schema.new.defaults[name]!r} from now on; {what}"
        for words in differences(own_schema(self._options.topic), self._options.text):
            if words.startswith("the documentation of"):
                yield f"{words}: a replay cannot see whether its meaning does"


class _Written:
    """What recorded values say, whatever schema they were written with; the system's fields have its names."""

    def __init__(self, schemas: SchemaSource, topic: str) -> None:
        self._schemas = schemas
        self._topic = topic
        self._own = load(own_schema(topic))
        self._writers: dict[int, LoadedSchema | None] = {}
        self._encoder = Encoder({topic: 0})

    def fields(self, event: Event, value: bytes | None) -> dict[str, Any]:
        """Return every field of a recorded value; of the event itself where no value or no schema was kept."""
        writer = None if not value else self._writer(int.from_bytes(value[1:HEADER_BYTES], "big"))
        if writer is None or value is None:
            writer, value = self._own, self._encoder.event(self._topic, event)
        found: dict[str, Any] = schemaless_reader(BytesIO(value[HEADER_BYTES:]), writer.wire)
        return {**{name: self._own.defaults[name] for name in self._own.defaults if name not in found}, **found}

    def _writer(self, schema_id: int) -> LoadedSchema | None:
        if schema_id not in self._writers:
            try:
                self._writers[schema_id] = load(self._schemas.fetch(schema_id)).named_as(self._own)
            except UnknownSchemaIdError:
                self._writers[schema_id] = None
        return self._writers[schema_id]


class _WrittenAnew:
    """Recorded events through a producer of the new schema and the system's own decoder."""

    def __init__(self, schema: NewSchema, options: RehearsalOptions, left_out: Sequence[str]) -> None:
        self._topic = options.topic
        self._writing = Writing(schema, left_out=left_out)
        self._codec = Codec(
            _OneSchema(options.text), limits=options.limits, unknown_id_ttl_s=_FOR_EVER_S, clock_ms=lambda: 0
        )
        self._codec.resolve({_ID})

    def event(self, event: Event, written: Mapping[str, Any], append_ms: int) -> Event | Problem:
        """Return what the system makes of it, or why it is a dead letter."""
        body = self._writing.body(written)
        if isinstance(body, Problem):
            return body
        value = b"\0" + _ID.to_bytes(4, "big") + body
        found = self._codec.decode(Record(self._topic, 0, 0, append_ms, event.user_id.encode(), value), 1)
        return found.event if isinstance(found, Decoded) else Problem(found.reason, found.detail)


class _OneSchema:
    """Implements `schemas.codec.SchemaSource`."""

    def __init__(self, text: str) -> None:
        self._text = text

    def fetch(self, schema_id: int) -> str:  # noqa: ARG002 - it has one
        """Return the schema."""
        return self._text


def _counted(event: Event) -> tuple[Any, ...]:
    """Return what features are computed from."""
    return (
        event.event_id,
        event.kind,
        event.user_id,
        event.event_time_ms,
        event.product_id,
        event.category_id,
        event.quantity,
        event.unit_price_minor,
    )
