"""Makes the table `sessions`: whole days, each computed anew from `raw_events` and replaced in one commit.

A session belongs to the day that it began on, so a day needs the events of 40 min before it, and those after it for as
long as its sessions go on. Only closed sessions are written: those after whose last event the lake holds records from
more than 30 min later.
"""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any, Final

from features.spans import DAY_MS, HOUR_MS, SESSION_GAP_MS
from replay.errors import NotRetainedError
from replay.session_runs import LOOK_BACK_MS, Session, SessionEvent, sessions_of
from schemas.privacy import Pseudonyms
from sinks.derived_tables import SESSIONS
from sinks.erasures import read_tombstones
from sinks.lake_lock import exclusive
from sinks.lake_root import Lake, is_there, writable
from sinks.sessions import EventBounds, EventReader, replace_day, session_batch

EVENTS_AT_ONCE: Final = 250_000
ROWS_AT_ONCE: Final = 20_000
TOLD_EVERY_S: Final = 2.0

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class DayReport:
    """One day of the table.

    Attributes:
        sessions: that it holds now.
        before: that it held before.
        open: sessions of the day that are not closed yet.
        events: in the sessions that it holds.
        capped: sessions that are longer than 24 h.
    """

    day: str
    sessions: int
    before: int
    open: int
    events: int
    capped: int


@dataclass(frozen=True, slots=True)
class SessionsReport:
    """What was made.

    Attributes:
        closed_before_ms: sessions whose last event is before this instant are closed, integer milliseconds UTC.
    """

    days: tuple[DayReport, ...]
    closed_before_ms: int
    seconds: float

    def payload(self) -> dict[str, Any]:
        """Return the JSON form."""
        return asdict(self)


def make_sessions(
    lake: Lake,
    first: date | None,
    last: date | None,
    pseudonyms: Pseudonyms | None,
    progress: Progress = lambda _: None,
    *,
    events_at_once: int = EVENTS_AT_ONCE,
) -> SessionsReport:
    """Make the sessions of some days; blocking. May be interrupted and repeated: a day is replaced, or it is not.

    Args:
        first, last: days, UTC, both included; None for yesterday and today, as far as the lake has events of them.
        pseudonyms: with the key of the settings (`Pseudonyms.with_key_of`).
        events_at_once: about as many are held in memory.

    Raises:
        NotRetainedError: the lake has no events, or none from so early or so late.
        LakeBusyError: other upkeep of the lake is under way.
        LakePinnedError: the lake is read as of an earlier moment.
        LakeUnavailableError: a table cannot be read or written.
        SettingsError: users were erased, and the key of their hashes is not at hand.
    """
    started_s = time.monotonic()
    if not is_there(writable(lake)):
        raise _nothing(lake)
    with exclusive(lake):  # an erasure beside this run could come back through it
        reader = EventReader(lake, read_tombstones(lake, pseudonyms))
        bounds = reader.bounds()
        if bounds is None:
            raise _nothing(lake)
        days = _days(bounds, first, last)
        work = _Work(reader, bounds, progress, events_at_once)
        reports = []
        for number, day in enumerate(days, 1):
            made = work.of_day(day)
            held = replace_day(lake, day, made.batches)
            reports.append(DayReport(day.isoformat(), made.sessions, held, made.open, made.events, made.capped))
            progress(f"{day}: {made.sessions:,} sessions, {made.open:,} still open ({number} of {len(days)} days)")
    return SessionsReport(tuple(reports), bounds.newest_append_ms - SESSION_GAP_MS, time.monotonic() - started_s)


def _nothing(lake: Lake) -> NotRetainedError:
    return NotRetainedError(
        f"The lake {lake} holds no events.", hint="Start a worker; it writes them with its first flush."
    )


def _days(bounds: EventBounds, first: date | None, last: date | None) -> list[date]:
    begins, ends = _day_of(bounds.first_event_ms), _day_of(bounds.newest_append_ms)
    if first is None or last is None:
        first, last = max(begins, ends - timedelta(days=1)), ends
    if first < begins or last > ends:
        wrong = f"{first} is before" if first < begins else f"{last} is after"
        raise NotRetainedError(
            f"{wrong} what the lake holds: its events are from {begins} to {ends} (UTC).",
            hint="Choose days between the two.",
        )
    return [first + timedelta(days=number) for number in range((last - first).days + 1)]


class _Day:
    """The closed sessions of a day, as Arrow, and what is told of them."""

    def __init__(self, day: date) -> None:
        self._day = day
        self._rows: list[list[Any]] = []
        self.batches: list[Any] = []
        self.sessions = 0
        self.events = 0
        self.capped = 0
        self.open = 0

    def add(self, session: Session) -> None:
        self._rows.append(_row(session))
        self.sessions += 1
        self.events += session.event_count
        self.capped += session.is_capped
        if len(self._rows) == ROWS_AT_ONCE:
            self.pack()

    def pack(self) -> None:
        """Turn what was added since the last time into Arrow, which takes a tenth of the room."""
        if self._rows:
            self.batches.append(session_batch(self._day, list(zip(*self._rows, strict=True))))
            self._rows.clear()


class _Work:
    """Computes days, some users at a time."""

    def __init__(self, reader: EventReader, bounds: EventBounds, progress: Progress, events_at_once: int) -> None:
        self._reader = reader
        self._bounds = bounds
        self._progress = progress
        self._at_once = events_at_once

    def of_day(self, day: date) -> _Day:
        """Return the closed sessions that began on a day."""
        made, begin_ms = _Day(day), _ms_of(day)
        events = self._reader.count(begin_ms - LOOK_BACK_MS, begin_ms + DAY_MS + HOUR_MS)
        buckets = max(1, math.ceil(events / self._at_once))
        told_s = time.monotonic()
        for bucket in range(buckets):
            for session in self._begun_on(begin_ms, bucket, buckets):
                if self._bounds.newest_append_ms - session.end_ms > SESSION_GAP_MS:
                    made.add(session)
                else:
                    made.open += 1
            if time.monotonic() - told_s > TOLD_EVERY_S:
                told_s = time.monotonic()
                self._progress(f"{day}: {bucket + 1} of {buckets} parts of its users")
        made.pack()
        return made

    def _begun_on(self, begin_ms: int, bucket: int, buckets: int) -> Iterator[Session]:
        """Yield the sessions that began on a day, each with all its events."""
        end_ms = begin_ms + DAY_MS
        until_ms = end_ms + HOUR_MS
        going_on: dict[str, int] | None = None
        while going_on is None or going_on:
            rows = self._reader.rows(begin_ms - LOOK_BACK_MS, until_ms, bucket=bucket, buckets=buckets, users=going_on)
            further: dict[str, int] = {}
            for session in sessions_of(map(SessionEvent._make, rows)):
                wanted_ms = begin_ms if going_on is None else going_on[session.user_id]
                if not wanted_ms <= session.start_ms < end_ms:
                    continue
                if session.end_ms + SESSION_GAP_MS >= until_ms and until_ms <= self._bounds.newest_event_ms:
                    further[session.user_id] = session.start_ms  # what comes next was not read
                else:
                    yield session
            going_on, until_ms = further, until_ms + 2 * (until_ms - begin_ms)


_NAMES: Final = [column.name for column in SESSIONS.columns]


def _row(session: Session) -> list[Any]:
    own = {
        "user_id": session.user_id,
        "start_ms": session.start_ms,
        "end_ms": session.end_ms,
        "duration_s": (session.end_ms - session.start_ms) / 1000,
        "event_count": session.event_count,
        "product_distinct": len(session.products),
        "device": session.device,
        "capped": session.is_capped,
    }
    values = session.sums | own
    return [values[name] for name in _NAMES[:-1]]


def _day_of(instant_ms: int) -> date:
    return datetime.fromtimestamp(instant_ms / 1000, UTC).date()


def _ms_of(day: date) -> int:
    return int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()) * 1000
